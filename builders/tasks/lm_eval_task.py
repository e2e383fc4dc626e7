"""Any task of lm-evaluation-harness, by its Python API."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from builders.evaluation.intervals import Estimate
from builders.quiet import quietly
from builders.tasks.base import TaskScore
from builders.tasks.lm_eval_model import RiverLM
from river_trt.config import GenerationConfig
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.progress import Progress

if TYPE_CHECKING:
    from builders.tasks.run import TaskPolicy, TaskRun

NORMAL_95 = 1.959964  # standard errors of a 95 % interval; the harness gives standard errors


def evaluate_lm_eval(
    engine: Engine, run: "TaskRun", arms: Sequence["TaskPolicy"], progress: Progress
) -> list[TaskScore]:
    """A score for each policy and each of the task's metrics.

    Raises RiverError for a task that the harness does not know or whose data cannot be had.
    """
    name = run.task.partition(":")[2]
    manager = _manager(name, run)
    scores = []
    for arm in arms:
        stage = f"{run.task}, {arm.name}"
        progress(stage, 0, 0)
        config = GenerationConfig(policy=arm.policy, tau=arm.tau, pinned=arm.pinned)
        model = RiverLM(engine, config, partial(progress, stage))
        found = _simple_evaluate(model, name, run, manager)
        scores += _scores(found, arm.name, model)
    return scores


def _manager(name: str, run: "TaskRun") -> TaskManager:
    """The user's own definitions first: to read the harness's thousands takes many seconds."""
    path = None if run.task_path is None else str(run.task_path)
    for with_harness in (False, True) if path else (True,):
        with quietly():
            manager = TaskManager(include_path=path, include_defaults=with_harness)
        if name in manager.all_tasks:
            return manager
    raise RiverError(
        f"lm-eval knows no task {name!r}; its tasks are listed by `lm-eval ls tasks`, and "
        "--task-path adds your own"
    )


def _simple_evaluate(
    model: RiverLM, name: str, run: "TaskRun", manager: TaskManager
) -> dict[str, Any]:
    try:
        found: dict[str, Any] | None = simple_evaluate(
            model=model,
            tasks=[name],
            limit=run.limit,
            bootstrap_iters=0,
            log_samples=False,
            apply_chat_template=run.chat,
            task_manager=manager,
            random_seed=run.seed,
        )
    except RiverError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:  # data sets come from the hub
        cause = " ".join(str(error).split())
        raise RiverError(f"lm-eval cannot run {name}: {cause:.300}") from error
    assert found is not None, "one process"
    return found


def _scores(found: dict[str, Any], policy: str, model: RiverLM) -> list[TaskScore]:
    scores = []
    for task, metrics in found["results"].items():
        questions = int(found["n-samples"].get(task, {}).get("effective", 0))
        for key, value in metrics.items():
            metric, _, rule = key.partition(",")
            if not isinstance(value, int | float) or not rule or metric.endswith("_stderr"):
                continue
            error = metrics.get(f"{metric}_stderr,{rule}")
            name = metric if rule == "none" else f"{metric} ({rule})"
            scores.append(
                TaskScore(task, policy, name, _estimate(value, error), questions, None,
                          model.mean_layers())
            )  # fmt: skip
    return scores


def _estimate(value: float, error: Any) -> Estimate:
    if not isinstance(error, int | float):
        return Estimate(value)
    return Estimate(value, value - NORMAL_95 * error, value + NORMAL_95 * error)
