"""Where a text stops: strings that end it, found as its characters come."""

from collections.abc import Sequence


class StopStrings:
    """Looks for stop strings in a text that comes in pieces.

    Text that may be the beginning of a stop string is held back until it is clear.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece; returns what became certain. Nothing comes after a stop string."""
        assert not self.found
        self._held += text
        places = [at for at in map(self._held.find, self._stop) if at >= 0]
        if places:
            self.found = True
            certain, self._held = self._held[: min(places)], ""
            return certain
        length = len(self._held) - self._possible_stop()
        certain, self._held = self._held[:length], self._held[length:]
        return certain

    def flush(self) -> str:
        """The held-back text, when no more comes."""
        held, self._held = self._held, ""
        return held

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
