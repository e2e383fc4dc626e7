"""Tasks that are answered by generating or by scoring: one score a policy."""

from builders.tasks.base import TaskScore
from builders.tasks.run import TaskRun, evaluate_task

__all__ = ["TaskRun", "TaskScore", "evaluate_task"]
