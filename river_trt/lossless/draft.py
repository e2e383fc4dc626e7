"""What a row in lossless mode has drafted, and how that went so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from river_trt.lossless.gap import GapAcceptance
from river_trt.lossless.length import DraftLength
from river_trt.lossless.repeats import Repeats
from river_trt.results import Speculation
from river_trt.sampling import Distribution
from river_trt.spec import ExitPolicy


@dataclass(slots=True, eq=False)
class Draft:
    """Of one row. The drafted tokens' K and V lie behind the row's own in its cache row."""

    policy: ExitPolicy  # of the draft steps
    length: DraftLength
    gap_acceptance: GapAcceptance | None  # of greedy rows; the engine's
    adapts: bool  # to the rows beside it; not where a seed must fix the text
    repeats: Repeats | None = None  # of greedy rows
    repeated: bool = False  # this round's draft is the text's own, not the river's
    alone: bool = True  # the length of this round is this row's own
    wanted: int | None = None  # tokens to draft in this round; None: no round has begun
    waited: bool = False  # complete, for a step of the others
    token_ids: list[int] = field(default_factory=list)
    # What each was drawn from; None where the session keeps it.
    distributions: list[Distribution | None] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # of each greedy one, to the runner-up
    reached: float = 1.0  # the probability that all of them are accepted
    drafted: list[int] = field(default_factory=list)  # of each round
    accepted: list[int] = field(default_factory=list)
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        assert self.wanted is not None
        return len(self.token_ids) >= self.wanted

    def read(
        self,
        prompt: np.ndarray,  # [prompt_tokens] int64
        token_ids: Sequence[int],
    ) -> None:
        """Take in the row's text so far, what is new of it."""
        if self.repeats is None:
            return
        if self.repeats.known == 0:
            self.repeats.add(prompt.tolist())
        self.repeats.add(token_ids[self.repeats.known - len(prompt) :])

    def begin(self, room: int, shared: int | None) -> None:
        """Start a round that may draft so many tokens.

        shared: what the rows of the group draft together; None lets this row decide alone.
        """
        self.alone = shared is None
        self.wanted = (
            self.length.most(room) if shared is None else min(shared, room, self.length.limit)
        )
        self.waited = False
        self.reached = 1.0
        self.repeated = False
        if self.repeats is not None:
            tokens = self.repeats.draft(room, self.length.speedup(room))
            if tokens:
                self.repeated = True
                self.token_ids += tokens
                self.distributions += [Distribution(np.array([t]), np.ones(1)) for t in tokens]
                self.wanted = len(tokens)

    def add(self, token: int, distribution: Distribution | None, gap: float | None) -> None:
        """Take a drafted token; where more are not worth their time, the draft is complete.

        Only what was known before the token was drawn may end a draft behind it, so a sampled
        row's draft ends where its past says: else the text would not be the backbone's.
        """
        self.token_ids.append(token)
        self.distributions.append(distribution)
        if gap is None or self.gap_acceptance is None:
            self.reached *= self.length.acceptance
        else:
            self.gaps.append(gap)
            self.reached *= self.gap_acceptance.acceptance(gap)
        if self.alone and not self.length.goes_on(self.reached):
            self.wanted = len(self.token_ids)

    def end(self, accepted: int, rejected: bool) -> None:
        """The round is verified: its slots hold the backbone's K and V now.

        rejected: the token behind the accepted ones was; else there was none, or the text ended.
        """
        if self.repeated:
            assert self.repeats is not None
            self.repeats.length.observe(True, accepted, rejected)
        else:
            self.length.observe(bool(self.token_ids), accepted, rejected)
            if self.repeats is not None:
                self.repeats.length.observe(False, 0, False)
        for index, gap in enumerate(self.gaps[: accepted + rejected]):
            assert self.gap_acceptance is not None
            self.gap_acceptance.observe(gap, index < accepted)
        self.drafted.append(len(self.token_ids))
        self.accepted.append(accepted)
        self.wanted = None
        self.token_ids.clear()
        self.distributions.clear()
        self.gaps.clear()

    def speculation(self) -> Speculation:
        """What a result tells of it."""
        return Speculation(
            np.array(self.drafted, np.int32),
            np.array(self.accepted, np.int32),
            self.draft_seconds,
            self.verify_seconds,
        )
