"""What a row in lossless mode has drafted, and how that went so far."""

from dataclasses import dataclass, field

import numpy as np

from river_trt.lossless.length import DraftLength
from river_trt.results import Speculation
from river_trt.sampling import Distribution
from river_trt.spec import ExitPolicy


@dataclass(slots=True, eq=False)
class Draft:
    """Of one row. The drafted tokens' K and V lie behind the row's own in its cache row."""

    policy: ExitPolicy  # of the draft steps
    length: DraftLength
    wanted: int | None = None  # tokens to draft in this round; None: no round has begun
    waited: bool = False  # complete, and verified at the next step at the latest
    token_ids: list[int] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)  # what each was drawn from
    drafted: list[int] = field(default_factory=list)  # of each round
    accepted: list[int] = field(default_factory=list)
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        assert self.wanted is not None
        return len(self.token_ids) >= self.wanted

    def begin(self, room: int) -> None:
        """Start a round that may draft so many tokens."""
        self.wanted = self.length.next(room)
        self.waited = False

    def end(self, accepted: int) -> None:
        """The round is verified: its slots hold the backbone's K and V now."""
        self.length.observe(len(self.token_ids), accepted)
        self.drafted.append(len(self.token_ids))
        self.accepted.append(accepted)
        self.wanted = None
        self.token_ids.clear()
        self.distributions.clear()

    def speculation(self) -> Speculation:
        return Speculation(
            np.array(self.drafted, np.int32),
            np.array(self.accepted, np.int32),
            self.draft_seconds,
            self.verify_seconds,
        )
