"""From what a caller gives to token ids that the engine takes."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from river_trt.errors import PromptError, RiverError
from river_trt.text import Chat, Tokenizer

Prompt = str | Chat | Sequence[int] | np.ndarray
# A token may stand for more than its own characters where a tokenizer folds or drops some.
LEAST_TOKEN_CHARACTERS = 16


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several: a string or a flat list of ids is one. RiverError for none."""
    if isinstance(prompts, str | Chat):
        return [prompts]
    if not isinstance(prompts, Sequence | np.ndarray):
        raise RiverError(f"prompts are strings or lists of token ids, got {prompts!r:.60}")
    items = list(prompts)
    if not items:
        raise RiverError("the prompt is empty; give at least one token")
    if isinstance(items[0], Integral):
        return [items]
    return items


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Prompts of one engine, which it checks before anything runs."""

    vocab_size: int
    max_seq_len: int  # cache slots of a row
    tokenizer: Tokenizer | None = None

    def read(self, prompt: Prompt) -> np.ndarray:
        """The prompt as int64 [prompt_tokens]; PromptError for one that the engine cannot take."""
        if isinstance(prompt, str):
            if not prompt:
                raise PromptError("the prompt is empty; give at least one character")
            if self.tokenizer is None:
                raise PromptError(
                    "this engine has no tokenizer and takes token ids only; "
                    "give lists of ids in place of strings"
                )
            self.check_length(prompt)
            prompt = self.tokenizer.encode(prompt)
        elif isinstance(prompt, Chat):
            if self.tokenizer is None:
                raise PromptError("a chat needs a tokenizer, and this engine takes token ids only")
            text = self.tokenizer.chat_text(prompt.messages, prompt.options)
            self.check_length(text)
            prompt = self.tokenizer.encode(text, add_special_tokens=False)  # the template's own
        elif isinstance(prompt, Sized) and len(prompt) > self.max_seq_len:
            raise self._too_long(len(prompt))
        try:
            ids = np.asarray(prompt)
        except (ValueError, TypeError, OverflowError):  # a ragged list, objects of any kind
            ids = np.zeros((1, 1))
        if ids.size == 0:
            raise PromptError("the prompt is empty; give at least one token")
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise PromptError(f"a prompt is a string or a list of token ids, got {prompt!r:.60}")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            bad = ids[(ids < 0) | (ids >= self.vocab_size)][0]
            raise PromptError(f"token id {bad} is outside the vocabulary 0..{self.vocab_size - 1}")
        if len(ids) > self.max_seq_len:
            raise self._too_long(len(ids))
        return ids.astype(np.int64)

    def check_length(self, text: str) -> None:
        """PromptError for a text that cannot fit; tokenising megabytes would take seconds."""
        assert self.tokenizer is not None
        longest = max(self.tokenizer.longest_token, LEAST_TOKEN_CHARACTERS)
        most = self.max_seq_len * longest
        if len(text) > most:
            raise PromptError(
                f"the prompt has {len(text)} characters, and one of more than {most} is not "
                f"tokenised: the cache has {self.max_seq_len} slots, and no token is longer than "
                f"{longest} characters"
            )

    def _too_long(self, tokens: int) -> PromptError:
        return PromptError(
            f"the prompt has {tokens} tokens but the cache has {self.max_seq_len} slots; "
            "shorten it, or load the engine with a larger max_seq_len"
        )
