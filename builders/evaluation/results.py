"""What an evaluation finds out about a policy, with intervals over the pieces of text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from builders.evaluation.intervals import Estimate, bootstrap_mean
from builders.evaluation.scores import PieceScores
from river_trt.spec import ExitPolicy, backbone_layers


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    name: str
    policy: ExitPolicy


@dataclass(frozen=True, slots=True, eq=False)
class PolicyResult:
    """One policy over all pieces. Estimates are means over positions."""

    name: str
    policy: ExitPolicy
    kl: Estimate  # nats
    agreement: Estimate  # 0..1
    perplexity: Estimate
    backbone_layers: Estimate
    exit_counts: tuple[int, ...]  # [L]: positions that exited after layer 1, 2, ..., L
    k_cosine: tuple[float, ...]  # [L]
    v_cosine: tuple[float, ...]  # [L]
    positions: int
    pieces: int


def summarise(named: NamedPolicy, scores: Sequence[PieceScores], seed: int = 0) -> PolicyResult:
    policy = named.policy
    counts = np.array([len(piece.kl) for piece in scores])

    def mean(column: Callable[[PieceScores], np.ndarray]) -> Estimate:
        sums = np.array([column(piece).sum() for piece in scores], np.float64)
        return bootstrap_mean(sums, counts, seed)

    def cosine(column: Callable[[PieceScores], np.ndarray]) -> tuple[float, ...]:
        stacked = np.stack([column(piece) for piece in scores])  # [pieces, L]
        return tuple(np.average(stacked, axis=0, weights=counts).tolist())

    exits = np.concatenate([piece.exit_layer for piece in scores])
    return PolicyResult(
        name=named.name,
        policy=policy,
        kl=mean(lambda piece: piece.kl),
        agreement=mean(lambda piece: piece.agreed),
        perplexity=exponential(mean(lambda piece: piece.surprise)),
        backbone_layers=mean(lambda piece: backbone_layers(piece.exit_layer, policy.pinned)),
        exit_counts=tuple(np.bincount(exits, minlength=len(policy.tau) + 1)[1:].tolist()),
        k_cosine=cosine(lambda piece: piece.k_cosine),
        v_cosine=cosine(lambda piece: piece.v_cosine),
        positions=int(counts.sum()),
        pieces=len(scores),
    )


def exponential(nats: Estimate) -> Estimate:
    """Mean surprise as perplexity, its interval too."""
    low, high = (None if end is None else float(np.exp(end)) for end in (nats.low, nats.high))
    return Estimate(float(np.exp(nats.value)), low, high)
