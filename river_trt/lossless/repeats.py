"""Drafts from the text itself: what followed the last tokens the last time that they came.

They cost no step of the river, and are verified as its drafts are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from river_trt.lossless.length import FURTHER_TOKEN, DraftLength, best_length

LEAST_REPEATED = 3  # tokens; fewer come again by chance


@dataclass(slots=True, eq=False)
class Repeats:
    """Of one row, whose tokens it is given as they come."""

    length: DraftLength  # of drafts that cost nothing
    _tokens: list[int] = field(default_factory=list)
    _places: dict[tuple[int, ...], int] = field(default_factory=dict)  # behind the last tokens

    @classmethod
    def up_to(cls, limit: int) -> "Repeats":
        """Drafts of so many tokens at most."""
        return cls(DraftLength(0.0, limit))

    def add(self, tokens: Iterable[int]) -> None:
        """More of the row's text, from its prompt on."""
        for token in tokens:
            # The last tokens become findable when something follows them.
            if len(self._tokens) >= LEAST_REPEATED:
                self._places[tuple(self._tokens[-LEAST_REPEATED:])] = len(self._tokens)
            self._tokens.append(token)

    @property
    def known(self) -> int:
        """Tokens that were given."""
        return len(self._tokens)

    def draft(
        self,
        room: int,  # tokens that may be drafted
        speedup: float,  # over full depth, of a draft by the river
    ) -> list[int]:
        """What probably follows; nothing where there is no repeat, or a river's draft pays more."""
        begin = self._places.get(tuple(self._tokens[-LEAST_REPEATED:]))
        if begin is None:
            return []
        length, gain = best_length(
            [self.length.acceptance], FURTHER_TOKEN, min(room, self.length.limit)
        )
        if gain < speedup:
            return []
        # A period shorter than the draft goes on in the draft itself.
        period = len(self._tokens) - begin
        return [self._tokens[begin + index % period] for index in range(length)]
