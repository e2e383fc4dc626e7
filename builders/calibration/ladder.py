"""One search, policies for several budgets of KL: what `build` gives an engine.

    costs of the layers --> static masks, measured --> what leaving costs each token --> gates
                                  |                                                      |
    each budget: the gated policy with the fewest layers, measured once to see how far its promise
    holds, against the static mask of the same KL

Every piece is run about nine times whatever the number of layers. Directions are fitted to one
half of the pieces and judged on the other, so that the whole text takes part in the choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from builders.calibration.candidates import MIN_STAY, Gate, most_sensitive
from builders.calibration.directions import fit_direction
from builders.calibration.material import GateInputs, gate_layers, renamed
from builders.evaluation.metrics import cosine
from builders.evaluation.policies import pinned_only
from builders.evaluation.scores import PieceScores, score
from builders.evaluation.subject import Subject
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy, backbone_layers

MASK_SHARES = (0.15, 0.3, 0.5)  # of the layers, in the static masks that are measured
ALIKE = 2.5  # positions of a piece that tell as much as one that is alone (docs/calibration.md)
NINETEEN_OF_TWENTY = 1.645  # standard deviations, of one side of a normal distribution


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A static mask on the text of the search."""

    pinned: np.ndarray  # bool [L]
    kl: np.ndarray  # [positions] nats
    agreement: float  # 0..1


@dataclass(frozen=True, slots=True, eq=False)
class CrossGate:
    """One layer's gate, fitted twice: by halves for judging, by everything for use."""

    scores: np.ndarray  # [positions], by halves that have not seen the token
    halves: tuple[Gate, Gate]  # what judges the pieces of fold 0, of fold 1: its choose_scores
    final: Gate  # its fit_scores are spread as those of new tokens


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A policy that promises a KL."""

    policy: ExitPolicy
    layers: float  # mean backbone layers
    kl: float  # nats, expected on new text
    description: str


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """A gate behind which only the mask runs, with the least share of tokens that stay."""

    mask: Mask
    gate: CrossGate
    stay: float
    layers: float
    predicted: float  # KL if the tokens that stay have no error


class Ladder:
    """Policies of one subject by budget; what they share is measured when it is made.

    Attribute masks: static masks of growing size, measured.
    """

    def __init__(
        self,
        subject: Subject,
        layer_costs: np.ndarray,  # [L] nats; layer 1 infinite
        pieces: Sequence[np.ndarray],
        kinds: Sequence[str],  # of the pieces: prose, code, ...
        skip: int,
        progress: Progress,
    ) -> None:
        self._subject, self._pieces, self._kinds = subject, pieces, kinds
        self._skip, self._progress = skip, progress
        num_layers = subject.num_layers
        inputs = GateInputs.read(subject, pieces, gate_layers(num_layers), skip, progress)
        counts = sorted({1, 2, *(max(1, round(share * num_layers)) for share in MASK_SHARES)})
        pins = [most_sensitive(layer_costs, count) for count in counts if count < num_layers]
        scores = self._score(pieces, [pinned_only(mask) for mask in pins], "static masks")
        self.masks = [
            Mask(
                mask,
                np.concatenate([piece.kl for piece in found]),
                mean(found, lambda piece: piece.agreed),
            )
            for mask, found in zip(pins, scores, strict=True)
        ]
        self.layer_costs = layer_costs
        folds = np.concatenate([np.full(len(p) - 1 - skip, i % 2) for i, p in enumerate(pieces)])
        # Which tokens are dear hardly depends on the pins: one mask's costs are enough to fit to.
        self._gates = cross_gates(inputs, self.masks[len(pins) // 3].kl, folds)

    def within(self, budgets: Sequence[float]) -> list[Choice]:
        """For each budget the fewest layers whose KL on new text of this kind is at most that."""
        promises = [self._best_gated(budget) for budget in budgets]
        gated = [promise for promise in promises if promise is not None]
        measured = iter(self._measure(gated))
        return [
            self._static(budget)
            if promise is None
            else self._choose(budget, promise, next(measured))
            for budget, promise in zip(budgets, promises, strict=True)
        ]

    def _choose(self, budget: float, promise: Gated, measured: Sequence[PieceScores]) -> Choice:
        """A gated policy or a mask, now that it is known what the promise is worth."""
        trust = mean(measured, lambda piece: piece.kl) / max(promise.predicted, 1e-9)
        aim = budget / margin([piece.kl for piece in measured], self._kinds)
        gated, static = self._best_gated(aim / trust), self._static(aim)
        if gated is None or static.layers <= gated.layers:
            return static
        final, pinned = gated.gate.final, gated.mask.pinned
        kind = "similarity" if final.direction is None else "direction"
        return Choice(
            final.policy(pinned, float(np.quantile(final.fit_scores, gated.stay))),
            gated.layers,
            gated.predicted * trust,
            f"{int(pinned[1:].sum())} pinned, {kind} gate at layer {final.layer}",
        )

    def _static(self, budget: float) -> Choice:
        """Of masks that were not measured the KL is interpolated."""
        counts = np.array([int(mask.pinned.sum()) for mask in self.masks] + [len(self.layer_costs)])
        kl = np.array([float(mask.kl.mean()) for mask in self.masks] + [0.0])
        wanted = np.arange(1, len(self.layer_costs) + 1)
        expected = np.interp(wanted, counts, kl)
        enough = wanted[expected <= budget]
        count = int(enough[0]) if len(enough) else len(self.layer_costs)
        if count == len(self.layer_costs):
            return Choice(ExitPolicy.full_depth(count), count, 0.0, "full depth")
        policy = pinned_only(most_sensitive(self.layer_costs, count))
        return Choice(policy, count, float(expected[count - 1]), f"{count - 1} pinned, no gate")

    def _best_gated(self, budget: float) -> Gated | None:
        """The fewest layers that promise the budget."""
        found = [
            gated
            for mask in self.masks
            for gate in self._gates
            if (gated := gated_within(budget, mask, gate)) is not None
        ]
        return min(found, key=lambda gated: gated.layers, default=None)

    def _measure(self, promises: Sequence[Gated]) -> list[list[PieceScores]]:
        """Each piece by gates that have not seen it."""
        found: list[dict[int, PieceScores]] = [{} for _ in promises]
        for fold in (0, 1) if promises else ():
            policies = []
            for promise in promises:
                gate = promise.gate.halves[fold]
                tau = float(np.quantile(gate.choose_scores, promise.stay))
                policies.append(gate.policy(promise.mask.pinned, tau))
            numbers = range(fold, len(self._pieces), 2)
            scores = self._score([self._pieces[n] for n in numbers], policies, "gates")
            for own, of_policy in zip(found, scores, strict=True):
                own.update(zip(numbers, of_policy, strict=True))
        return [[own[number] for number in sorted(own)] for own in found]

    def _score(
        self, pieces: Sequence[np.ndarray], policies: Sequence[ExitPolicy], stage: str
    ) -> list[list[PieceScores]]:
        return score(self._subject, pieces, policies, self._skip, renamed(self._progress, stage))


def margin(
    pieces: Sequence[np.ndarray],  # KL of each one's positions, nats
    kinds: Sequence[str],  # of the pieces
) -> float:
    """What a budget is divided by so that new text keeps to it nineteen times of twenty: >= 1.

    From how much the KL of pieces of one kind varies. A few pieces may be alike by chance, so they
    count as varying no less than their positions let expect.
    """
    names, kl = np.array(kinds), np.array([piece.mean() for piece in pieces])
    within = [kl[names == kind] - kl[names == kind].mean() for kind in set(kinds)]
    freedom = max(1, len(kl) - len(within))
    deviation = np.sqrt(np.square(np.concatenate(within)).sum() / freedom / len(kl))
    positions = np.concatenate(pieces)
    deviation = max(deviation, np.sqrt(ALIKE / len(positions)) * positions.std())
    # Student's t, to the first order: the deviation is itself known from few pieces.
    normal = NINETEEN_OF_TWENTY
    quantile = normal + (normal**3 + normal) / (4 * freedom)
    # Of new text of as many pieces: both texts vary.
    return float(1 + np.sqrt(2) * quantile * deviation / max(kl.mean(), 1e-9))


def cross_gates(
    inputs: GateInputs,
    cost: np.ndarray,  # [positions]: what leaving early costs a token, nats
    folds: np.ndarray,  # [positions] 0 or 1
) -> list[CrossGate]:
    """Both kinds of gate at each layer of the inputs."""
    gates = []
    for layer, h in inputs.after.items():
        similarity = cosine(h, inputs.before[layer])
        plain = [Gate(layer, None, similarity, similarity[folds == fold]) for fold in (0, 1)]
        gates.append(CrossGate(similarity, (plain[0], plain[1]), plain[0]))
        halves, unseen, standard = [], np.empty(len(h), np.float32), np.empty(len(h), np.float32)
        for fold in (0, 1):
            inside = folds == fold
            direction = fit_direction(h[~inside], cost[~inside])
            seen = cosine(h[~inside], direction)
            unseen[inside] = cosine(h[inside], direction)
            halves.append(Gate(layer, direction, seen, unseen[inside]))
            standard[inside] = (unseen[inside] - seen.mean()) / seen.std()
        direction = fit_direction(h, cost)
        seen = cosine(h, direction)
        # Each fit has a mean of its own, and its own tokens spread wider than new ones.
        expected = (seen.mean() + seen.std() * standard).astype(np.float32)
        final = Gate(layer, direction, expected, expected)
        gates.append(CrossGate(standard, (halves[0], halves[1]), final))
    return gates


def gated_within(budget: float, mask: Mask, gate: CrossGate) -> Gated | None:
    """The least share of tokens that must stay for this KL; None if hardly any, or nearly all."""
    num_layers, layer = len(mask.pinned), gate.final.layer
    stays_first = np.argsort(gate.scores, kind="stable")
    left = float(mask.kl.sum()) - np.concatenate([[0.0], np.cumsum(mask.kl[stays_first])])
    number = int(np.argmax(left <= budget * len(mask.kl)))
    stay = number / len(mask.kl)
    if not MIN_STAY <= stay <= 1 - MIN_STAY:
        return None
    # Those who leave run the layers up to the gate and the pins behind it.
    leaving = layer + int(mask.pinned[layer:].sum())
    layers = stay * num_layers + (1 - stay) * leaving
    return Gated(mask, gate, stay, layers, float(left[number]) / len(mask.kl))


def mean(scores: Sequence[PieceScores], column: Callable[[PieceScores], np.ndarray]) -> float:
    """Over all positions."""
    return float(np.concatenate([column(piece) for piece in scores]).mean())


def mean_layers(scores: Sequence[PieceScores], policy: ExitPolicy) -> float:
    return mean(scores, lambda piece: backbone_layers(piece.exit_layer, policy.pinned))
