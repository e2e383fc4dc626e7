"""The search: rank layers, try pins and gates, keep what loses least within the budget.

layers by sensitivity --> sets of pins --> what leaving costs each token --> gates
                                                                              |
budget in layers --> candidates by their promise --> the best few, measured --+
budget in quality: bisect over layers
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from builders.calibration.budget import Budget
from builders.calibration.candidates import (
    Candidate,
    PinnedCost,
    candidates_within,
    make_gates,
    most_sensitive,
    static_mask,
)
from builders.calibration.material import (
    GateInputs,
    Split,
    gate_layers,
    mean_agreement,
    mean_kl,
    renamed,
    sensitivity,
)
from builders.evaluation.policies import pinned_only
from builders.evaluation.scores import PieceScores, score
from builders.evaluation.subject import Subject
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy, backbone_layers

RANKING_PIECES = 4  # of the fit part: ranking needs less text than fitting
PIN_SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # of a budget of layers
MODEL_SHARES = (0.07, 0.13, 0.2, 0.3, 0.45, 0.6)  # of the model's layers, for a budget of quality
MEASURED = 3  # candidates of a budget that are run, the static mask aside
BISECTIONS = 5  # for a budget of quality: to a thirtieth of the layers


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A candidate on the choose part."""

    policy: ExitPolicy
    description: str
    kl: float
    agreement: float
    backbone_layers: float


class Search:
    """Calibrated policies of one subject; what they share is measured once, when made."""

    def __init__(
        self,
        subject: Subject,
        split: Split,
        pin_counts: Sequence[int],  # sizes of the sets of pinned layers, layer 1 included
        skip: int,
        progress: Progress,
    ) -> None:
        self._subject, self._split = subject, split
        self._skip, self._progress = skip, progress
        layers = subject.num_layers
        self.sensitivity = sensitivity(subject, split.fit[:RANKING_PIECES], skip, progress)
        gates = gate_layers(layers)
        fit, choose = (
            GateInputs.read(subject, part, gates, skip, progress)
            for part in (split.fit, split.choose)
        )
        masks = [most_sensitive(self.sensitivity, count) for count in pin_counts]
        # One set of pins is enough to fit to: which tokens are dear hardly depends on the pins.
        (fit_scores,) = self._score(split.fit, [pinned_only(masks[len(masks) // 3])], "costs")
        folds = [np.full(len(piece.kl), n % 2) for n, piece in enumerate(fit_scores)]
        cost = np.concatenate([piece.kl for piece in fit_scores])
        self._gates = make_gates(fit, choose, cost, np.concatenate(folds))
        found = self._score(split.choose, [pinned_only(mask) for mask in masks], "pinned layers")
        self._pins = [
            PinnedCost(mask, np.concatenate([piece.kl for piece in scores]))
            for mask, scores in zip(masks, found, strict=True)
        ]

    def at(self, layers: float) -> Measured:
        """The best policy of this many backbone layers: the least KL on the choose part."""
        if layers >= self._subject.num_layers:
            full_depth = ExitPolicy.full_depth(self._subject.num_layers)
            return self._measure([Candidate(full_depth, full_depth, 0.0, None)])[0]
        gated = candidates_within(layers, self._pins, self._gates)[:MEASURED]
        found = self._measure([static_mask(self.sensitivity, int(layers)), *gated])
        return min(found, key=lambda measured: measured.kl)

    def _measure(self, candidates: Sequence[Candidate]) -> list[Measured]:
        policies = [candidate.policy for candidate in candidates]
        return [
            measured(candidate.final, candidate.describe(), scores)
            for candidate, scores in zip(
                candidates, self._score(self._split.choose, policies, "candidates"), strict=True
            )
        ]

    def _score(
        self, pieces: Sequence[np.ndarray], policies: Sequence[ExitPolicy], stage: str
    ) -> list[list[PieceScores]]:
        return score(self._subject, pieces, policies, self._skip, renamed(self._progress, stage))


def pin_counts(budget: Budget, num_layers: int) -> list[int]:
    """Sizes of the sets of pinned layers that a search for this budget tries."""
    if budget.kind == "target-layers":
        counts = {round(share * budget.value) for share in PIN_SHARES}
    else:
        counts = {round(share * num_layers) for share in MODEL_SHARES}
    return sorted({max(1, count) for count in counts})


def measured(policy: ExitPolicy, description: str, scores: Sequence[PieceScores]) -> Measured:
    exits = np.concatenate([piece.exit_layer for piece in scores])
    depth = float(backbone_layers(exits, policy.pinned).mean())
    return Measured(policy, description, mean_kl(scores), mean_agreement(scores), depth)


def within_budget(at: Callable[[float], Measured], budget: Budget, num_layers: int) -> Measured:
    """`at` the budget's layers, or at the fewest layers whose quality meets it."""
    if budget.kind == "target-layers":
        return at(budget.value)
    low, high = 1.0, float(num_layers)
    best = at(high)  # the backbone meets every budget that `check` lets pass
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = at(middle)
        if budget.met_by(found.kl, found.agreement):
            best, high = found, middle
        else:
            low = middle
    return best
