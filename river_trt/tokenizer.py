"""Text to token ids and back: prompts, chats, and text that streams without broken characters."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers.decoders import DecodeStream

from river_trt.errors import EngineError, RiverError
from river_trt.manifest import REBUILD, Manifest

TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"


class Tokenizer:
    """A tokenizer.json with its chat template, if there is one."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        chat_template: str | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> None:
        # The file may carry a training-time setting that would cut or fill prompts unseen.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.raw = tokenizer
        self._special = {
            name: tokenizer.id_to_token(token_id)
            for name, token_id in (("bos_token", bos_token_id), ("eos_token", eos_token_id))
            if token_id is not None
        }
        self._template = None if chat_template is None else _compile(chat_template)

    @classmethod
    def from_engine_dir(cls, directory: Path, manifest: Manifest) -> "Tokenizer | None":
        """The engine's tokenizer; None when it takes token ids only."""
        model = manifest.model
        if not model.has_tokenizer:
            return None
        if TOKENIZER_FILE not in manifest.files:
            raise EngineError(f"manifest.json: files does not list {TOKENIZER_FILE}; {REBUILD}")
        template = None
        if CHAT_TEMPLATE_FILE in manifest.files:
            template = (directory / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
        try:
            raw = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        except Exception as error:  # the library raises Exception itself
            raise EngineError(f"{TOKENIZER_FILE} cannot be read ({error}); {REBUILD}") from error
        eos = model.eos_token_ids[0] if model.eos_token_ids else None
        return cls(raw, template, model.bos_token_id, eos)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self.raw.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self.raw.decode(list(token_ids), skip_special_tokens=True)
        return text

    def chat_prompt(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of the messages, ready for the assistant's turn.

        Raises RiverError without a chat template, or when the template refuses the messages.
        """
        # The template writes its own special tokens.
        return self.encode(self.chat_text(messages), add_special_tokens=False)

    def chat_text(
        self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The text that the chat template makes of the messages; errors as chat_prompt."""
        if self._template is None:
            raise RiverError("the model has no chat template; give the prompt as plain text")
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                **self._special,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise RiverError(f"the chat template refuses these messages: {error}") from error


class TextStream:
    """Turns one row's tokens into text as they come.

    A character comes when its last byte is there. Text that may be the beginning of a stop string
    is held back until it is clear; from a stop string on, nothing is emitted.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer.raw
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._held = ""
        self._emitted: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """Everything emitted so far."""
        return "".join(self._emitted)

    def push(self, token_id: int) -> str:
        """Take the next token; returns the text that became certain, often empty."""
        assert not self.stopped
        self._held += self._decoder.step(self._tokenizer, token_id) or ""
        found = [at for at in map(self._held.find, self._stop) if at >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return self._emit(certain)
        length = len(self._held) - self._possible_stop()
        certain, self._held = self._held[:length], self._held[length:]
        return self._emit(certain)

    def flush(self) -> str:
        """The held-back text, when no more tokens come; bytes of half a character are dropped."""
        held, self._held = self._held, ""
        return self._emit(held)

    def _emit(self, text: str) -> str:
        if text:
            self._emitted.append(text)
        return text

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest


def _compile(chat_template: str) -> jinja2.Template:
    """Compile as transformers does, in a sandbox: a template comes with the model."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(chat_template)
    except jinja2.TemplateError as error:
        raise EngineError(f"{CHAT_TEMPLATE_FILE} is no valid template ({error})") from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
