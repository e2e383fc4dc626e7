"""What every task has in common: questions, answers, and a score with its interval."""

from dataclasses import dataclass

import numpy as np

from builders.evaluation.intervals import Estimate, bootstrap_mean
from river_trt.results import GenerationResult


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One policy's score in one metric of a task."""

    task: str
    policy: str
    metric: str
    score: Estimate  # for shares 0..1
    questions: int
    tokens: int | None = None  # generated over all questions
    backbone_layers: float | None = None  # mean a decoded token


def share_of(
    correct: list[bool],
    seed: int,
) -> Estimate:
    values = np.array(correct, np.float64)
    return bootstrap_mean(values, np.ones(len(values)), seed)


def mean_layers(results: list[GenerationResult]) -> float | None:
    """Mean backbone layers of the decoded tokens; the first of each comes from its prefill."""
    depths = np.concatenate([result.backbone_layers[1:] for result in results])
    return float(depths.mean()) if len(depths) else None
