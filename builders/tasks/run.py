"""One task over the policies of one engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builders.tasks import gsm8k, humaneval
from builders.tasks.answers import Answer, Answers
from builders.tasks.asking import ask_all
from builders.tasks.base import TaskScore, share_of
from builders.tasks.sandbox import require_isolation
from river_trt.benchmark.result import engine_digest
from river_trt.config import GenerationConfig, resolve_policy
from river_trt.engine import Engine
from river_trt.engine_dir import sha256
from river_trt.errors import RiverError
from river_trt.manifest import EXACT
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
    """A policy under the name that the table prints; the rest as in GenerationConfig."""

    name: str
    tau: Tau | None = None
    pinned: Sequence[int] | None = None
    policy: str | None = None


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
    resume: Path | None = None  # where answers are kept, and taken from

    def check(self) -> None:
        """RiverError for what is wrong, before an engine is loaded."""
        if self.task.startswith(LM_EVAL):
            if self.data is not None:
                raise RiverError("an lm-eval task brings its own data; leave --data out")
            if self.resume is not None:
                raise RiverError(f"--resume is for {', '.join(GENERATED)}")
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

    def arms(self, engine: Engine) -> list[TaskPolicy]:
        """Backbone, all river, the engine's policy, its other named ones, each tau."""
        taus = [
            TaskPolicy(
                f"tau {tau:g}" if isinstance(tau, float) else "tau a layer", tau, self.pinned
            )
            for tau in self.taus
        ]
        ends = [
            TaskPolicy("backbone", np.inf, ()),
            TaskPolicy("all river", -np.inf, ()),
            TaskPolicy("River"),
        ]
        named = [
            TaskPolicy(name, policy=name)
            for name, policy in engine.policies.items()
            if name != EXACT and not policy.same_as(engine.policy)
        ]
        return [*ends, *named, *taus]

    def identity(self, engine: Engine) -> dict[str, Any]:
        """What an answer depends on, as JSON; not how many questions are asked."""
        assert self.data is not None
        return {
            "task": self.task,
            "data": sha256(self.data),
            "engine": engine_digest(engine),
            "chat": self.chat,
            "max_new_tokens": self.max_new_tokens,
            "pinned": None if self.pinned is None else list(self.pinned),
            "taus": [repr(tau) for tau in self.taus],
        }


def evaluate_task(engine: Engine, run: TaskRun, progress: Progress) -> list[TaskScore]:
    """Scores of backbone, all river, the engine's policies and each tau, greedy.

    Raises RiverError for bad input; ImportError where lm-eval is asked for and not installed.
    """
    arms = run.arms(engine)
    for arm in arms:  # all are checked before the first one runs
        config = GenerationConfig(policy=arm.policy, tau=arm.tau, pinned=arm.pinned)
        resolve_policy(config, engine.policy_of(config), engine.num_layers)
    if engine.tokenizer is None:
        raise RiverError("the engine has no tokenizer, so it cannot read a question")
    if run.task.startswith(LM_EVAL):
        from builders.tasks.lm_eval_task import evaluate_lm_eval

        return evaluate_lm_eval(engine, run, arms, progress)
    assert run.data is not None
    kind = GENERATED[run.task]
    safety = {"unsafe": run.unsafe_execution} if kind.runs_code else {}
    questions = kind.read(run.data)[: run.limit]
    answers = Answers.open(run.resume, run.identity(engine))
    scores = []
    for arm in arms:
        config = GenerationConfig(
            max_new_tokens=run.max_new_tokens or kind.max_new_tokens,
            stop=() if run.chat else kind.stop,
            temperature=0.0,
            repetition_penalty=1.0,
            policy=arm.policy,
            tau=arm.tau,
            pinned=arm.pinned,
        )
        done = answers.of(arm.name, len(questions))
        progress(f"{run.task}, {arm.name}", len(done), len(questions))
        prompts = {
            number: kind.ask(engine, question, run.chat)
            for number, question in enumerate(questions, 1)
            if number not in done
        }
        for number, result in ask_all(engine, prompts, config):
            done[number] = Answer(
                kind.is_correct(questions[number - 1], result.text or "", run.chat, **safety),
                len(result.token_ids),
                len(result.backbone_layers) - 1,
                int(result.backbone_layers[1:].sum()),
            )
            answers.add(arm.name, number, done[number])
            progress(f"{run.task}, {arm.name}", len(done), len(questions))
        found = [done[number] for number in sorted(done)]
        decoded = sum(answer.decoded for answer in found)
        scores.append(
            TaskScore(
                task=run.task,
                policy=arm.name,
                metric=kind.metric,
                score=share_of([answer.correct for answer in found], run.seed),
                questions=len(questions),
                tokens=sum(answer.tokens for answer in found),
                backbone_layers=sum(answer.layers for answer in found) / decoded
                if decoded
                else None,
            )
        )
    return scores
