"""JSON by a schema: which tokens may come next, by llguidance (of the extra `serve`).

The mask of a text of n tokens is a function of those n tokens alone, so whatever drafts or
verifies them asks the same question.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from river_trt.errors import EngineError, MissingDependencyError, RiverError
from river_trt.text import Tokenizer

if TYPE_CHECKING:
    import llguidance

# As models write JSON on one line. Free white space would let a model go on with it for ever.
LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MOST_COMPILED = 32  # schemas; the one used longest ago makes room


class Grammars:
    """Compiles schemas for one engine's tokenizer. From any thread.

    Raises MissingDependencyError without llguidance, RiverError for a tokenizer that it cannot read
    (it knows those of bytes: GPT-2's kind, and SentencePiece's with a byte fallback).
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise MissingDependencyError(
                "a JSON schema needs llguidance, which is not installed: "
                'pip install "river-trt[serve]"'
            ) from error
        if not eos_token_ids:
            raise RiverError(
                "a JSON schema needs a model with an end-of-sequence token, and this one has none"
            )
        self.vocab_size = vocab_size
        self._library = llguidance
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer.raw.to_str(), n_vocab=vocab_size, eos_token=sorted(eos_token_ids)
            )
        except ValueError as error:
            raise RiverError(
                "json_schema needs a tokenizer of bytes, and llguidance cannot read this model's: "
                f"{error!s:.200}"
            ) from error
        self._compiled = lru_cache(MOST_COMPILED)(self._compile)

    def start(self, schema: str) -> "Grammar":
        """Of a new text. RiverError for a schema that llguidance does not take."""
        return Grammar(self._compiled(schema).deep_copy(), self.vocab_size)

    def _compile(self, schema: str) -> "llguidance.LLMatcher":
        matcher = self._library.LLMatcher
        try:
            grammar = matcher.grammar_from_json_schema(schema, overrides=LAYOUT)
        except ValueError as error:  # nested too deeply
            raise RiverError(f"json_schema cannot be followed: {error!s:.300}") from error
        compiled = matcher(self._tokenizer, grammar, log_level=0)
        compiled.compute_bitmask()  # what is too large for it shows at the first token
        if compiled.is_error():
            raise RiverError(f"json_schema cannot be followed: {_reason(compiled):.300}")
        return compiled


class Grammar:
    """Where one text stands in its schema."""

    def __init__(self, matcher: "llguidance.LLMatcher", vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def push(self, token: int) -> None:
        """The text's next token. EngineError where llguidance has given up."""
        if not self._matcher.consume_token(token):
            raise EngineError(
                f"the text cannot follow its json_schema further: {_reason(self._matcher):.300}"
            )

    def mask(self, drafted: Sequence[int] = ()) -> np.ndarray:
        """bool [vocab]: what may follow the text and the drafted tokens.

        Everything may behind a drafted token that may not stand there, since nobody will ask, and
        where llguidance has given up: `push` tells.
        """
        matcher = self._matcher
        taken = matcher.try_consume_tokens(list(drafted)) if drafted else 0
        if taken < len(drafted):
            mask = np.ones(self._vocab_size, np.bool_)
        else:
            bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        if matcher.is_error():
            return np.ones(self._vocab_size, np.bool_)
        if taken:
            matcher.rollback(taken)
        return mask


def _reason(matcher: "llguidance.LLMatcher") -> str:
    """What it says of its error, without the state that it shows behind."""
    return " ".join(matcher.get_error().split("<state>")[0].split())
