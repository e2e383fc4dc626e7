"""The text of a calibration, cut in three, and what is measured on it before the search.

fit     directions are fitted and layers ranked on it      3 of 8 pieces
choose  candidates are compared on it                      1 of 8
report  the chosen policy is measured on it, once          4 of 8: held out
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builders.evaluation.policies import pinned_only
from builders.evaluation.scores import PieceScores, score
from builders.evaluation.subject import Subject
from river_trt.errors import RiverError
from river_trt.progress import Progress

PARTS = "rfrfrfrc"  # piece by piece, again and again: parts from all over the text
GATE_DEPTHS = (0.03, 0.07, 0.13, 0.2, 0.27)  # share of the layers before a candidate decides


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    fit: list[np.ndarray]
    choose: list[np.ndarray]
    report: list[np.ndarray]

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], source: str) -> "Split":
        if len(pieces) < len(PARTS):
            raise RiverError(
                f"{source} gives {len(pieces)} pieces of text; {len(PARTS)} are needed to fit, "
                "choose and report on. Give more text, or shorter pieces with --piece-tokens"
            )
        parts: dict[str, list[np.ndarray]] = {"f": [], "c": [], "r": []}
        for number, piece in enumerate(pieces):
            parts[PARTS[number % len(PARTS)]].append(piece)
        return cls(parts["f"], parts["c"], parts["r"])


@dataclass(frozen=True, slots=True, eq=False)
class GateInputs:
    """Hidden states at full depth around the layers where a candidate may decide.

    Before its exit a token has run the backbone only, so these are what a gate sees, whatever
    happens afterwards. Positions: those that are scored, of all pieces in a row.
    """

    before: dict[int, np.ndarray]  # layer d -> h_(d-1), float32 [positions, hidden]
    after: dict[int, np.ndarray]  # layer d -> h_d

    @classmethod
    def read(
        cls,
        subject: Subject,
        pieces: Sequence[np.ndarray],
        layers: Sequence[int],
        skip: int,
        progress: Progress,
    ) -> "GateInputs":
        wanted = sorted({*layers, *(layer - 1 for layer in layers)})
        found: dict[int, list[np.ndarray]] = {layer: [] for layer in wanted}
        progress("hidden states", 0, len(pieces))
        for number, ids in enumerate(pieces, 1):
            h = subject.hidden_states(ids, wanted[-1])
            for layer in wanted:
                found[layer].append(h[layer, skip : len(ids) - 1].copy())
            progress("hidden states", number, len(pieces))
        joined = {layer: np.concatenate(parts) for layer, parts in found.items()}
        return cls(
            {layer: joined[layer - 1] for layer in layers},
            {layer: joined[layer] for layer in layers},
        )


def gate_layers(num_layers: int) -> list[int]:
    """Layers after which a candidate may decide: early ones, since exits save what follows."""
    return sorted({min(num_layers - 1, max(1, round(d * num_layers))) for d in GATE_DEPTHS})


def sensitivity(
    subject: Subject, pieces: Sequence[np.ndarray], skip: int, progress: Progress
) -> np.ndarray:
    """KL of each layer alone on the river, all others on the backbone: float64 [L], nats.

    Layer 1 never runs the river, so its entry is infinite.
    """
    num_layers = subject.num_layers
    policies = []
    for layer in range(2, num_layers + 1):
        pinned = np.ones(num_layers, np.bool_)
        pinned[layer - 1] = False
        policies.append(pinned_only(pinned))
    found = score(subject, pieces, policies, skip, renamed(progress, "sensitivity"))
    return np.array([np.inf, *(mean_kl(scores) for scores in found)])


def mean_kl(scores: Sequence[PieceScores]) -> float:
    return float(np.concatenate([piece.kl for piece in scores]).mean())


def mean_agreement(scores: Sequence[PieceScores]) -> float:
    return float(np.concatenate([piece.agreed for piece in scores]).mean())


def renamed(progress: Progress, stage: str) -> Progress:
    return lambda _, done, total: progress(stage, done, total)
