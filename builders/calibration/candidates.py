"""Candidate policies: pinned layers, and one layer where each token leaves or stays for good."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builders.calibration.directions import fit_direction
from builders.calibration.material import GateInputs
from builders.evaluation.metrics import cosine
from builders.evaluation.policies import pinned_only
from river_trt.spec import ExitPolicy

MIN_STAY = 0.02  # a smaller share of staying tokens is no gate worth having


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A policy and what it promises; a `gate_layer` of None is a static mask."""

    policy: ExitPolicy  # spends the budget on the choose part, so that candidates compare
    final: ExitPolicy  # its threshold from all the text there is: what would be shipped
    predicted_kl: float  # on the choose part, if the tokens that stay had no error left
    gate_layer: int | None

    def describe(self) -> str:
        pins = int(self.policy.pinned[1:].sum())
        if self.gate_layer is None:
            return f"{pins} pinned, no gate"
        return f"{pins} pinned, {self.policy.gate} gate at layer {self.gate_layer}"


@dataclass(frozen=True, slots=True, eq=False)
class PinnedCost:
    """What a set of pinned layers alone costs each token of the choose part."""

    pinned: np.ndarray  # bool [L]
    kl: np.ndarray  # [positions]


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """One layer's scores, by either kind of gate; a token stays if its score is at most tau."""

    layer: int
    direction: np.ndarray | None  # [hidden]; None: similarity
    fit_scores: np.ndarray  # [positions], by directions that have not seen the token
    choose_scores: np.ndarray  # [positions]

    def policy(self, pinned: np.ndarray, tau: float) -> ExitPolicy:
        num_layers = len(pinned)
        taus = np.full(num_layers, np.inf, np.float32)
        taus[self.layer - 1] = tau
        if self.direction is None:
            return ExitPolicy(taus, pinned)
        directions = np.zeros((num_layers, len(self.direction)), np.float32)
        directions[self.layer - 1] = self.direction
        return ExitPolicy(taus, pinned, directions)


def make_gates(
    fit: GateInputs,
    choose: GateInputs,
    cost: np.ndarray,  # [positions] of the fit part: what leaving early costs a token, nats
    folds: np.ndarray,  # [positions] 0 or 1: halves of the fit part that score each other
) -> list[Gate]:
    """Both kinds of gate at each layer of the inputs."""
    gates = []
    for layer, h in fit.after.items():
        similarity = [cosine(part.after[layer], part.before[layer]) for part in (fit, choose)]
        gates.append(Gate(layer, None, *similarity))
        # A direction scores the tokens it was fitted to too well for a threshold.
        unseen = np.empty(len(h), np.float32)
        for fold in (0, 1):
            inside = folds == fold
            unseen[inside] = cosine(h[inside], fit_direction(h[~inside], cost[~inside]))
        direction = fit_direction(h, cost)
        gates.append(Gate(layer, direction, unseen, cosine(choose.after[layer], direction)))
    return gates


def candidates_within(
    budget: float, pins: Sequence[PinnedCost], gates: Sequence[Gate]
) -> list[Candidate]:
    """Gated candidates whose mean backbone layers are the budget, best promise first."""
    found = []
    for cost in pins:
        num_layers = len(cost.pinned)
        for gate in gates:
            # Those who leave run the layers up to the gate and the pins behind it.
            left = gate.layer + int(cost.pinned[gate.layer :].sum())
            stay = (budget - left) / (num_layers - left)
            if not MIN_STAY <= stay <= 1 - MIN_STAY:
                continue
            tau = float(np.quantile(gate.choose_scores, stay))
            all_scores = np.concatenate([gate.fit_scores, gate.choose_scores])
            candidate = Candidate(
                policy=gate.policy(cost.pinned, tau),
                final=gate.policy(cost.pinned, float(np.quantile(all_scores, stay))),
                predicted_kl=float((cost.kl * (gate.choose_scores > tau)).mean()),
                gate_layer=gate.layer,
            )
            found.append(candidate)
    return sorted(found, key=lambda candidate: candidate.predicted_kl)


def most_sensitive(
    sensitivity: np.ndarray,  # [L], layer 1 infinite
    count: int,
) -> np.ndarray:
    """bool [L]: layer 1 and the next most sensitive ones, `count` in all."""
    pinned = np.zeros(len(sensitivity), np.bool_)
    pinned[np.argsort(-sensitivity, kind="stable")[:count]] = True
    return pinned


def static_mask(sensitivity: np.ndarray, count: int) -> Candidate:
    """That many pinned layers, layer 1 among them, and no gate."""
    policy = pinned_only(most_sensitive(sensitivity, count))
    return Candidate(policy, policy, float("nan"), None)
