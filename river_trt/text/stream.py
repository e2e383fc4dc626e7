"""A row's tokens become text as they come."""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from river_trt.text.stop import StopStrings
from river_trt.text.tokenizer import Tokenizer


class TextStream:
    """Turns one row's tokens into text as they come.

    A character comes when its last byte is there. Text that may be the beginning of a stop string
    is held back until it is clear; from a stop string on, nothing is emitted.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer.raw
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = StopStrings(stop)
        self._emitted: list[str] = []

    @property
    def text(self) -> str:
        """Everything emitted so far."""
        return "".join(self._emitted)

    @property
    def stopped(self) -> bool:
        return self._stop.found

    def push(self, token_id: int) -> str:
        """Take the next token; returns the text that became certain, often empty."""
        return self._emit(self._stop.push(self._decoder.step(self._tokenizer, token_id) or ""))

    def flush(self) -> str:
        """The held-back text, when no more tokens come; bytes of half a character are dropped."""
        return self._emit(self._stop.flush())

    def _emit(self, text: str) -> str:
        if text:
            self._emitted.append(text)
        return text
