"""What a row's past does to its next logits: penalties, biases, and a grammar's mask."""

from collections.abc import Sequence

import numpy as np

from river_trt.config import GenerationConfig
from river_trt.grammar import Grammar
from river_trt.sampling import NO_EDIT, Edit, Sampling


class Edits:
    """Of one row, which gives it each of its tokens.

    A token's logit x becomes penalised(x) + bias - presence - frequency * count, where the last
    two hold for tokens of the text, not of the prompt; a grammar forbids what cannot come next.
    """

    def __init__(
        self,
        config: GenerationConfig,
        sampling: Sampling,
        prompt: np.ndarray,  # [prompt_tokens] int64
        vocab_size: int,
        grammar: Grammar | None,
    ) -> None:
        self._presence, self._frequency = config.presence_penalty, config.frequency_penalty
        self._bias = dict(config.logit_bias)
        self._grammar = grammar
        self._seen = self._added = None
        self._counts: dict[int, int] = {}
        if sampling.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab_size, np.bool_)
            self._seen[prompt] = True
        if self._presence or self._frequency or self._bias or grammar is not None:
            self._added = np.zeros(vocab_size, np.float32)
            for token, value in self._bias.items():
                self._added[token] = value

    @property
    def is_empty(self) -> bool:
        return self._seen is None and self._added is None

    def push(self, token: int) -> None:
        """The row's next token is there. EngineError as Grammar.push."""
        if self._grammar is not None:
            self._grammar.push(token)
        if self._seen is not None:
            self._seen[token] = True
        if self._added is not None:
            self._counts[token] = self._counts.get(token, 0) + 1
            self._added[token] = self._addend(token, self._counts[token])

    def after(
        self,
        drafted: Sequence[int] = (),  # tokens that may come before it
    ) -> Edit:
        """Of the next logits; its arrays may be this row's own."""
        if self.is_empty:
            return NO_EDIT
        seen, added = self._seen, self._added
        if drafted and seen is not None:
            seen = seen.copy()
            seen[list(drafted)] = True
        if drafted and added is not None:
            added = added.copy()
            counts = dict(self._counts)
            for token in drafted:
                counts[token] = counts.get(token, 0) + 1
                added[token] = self._addend(token, counts[token])
        if added is not None and self._grammar is not None:
            added = np.where(self._grammar.mask(drafted), added, np.float32(-np.inf))
        return Edit(seen, added)

    def _addend(self, token: int, count: int) -> float:
        return self._bias.get(token, 0.0) - self._presence - self._frequency * count
