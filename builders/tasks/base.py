"""What every task has in common: questions, answers, and a score with its interval."""

from dataclasses import dataclass

import numpy as np

from builders.evaluation.intervals import Estimate, bootstrap_mean


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
