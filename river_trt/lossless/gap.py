"""How likely the backbone chooses a greedily drafted token: from its lead over the runner-up."""

import math
from dataclasses import dataclass

LEARNING_RATE = 0.05
MOST_SURPRISE = 5.0  # one token may not turn everything round
FAR = 4.0  # deviations from where on a rejection surprises more than that


@dataclass(slots=True)
class GapAcceptance:
    """River and backbone differ by noise, so a lead of `gap` logits survives with the probability
    that normal noise of the standard deviation `spread` stays below it.

    The spread is learned from what verifications find, of all greedy rows of an engine.
    """

    spread: float = 0.7  # logits

    def acceptance(self, gap: float) -> float:
        return 0.5 * (1 + math.erf(gap / self.spread / math.sqrt(2)))

    def observe(self, gap: float, accepted: bool) -> None:
        """A step along the gradient of the outcome's log-likelihood in log(spread)."""
        z = gap / self.spread
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        likely = self.acceptance(gap)
        if accepted:
            slope = -z * density / likely
        elif z > FAR:
            slope = MOST_SURPRISE
        else:
            slope = min(z * density / (1 - likely), MOST_SURPRISE)
        self.spread *= math.exp(LEARNING_RATE * slope)
