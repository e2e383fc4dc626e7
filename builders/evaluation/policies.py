"""Policies to compare with, and thresholds for a mean depth, from a gate's scores at full depth."""

from collections.abc import Callable, Sequence

import numpy as np

from builders.evaluation.metrics import cosine
from builders.evaluation.subject import Subject
from river_trt.spec import ExitPolicy, backbone_layers


def fixed_exit(num_layers: int, layer: int) -> ExitPolicy:
    """Every token exits after `layer` (from 1)."""
    policy = ExitPolicy.full_depth(num_layers)
    policy.tau[layer - 1] = -np.inf
    return policy


def pinned_only(
    pinned: np.ndarray,  # bool [L]
) -> ExitPolicy:
    """Every token exits after layer 1, so that the pinned layers alone run the backbone."""
    return ExitPolicy(fixed_exit(len(pinned), 1).tau, pinned)


def gate_scores(
    subject: Subject,
    pieces: Sequence[np.ndarray],
    directions: np.ndarray | None,  # [L, hidden]; None: the similarity gate
) -> np.ndarray:
    """Scores at full depth, float32 [layers, positions]; of the last layer nobody asks."""
    found = []
    for ids in pieces:
        h = subject.hidden_states(ids, subject.num_layers - 1)  # [L, tokens, hidden]
        reference = h[:-1] if directions is None else directions[: len(h) - 1, None]
        found.append(cosine(h[1:], reference))
    return np.concatenate(found, axis=1)


def mean_depth(scores: np.ndarray, tau: np.ndarray, pinned: np.ndarray) -> float:
    """Mean backbone layers if the scores [layers, positions] are what the gate sees."""
    passed = scores > tau[: len(scores), None]
    exit_layer = np.where(passed.any(0), passed.argmax(0) + 1, len(tau))
    return float(backbone_layers(exit_layer, pinned).mean())


def paper_taus(scores: np.ndarray, targets: Sequence[float], num_layers: int) -> list[float]:
    """One tau for all layers that gives each mean depth, without repeats."""
    nobody = np.zeros(num_layers, np.bool_)
    return _solve(
        lambda tau: mean_depth(scores, np.full(num_layers, tau), nobody), -1.0, 1.0, targets
    )


def tau_shifts(policy: ExitPolicy, scores: np.ndarray, targets: Sequence[float]) -> list[float]:
    """What to add to tau for each mean depth; none where no tau is finite."""
    if not np.isfinite(policy.tau[:-1]).any():
        return []
    return _solve(lambda d: mean_depth(scores, policy.tau + d, policy.pinned), -2, 2, targets)


def _solve(
    depth: Callable[[float], float], low: float, high: float, targets: Sequence[float]
) -> list[float]:
    """Arguments that bring an increasing `depth` nearest to each target; each depth once."""
    found: dict[float, float] = {}
    for target in targets:
        if not depth(low) < target < depth(high):
            continue
        left, right = low, high
        for _ in range(40):
            middle = (left + right) / 2
            left, right = (middle, right) if depth(middle) < target else (left, middle)
        found.setdefault(round(depth(right), 2), right)
    return list(found.values())
