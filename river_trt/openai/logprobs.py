"""Log-probabilities as OpenAI's clients read them: of chats, and of completions."""

import codecs
from collections.abc import Sequence
from typing import Any

from river_trt.results import TokenLogprobs
from river_trt.text import Tokenizer


def chat_logprobs(tokenizer: Tokenizer | None, items: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """`logprobs` of a chat's choice, or of a chunk of it."""
    content = [
        _entry(tokenizer, item.token_id, item.logprob)
        | {"top_logprobs": [_entry(tokenizer, token, logprob) for token, logprob in item.top]}
        for item in items
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """`logprobs` of a completion's choice, part by part."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._offset = 0  # characters so far

    def add(self, items: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """Of the next tokens. A place's best tokens have its own among them."""
        part: dict[str, list[Any]] = {
            name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        for item in items:
            part["tokens"].append(self._name(item.token_id))
            part["token_logprobs"].append(item.logprob)
            part["text_offset"].append(self._offset)
            best: dict[str, float | None] = {}
            for token, logprob in (*item.top, (item.token_id, item.logprob)):
                best.setdefault(self._name(token), logprob)
            part["top_logprobs"].append(None if item.logprob is None else best)
            if self._tokenizer is None or self._tokenizer.has_text(item.token_id):
                text = self._decoder.decode(_bytes(self._tokenizer, item.token_id))
                self._offset += len(text)
        return part

    def _name(self, token: int) -> str:
        """Its text; two parts of characters must not look the same."""
        found = _bytes(self._tokenizer, token)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def _entry(tokenizer: Tokenizer | None, token: int, logprob: float | None) -> dict[str, Any]:
    found = _bytes(tokenizer, token)
    return {"token": found.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(found)}


def _bytes(tokenizer: Tokenizer | None, token: int) -> bytes:
    return f"token_id:{token}".encode() if tokenizer is None else tokenizer.token_bytes(token)
