"""Where a text stops: strings that end it, found as its characters come."""

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """Looks for stop strings in a text that comes in pieces; one look at each character.

    The first string to be complete ends the text, and of those complete at once the longest, so
    it does not matter how the text is cut into pieces. Text that may be the beginning of a stop
    string is held back until it is clear.

    All strings are one automaton (Aho and Corasick 1975). Its state is the longest end of the
    text that begins a stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.strings = tuple(stop)
        self.found = False
        self._next: list[dict[str, int]] = [{}]  # of each state
        self._depth = [0]  # characters of it
        self._ends = [0]  # length of the longest stop string that it ends with, or 0
        for string in self.strings:
            self._add(string)
        self._fallback = self._make_fallback()
        self._state = 0
        self._held: list[str] = []  # a character each, "" for one that is not shown

    def push(self, text: str, shown: bool = True) -> str:
        """Take the next piece; returns what became certain. Nothing comes after a stop string.

        A piece that is not shown is looked at, but never returned.
        """
        assert not self.found
        if not self.strings:
            return text if shown else ""
        for character in text:
            self._held.append(character if shown else "")
            self._state = self._step(self._state, character)
            if length := self._ends[self._state]:
                self.found = True
                return self._release(len(self._held) - length)
        return self._release(len(self._held) - self._depth[self._state])

    def flush(self) -> str:
        """The held-back text, when no more comes."""
        return "" if self.found else self._release(len(self._held))

    def _release(self, length: int) -> str:
        certain = "".join(self._held[:length])
        del self._held[:length]
        return certain

    def _add(self, string: str) -> None:
        state = 0
        for character in string:
            after = self._next[state].get(character)
            if after is None:
                after = self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._ends.append(0)
            state = after
        self._ends[state] = len(string)

    def _make_fallback(self) -> list[int]:
        """For each state the next shorter end of the text that begins a stop string."""
        self._fallback = [0] * len(self._next)
        states = deque(self._next[0].values())
        while states:  # shorter ones first: a state falls back to one of those
            state = states.popleft()
            for character, after in self._next[state].items():
                self._fallback[after] = self._step(self._fallback[state], character)
                self._ends[after] = self._ends[after] or self._ends[self._fallback[after]]
                states.append(after)
        return self._fallback

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(character, 0)
