"""Which row has which row of the cache.

A step runs a contiguous range of cache rows under one exit policy, so rows that may share a step
stand side by side, group after group from cache row 0 on, and the row that is being prefilled
stands behind them:

    cache row   0  1  2 | 3  4 | 5
                a  b  c | d  e | p        groups of equal step_key, then the prefill

Where one row steps alone and `twins` is set, it stands twice, and its step runs as one of two rows:
a matrix product of one row sums in another order than one of several.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from river_trt.backends.base import Session
from river_trt.prefixes import Prefixes
from river_trt.row import Row, StepKey


@dataclass(slots=True)
class Group:
    """Rows that step together. places[i] has cache row first + i; a lone row may have two."""

    key: StepKey
    places: list[Row]
    first: int = 0

    @property
    def rows(self) -> list[Row]:
        return list(dict.fromkeys(self.places))


def cache_rows(max_batch_size: int, twins: bool) -> int:
    """Cache rows for max_batch_size rows in any number of groups."""
    return 2 * max_batch_size if twins else max_batch_size + 1


class CacheRows:
    """Needs one cache row more than it holds rows, with twins twice as many (`cache_rows`)."""

    def __init__(
        self, session: Session, *, twins: bool = False, prefixes: Prefixes | None = None
    ) -> None:
        self._session = session
        self._twins = twins
        self._prefixes = prefixes
        self.groups: list[Group] = []
        self.prefilling: Row | None = None
        self.prefill_place = 0

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self.groups) + (self.prefilling is not None)

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(group.rows for group in self.groups)

    def __contains__(self, row: Row) -> bool:
        return row is self.prefilling or any(row in group.places for group in self.groups)

    def begin(self, row: Row) -> None:
        """Give a row its place for the prefill, with what is known of its prompt's beginning."""
        assert self.prefilling is None
        self.prefilling, self.prefill_place = row, self._end()
        if self._prefixes is not None:
            running = ((other, self._place(other)) for other in self)
            self._prefixes.fill(row, self.prefill_place, running)

    def join(self) -> None:
        """Put the prefilled row into the group that it steps with."""
        row = self.prefilling
        assert row is not None
        self.prefilling = None
        at = next((i for i, g in enumerate(self.groups) if g.key == row.step_key), None)
        if at is None:
            group = Group(row.step_key, [row], self._end())
            self._move(row, self.prefill_place, group.first)
            self.groups.append(group)
            self._double(group)
            return
        group = self.groups[at]
        if len(group.rows) < len(group.places):  # a twin gives up its place
            self._move(row, self.prefill_place, group.first + 1)
            group.places = [*group.rows, row]
            return
        source = self.prefill_place
        if at + 1 < len(self.groups) and source == self._end():
            source += 1  # out of the way of the groups that make room
            self._move(row, self.prefill_place, source)
        for later in reversed(self.groups[at + 1 :]):
            self._move(later.places[0], later.first, later.first + len(later.places))
            later.places.append(later.places.pop(0))
            later.first += 1
        self._move(row, source, group.first + len(group.places))
        group.places.append(row)

    def remove(self, row: Row, *, keep: bool = False) -> None:
        """Close the gap that a row leaves, so that the others do not pay for it.

        keep: its K and V are right, and worth keeping where there is room for it.
        """
        if keep and self._prefixes is not None:
            self._prefixes.keep(row, self._place(row))
        if row is self.prefilling:
            self.prefilling = None
            return
        at = next(i for i, g in enumerate(self.groups) if g.key == row.step_key)
        group = self.groups[at]
        if len(group.rows) == 1:
            del self.groups[at]
            for _ in group.places:
                self._close_up(at)
            return
        last = group.places.pop()
        if last is not row:
            index = group.places.index(row)
            self._move(last, group.first + len(group.places), group.first + index)
            group.places[index] = last
        if not self._double(group):
            self._close_up(at + 1)

    def _place(self, row: Row) -> int:
        if row is self.prefilling:
            return self.prefill_place
        group = next(group for group in self.groups if row in group.places)
        return group.first + group.places.index(row)

    def _double(self, group: Group) -> bool:
        """Let a lone row stand in the free place behind it too."""
        if not self._twins or len(group.places) > 1 or group.places[0].draft is not None:
            return False  # lossless rows step as several tokens instead
        (row,) = group.places
        self._move(row, group.first, group.first + 1)
        group.places.append(row)
        return True

    def _close_up(self, at: int) -> None:
        """Shift the groups from index `at` on by one cache row towards 0."""
        for group in self.groups[at:]:
            end = group.first + len(group.places)
            self._move(group.places[-1], end - 1, group.first - 1)
            group.places.insert(0, group.places.pop())
            group.first -= 1

    def _move(self, row: Row, source: int, target: int) -> None:
        if source != target:
            self._session.move_row(source, target, row.filled)

    def _end(self) -> int:
        return sum(len(group.places) for group in self.groups)
