"""A row's tokens become text as they come."""

from collections.abc import Sequence

from river_trt.text.pieces import Pieces
from river_trt.text.stop import StopStrings
from river_trt.text.tokenizer import Tokenizer


class TextStream:
    """Turns one row's tokens into the text that continues its prompt, as they come.

    Its pieces join to what all ids decode to, less the prompt's text, or to the part of that
    before a stop string. A character comes when its last byte is there. Text that may be the
    beginning of a stop string is held back until it is clear. A special token has no text, but
    ends it where a stop string names it.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), prompt: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._pieces = Pieces(tokenizer, prompt)
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
        token = self._tokenizer.special_token(token_id)
        if token is None:
            return self._emit(self._stop.push(self._pieces.push(token_id)))
        if not any(token in string for string in self._stop.strings):
            return ""
        certain = self._stop.push(token, shown=False)
        if self.stopped:  # bytes that were held stand before the token
            certain += self._pieces.flush()
        return self._emit(certain)

    def flush(self) -> str:
        """The held-back text, when no more tokens come; an unfinished character is a U+FFFD."""
        if self.stopped:
            return ""
        certain = self._stop.push(self._pieces.flush())
        return self._emit(certain + self._stop.flush())

    def _emit(self, text: str) -> str:
        if text:
            self._emitted.append(text)
        return text
