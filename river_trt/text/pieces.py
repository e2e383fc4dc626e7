"""Text of a growing sequence of tokens, piece by piece.

    prompt's ids  | new ids ...
    ....[context..|.......]      window: the ids that are decoded at each step
         shown     emitted |held

The pieces join to what `decode` makes of all ids, less what it makes of the prompt's: a decoder may
turn a token into other text at the beginning of a text than within it (it drops the first space),
so new ids are decoded behind some of those before them.
"""

from collections.abc import Sequence
from itertools import takewhile

from river_trt.text.tokenizer import BYTE, Tokenizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # what decoders write for bytes that are no character
# A character has up to 4 bytes and a token at least one: with 4 tokens before its end a text's last
# character can be told from bytes that are none. One more, for decoders that treat a text's first
# token in their own way.
CONTEXT = 5
LONGEST = 16  # ids of a window; then it is cut down to its context


class Pieces:
    """push() takes one id and returns the text that became certain with it.

    Bytes are held until they are characters or cannot be: half a character, and a run of tokens
    that stand for single bytes, whose text is decided by the last of them. Never raises.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        context, run = self._tail(prompt)
        self._window = context + run
        _, self._emitted = self._decode(context)  # characters of the window's text
        # What the prompt's text shows of characters that new ids may complete.
        self._shown = tokenizer.decode(self._window)[self._emitted :]

    def push(self, token_id: int) -> str:
        if not self._tokenizer.has_text(token_id):
            return ""
        self._window.append(token_id)
        if self._is_byte(token_id):
            return ""
        text, certain = self._decode(self._window)
        piece = self._take(text, certain)
        if len(self._window) > LONGEST:
            self._window = self._window[-CONTEXT:]
            _, self._emitted = self._decode(self._window)
        return piece

    def flush(self) -> str:
        """What is held, when no more ids come."""
        text = self._tokenizer.decode(self._window)
        return self._take(text, len(text))

    def _take(self, text: str, certain: int) -> str:
        piece = text[self._emitted : certain]
        self._emitted = max(certain, self._emitted)
        if piece and self._shown:
            pairs = zip(piece, self._shown, strict=False)
            piece = piece[sum(1 for _ in takewhile(_are_equal, pairs)) :]
            self._shown = ""
        return piece

    def _decode(self, ids: Sequence[int]) -> tuple[str, int]:
        """The text, and how much of it no further token can change.

        However many bytes of a character are missing, they are one UNKNOWN at the end.
        """
        text = self._tokenizer.decode(ids)
        return text, len(text) - text.endswith(UNKNOWN)

    def _tail(self, prompt: Sequence[int]) -> tuple[list[int], list[int]]:
        """The last ids of the prompt that have text, and a run of bytes after them."""
        context: list[int] = []
        run: list[int] = []
        for token_id in map(int, reversed(prompt)):
            if not self._tokenizer.has_text(token_id):
                continue
            in_run = not context and self._is_byte(token_id)
            (run if in_run else context).append(token_id)
            if len(context) == CONTEXT:
                break
        return context[::-1], run[::-1]

    def _is_byte(self, token_id: int) -> bool:
        if not self._tokenizer.has_byte_tokens:
            return False
        return BYTE.fullmatch(self._tokenizer.raw.id_to_token(token_id) or "") is not None


def _are_equal(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]
