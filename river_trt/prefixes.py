"""Cache rows of requests that are done, for prompts that begin as they did.

K and V of a token depend on the tokens before it and on the banks that ran for it and for them. So
a row's slots are good for every request up to the first one that a River step wrote: those of a
prefill on the backbone, and all of the modes "full" and "lossless", whose verifications write over
what was drafted. Behind that slot K and V are those of the row's own policy.

    cache row   0 ..          running rows, see cache_rows.py
                n             kept: longest unused
                n + 1         kept
                n + 2         kept: last used
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from river_trt.backends.base import Session
from river_trt.row import Row

LEAST_REUSED = 16  # tokens; fewer are read again as fast


@dataclass(slots=True, eq=False)
class Filled:
    """A cache row and what it holds."""

    place: int
    token_ids: np.ndarray  # [slots] int64
    backbone: int  # slots before the first that a River step wrote
    policy: object  # of what wrote the others: Row.policy_key

    @classmethod
    def of(cls, row: Row, place: int) -> "Filled":
        """Of a row that runs or is done."""
        slots = row.past_length
        text = row.token_ids[: max(0, slots - len(row.prompt))]
        token_ids = np.concatenate([row.prompt[:slots], np.array(text, np.int64)])
        return cls(place, token_ids, min(slots, row.backbone_slots), row.policy_key)

    def common(
        self,
        token_ids: np.ndarray,  # [n] int64
    ) -> int:
        """Tokens that both begin with."""
        length = min(len(self.token_ids), len(token_ids))
        different = np.flatnonzero(self.token_ids[:length] != token_ids[:length])
        return int(different[0]) if len(different) else length


class Prefixes:
    """Keeps the last rows of a session that were done, at most `places` of them.

    reuses_river: K and V that River steps wrote are reused too, by requests of the same policy: a
    text may then differ from the one that a prefill of the whole prompt leads to.
    """

    def __init__(self, session: Session, first: int, places: int, *, reuses_river: bool) -> None:
        """first: the cache row of the first place."""
        self._session = session
        self._reuses_river = reuses_river
        self._free = list(range(first, first + places))
        self._kept: list[Filled] = []  # the one unused longest comes first

    def fill(self, row: Row, place: int, running: Iterable[tuple[Row, int]]) -> None:
        """Put into the row's place what is known of its prompt's beginning.

        running: other rows that may begin as it does, with their places.
        """
        if not _may_share(row):
            return
        others = [Filled.of(other, at) for other, at in running if _may_share(other)]
        best, most = None, LEAST_REUSED - 1
        for filled in [*self._kept, *others]:
            # The last token is always read again: its logits are wanted.
            usable = min(filled.common(row.prompt), len(row.prompt) - 1)
            if not (self._reuses_river and filled.policy == row.policy_key):
                usable = min(usable, filled.backbone)
            if usable > most:
                best, most = filled, usable
        if best is None:
            return
        self._session.move_row(best.place, place, most)
        row.past_length = row.reused_tokens = most
        if most > best.backbone:  # all that follows is read behind the river's
            row.backbone_slots = best.backbone
        if best in self._kept:
            self._kept.remove(best)
            self._kept.append(best)

    def keep(self, row: Row, place: int) -> None:
        """Copy a row that is done out of its place."""
        if not self._kept and not self._free:
            return
        done = Filled.of(row, place)
        if not _may_share(row) or len(done.token_ids) < LEAST_REUSED:
            return
        for kept in self._kept:
            common = kept.common(done.token_ids)
            if common == len(done.token_ids) and kept.backbone >= done.backbone:
                return  # it says no more
            if common == len(kept.token_ids) and kept.backbone <= done.backbone:
                self._kept.remove(kept)  # it goes on from there
                self._free.append(kept.place)
                break
        to = self._free.pop() if self._free else self._kept.pop(0).place
        self._session.move_row(place, to, len(done.token_ids))
        done.place = to
        self._kept.append(done)


def _may_share(row: Row) -> bool:
    """Its slots hold what every request with its beginning and policy would write."""
    config = row.config
    return (
        config.prefill == "off" and config.gate_scope == "token" and config.prompt_logprobs is None
    )
