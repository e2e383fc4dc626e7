"""Candidate policies: pinned layers, and one layer where each token leaves or stays for good."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from builders.calibration.directions import DirectionFit, cosine
from builders.calibration.material import GateInputs, pinned_only
from river_trt.spec import ExitPolicy, GateKind

MIN_STAY = 0.02  # a smaller share of staying tokens is no gate worth having


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A policy and what it promises; a `gate_layer` of None is a static mask."""

    policy: ExitPolicy
    backbone_layers: float  # mean, on the text it was made from
    predicted_kl: float  # if the tokens that stay had no error left
    gate_layer: int | None

    def describe(self) -> str:
        pins = int(self.policy.pinned[1:].sum())
        if self.gate_layer is None:
            return f"{pins} pinned, no gate"
        return f"{pins} pinned, {self.policy.gate} gate at layer {self.gate_layer}"


@dataclass(frozen=True, slots=True, eq=False)
class PinnedScores:
    """What a set of pinned layers alone costs each token of both parts."""

    pinned: np.ndarray  # bool [L]
    fit_kl: np.ndarray  # [positions]
    choose_kl: np.ndarray


class Candidates:
    """All ways to spend a budget with the given sets of pins."""

    def __init__(
        self, pins: Sequence[PinnedScores], fit: GateInputs, choose: GateInputs, num_layers: int
    ) -> None:
        self._pins, self._fit, self._choose = pins, fit, choose
        self._num_layers = num_layers
        self._fits = {layer: DirectionFit(h) for layer, h in fit.after.items()}
        self._gates: dict[tuple[int, int, GateKind], _Gate] = {}

    def within(self, budget: float) -> list[Candidate]:
        """Candidates whose mean backbone layers are the budget, best promise first."""
        return sorted(self._gated(budget), key=lambda candidate: candidate.predicted_kl)

    def _gated(self, budget: float) -> Iterator[Candidate]:
        for index, pins in enumerate(self._pins):
            for layer in self._fits:
                # Those who leave run the layers up to the gate and the pins behind it.
                left = layer + int(pins.pinned[layer:].sum())
                stay = (budget - left) / (self._num_layers - left)
                if not MIN_STAY <= stay <= 1 - MIN_STAY:
                    continue
                for kind in ("direction", "similarity"):
                    gate = self._gate(index, layer, kind)
                    tau, kept = gate.threshold(stay)
                    yield Candidate(
                        gate.policy(pins.pinned, tau, self._num_layers),
                        float(kept.mean() * (self._num_layers - left) + left),
                        float((pins.choose_kl * ~kept).mean()),
                        layer,
                    )

    def _gate(self, index: int, layer: int, kind: GateKind) -> "_Gate":
        key = index, layer, kind
        if key not in self._gates:
            direction = None
            if kind == "direction":
                direction = self._fits[layer].direction(self._pins[index].fit_kl)
            scores = [
                cosine(part.after[layer], part.before[layer] if direction is None else direction)
                for part in (self._fit, self._choose)
            ]
            self._gates[key] = _Gate(layer, direction, *scores)
        return self._gates[key]


@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    layer: int
    direction: np.ndarray | None  # [hidden]; None: similarity
    fit_scores: np.ndarray  # [positions]
    choose_scores: np.ndarray

    def threshold(self, stay: float) -> tuple[float, np.ndarray]:
        """tau under which this share of tokens stays, and which of the choose part do.

        The choose part alone decides: a direction scores the tokens it was fitted to too well.
        """
        tau = float(np.quantile(self.choose_scores, stay))
        return tau, self.choose_scores <= tau

    def policy(self, pinned: np.ndarray, tau: float, num_layers: int) -> ExitPolicy:
        taus = np.full(num_layers, np.inf, np.float32)
        taus[self.layer - 1] = tau
        if self.direction is None:
            return ExitPolicy(taus, pinned)
        directions = np.zeros((num_layers, len(self.direction)), np.float32)
        directions[self.layer - 1] = self.direction
        return ExitPolicy(taus, pinned, directions)


def most_sensitive(
    sensitivity: np.ndarray,  # [L], layer 1 infinite
    count: int,
) -> np.ndarray:
    """bool [L]: layer 1 and the next most sensitive ones, `count` in all."""
    pinned = np.zeros(len(sensitivity), np.bool_)
    pinned[np.argsort(-sensitivity, kind="stable")[:count]] = True
    return pinned


def static_mask(sensitivity: np.ndarray, layers: float) -> Candidate:
    """As many pinned layers as the budget holds, and no gate."""
    count = max(1, int(layers))
    policy = pinned_only(most_sensitive(sensitivity, count))
    return Candidate(policy, float(count), float("nan"), None)
