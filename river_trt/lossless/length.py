"""How many tokens to draft: from what drafts cost and how many of them were accepted."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from river_trt.manifest import ByteCounts
from river_trt.results import Speculation

# A step reads the weights once for all its tokens; this is what each further one adds, in
# full-depth steps of one token.
FURTHER_TOKEN = 0.07
LEAST_PROMISE = 1.1  # of a speed-up that is worth drafting for: real costs lie above these
PRIOR_ACCEPTANCE = 0.8  # before anything was seen
PRIOR_WEIGHT = 5.0  # tokens that count as seen with it
# What a round leaves of the counts before it, because a text changes on its way; and a round that
# drafts nothing, so that drafting is tried again after a while.
MEMORY, IDLE_MEMORY = 0.95, 0.985


@dataclass(slots=True)
class DraftLength:
    """Of one row, from its own past.

    step_cost: of a draft step, in full-depth steps. limit: tokens of a draft at most.
    """

    step_cost: float
    limit: int
    _tested: float = field(default=0.0, init=False)
    _accepted: float = field(default=0.0, init=False)

    @property
    def acceptance(self) -> float:
        """Expected share of tokens accepted whose predecessors were."""
        accepted = self._accepted + PRIOR_WEIGHT * PRIOR_ACCEPTANCE
        return accepted / (self._tested + PRIOR_WEIGHT)

    def most(
        self,
        room: int,  # tokens that may be drafted at most, for the cache's or the text's end
    ) -> int:
        """Tokens of the next draft of a row alone, if `goes_on` ends it no sooner.

        0 where drafting does not pay.
        """
        limit = min(room, self.limit)
        return limit if best_length([self.acceptance], token_cost(self.step_cost), limit)[0] else 0

    def speedup(self, room: int) -> float:
        """Expected of the next draft of a row alone, over full depth; 1 where none pays."""
        limit = min(room, self.limit)
        return best_length([self.acceptance], token_cost(self.step_cost), limit)[1]

    def goes_on(
        self,
        reached: float,  # the probability that all tokens of the draft so far are accepted
    ) -> bool:
        """Whether one more token of a row alone brings more than the time it takes is worth."""
        cost = token_cost(self.step_cost)
        speedup = best_length([self.acceptance], cost, self.limit)[1]
        return reached * self.acceptance > speedup * cost

    def observe(self, drafted: bool, accepted: int, rejected: bool) -> None:
        """Take in how a round went; of a rejected token's successors nothing is known."""
        memory = MEMORY if drafted else IDLE_MEMORY
        self._tested = memory * self._tested + accepted + rejected
        self._accepted = memory * self._accepted + accepted


def shared_length(lengths: Sequence[DraftLength], rows: int) -> int:
    """Tokens that rows of one draft policy draft together: a step for one is a step for all.

    rows: of the step; all of them make it dearer.
    """
    cost = token_cost(lengths[0].step_cost, rows)
    limit = max(length.limit for length in lengths)
    return best_length([length.acceptance for length in lengths], cost, limit)[0]


def token_cost(step_cost: float, rows: int = 1) -> float:
    """Of drafting and verifying one more token of each of the rows, in full-depth steps of theirs.

    step_cost: as in DraftLength.
    """
    others = FURTHER_TOKEN * (rows - 1)
    return (step_cost + others + FURTHER_TOKEN * rows) / (1 + others)


def best_length(acceptances: Sequence[float], cost: float, limit: int) -> tuple[int, float]:
    """The length with the most tokens for the time, and its speed-up over full depth.

    The length is 0 where the speed-up stays below LEAST_PROMISE.
    acceptances: of each row, of a token whose predecessors were accepted. cost: `token_cost`.
    """
    best, best_rate = 0, 1.0
    expected, reached = 1.0, [1.0] * len(acceptances)
    for length in range(1, limit + 1):
        reached = [r * a for r, a in zip(reached, acceptances, strict=True)]
        expected += sum(reached) / len(reached)
        rate = expected / (1 + length * cost)
        if rate > best_rate:
            best, best_rate = length, rate
    return (best, best_rate) if best_rate >= LEAST_PROMISE else (0, 1.0)


def step_cost(counts: ByteCounts, pinned_layers: int, num_layers: int) -> float:
    """Of a draft step with that many backbone layers, in full-depth steps, by bytes read."""
    full_depth = counts.per_token(num_layers, num_layers)
    return counts.per_token(pinned_layers, num_layers, left=1.0) / full_depth


def estimate_speedup(speculation: Speculation) -> float:
    """Over full depth, whose step takes what FURTHER_TOKEN leaves of a verification."""
    rounds = len(speculation.drafted)
    seconds = speculation.draft_seconds + speculation.verify_seconds
    if not rounds or not seconds:
        return 1.0
    full_steps = rounds + FURTHER_TOKEN * float(speculation.drafted.sum())
    step_seconds = speculation.verify_seconds / full_steps
    return speculation.tokens_per_round * rounds * step_seconds / seconds
