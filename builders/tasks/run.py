"""One task over the policies of one engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builders.tasks import gsm8k, humaneval
from builders.tasks.base import TaskScore, mean_layers, share_of
from builders.tasks.sandbox import require_isolation
from river_trt.config import GenerationConfig, resolve_policy
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.progress import Progress
from river_trt.prompts import Prompt

LM_EVAL = "lm-eval:"
Tau = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GeneratedTask:
    """A task whose questions are answered in text; a question is what `read` makes of a record."""

    metric: str
    read: Callable[[Path], list[Any]]
    ask: Callable[[Engine, Any, bool], Prompt]  # engine, question, chat
    is_correct: Callable[..., bool]  # question, answer, chat; where it runs code, unsafe too
    max_new_tokens: int
    stop: tuple[str, ...]  # of a completion; a chat ends by itself
    runs_code: bool = False  # that the model wrote


GENERATED = {
    "gsm8k": GeneratedTask(
        metric="exact match",
        read=gsm8k.read_questions,
        ask=gsm8k.ask,
        is_correct=gsm8k.is_correct,
        max_new_tokens=gsm8k.MAX_NEW_TOKENS,
        stop=gsm8k.STOP,
    ),
    "humaneval": GeneratedTask(
        metric="pass@1",
        read=humaneval.read_problems,
        ask=humaneval.ask,
        is_correct=humaneval.passes,
        max_new_tokens=humaneval.MAX_NEW_TOKENS,
        stop=humaneval.STOP,
        runs_code=True,
    ),
}
TASKS = (*GENERATED, f"{LM_EVAL}NAME")


@dataclass(frozen=True, slots=True)
class TaskPolicy:
    """A policy under the name that the table prints; tau and pinned as in GenerationConfig."""

    name: str
    tau: Tau | None
    pinned: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class TaskRun:
    """What a user asks for."""

    task: str
    data: Path | None = None  # JSONL; lm-eval tasks bring their own
    taus: tuple[Tau, ...] = ()
    pinned: tuple[int, ...] | None = None
    chat: bool = False
    limit: int | None = None
    max_new_tokens: int | None = None  # None: the task's
    task_path: Path | None = None  # of lm-eval definitions
    allow_code: bool = False
    unsafe_execution: bool = False  # run code even where it cannot be isolated
    seed: int = 0

    def check(self) -> None:
        """RiverError for what is wrong, before an engine is loaded."""
        if self.task.startswith(LM_EVAL):
            if self.data is not None:
                raise RiverError("an lm-eval task brings its own data; leave --data out")
            if self.task_path is not None and not self.task_path.is_dir():
                raise RiverError(f"{self.task_path} is not a directory of task definitions")
            return
        if self.task not in GENERATED:
            raise RiverError(f"task {self.task!r} is not offered; choose one of {', '.join(TASKS)}")
        if self.data is None:
            raise RiverError(f"{self.task} needs its questions: --data FILE (JSONL)")
        if GENERATED[self.task].runs_code:
            if not self.allow_code:
                raise RiverError(
                    f"{self.task} runs code that the model writes; --allow-code allows it, in "
                    "namespaces of its own"
                )
            if not self.unsafe_execution:
                require_isolation()
        GENERATED[self.task].read(self.data)

    def arms(self) -> list[TaskPolicy]:
        taus = [
            TaskPolicy(
                f"tau {tau:g}" if isinstance(tau, float) else "tau a layer", tau, self.pinned
            )
            for tau in self.taus
        ]
        ends = [
            TaskPolicy("backbone", np.inf, ()),
            TaskPolicy("all river", -np.inf, ()),
            TaskPolicy("River", None, None),
        ]
        return [*ends, *taus]


def evaluate_task(engine: Engine, run: TaskRun, progress: Progress) -> list[TaskScore]:
    """Scores of backbone, all river, the engine's policy and each tau, greedy.

    Raises RiverError for bad input; ImportError where lm-eval is asked for and not installed.
    """
    arms = run.arms()
    for arm in arms:  # all are checked before the first one runs
        config = GenerationConfig(tau=arm.tau, pinned=arm.pinned)
        resolve_policy(config, engine.policy, engine.num_layers)
    if engine.tokenizer is None:
        raise RiverError("the engine has no tokenizer, so it cannot read a question")
    if run.task.startswith(LM_EVAL):
        from builders.tasks.lm_eval_task import evaluate_lm_eval

        return evaluate_lm_eval(engine, run, arms, progress)
    assert run.data is not None
    kind = GENERATED[run.task]
    safety = {"unsafe": run.unsafe_execution} if kind.runs_code else {}
    questions = kind.read(run.data)[: run.limit]
    scores = []
    for arm in arms:
        config = GenerationConfig(
            max_new_tokens=run.max_new_tokens or kind.max_new_tokens,
            stop=() if run.chat else kind.stop,
            temperature=0.0,
            repetition_penalty=1.0,
            tau=arm.tau,
            pinned=arm.pinned,
        )
        correct, results = [], []
        progress(f"{run.task}, {arm.name}", 0, len(questions))
        for done, question in enumerate(questions, 1):
            prompt = kind.ask(engine, question, run.chat)
            (result,) = engine.generate([prompt], config)
            correct.append(kind.is_correct(question, result.text or "", run.chat, **safety))
            results.append(result)
            progress(f"{run.task}, {arm.name}", done, len(questions))
        scores.append(
            TaskScore(
                task=run.task,
                policy=arm.name,
                metric=kind.metric,
                score=share_of(correct, run.seed),
                questions=len(questions),
                tokens=sum(len(result.token_ids) for result in results),
                backbone_layers=mean_layers(results),
            )
        )
    return scores
