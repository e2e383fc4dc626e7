"""`river-trt bench`: engines, their modes and other runtimes side by side, in one run."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from river_trt.backends.base import MeasuresBandwidth
from river_trt.benchmark.arms import DEFAULT_MODES, chosen_arms
from river_trt.benchmark.bandwidth import read_bandwidth
from river_trt.benchmark.measure import Contestant, EngineArm, Plan, alternate, grouped
from river_trt.benchmark.peers import EXTRAS, Peer
from river_trt.benchmark.products import product_rate
from river_trt.benchmark.prompts import BUILT_IN, cut_prompts
from river_trt.benchmark.result import ArmQuality, BenchCase, BenchResult, stored_quality
from river_trt.benchmark.summary import summarise
from river_trt.benchmark.trace import check_traced, trace, write_trace
from river_trt.cli.arguments import (
    encode_prompt,
)
from river_trt.cli.bench_arguments import EXAMPLES, add_arguments, check_arguments
from river_trt.cli.bench_tables import print_result
from river_trt.cli.builders_import import needs_extra
from river_trt.cli.command import Command
from river_trt.cli.console import print_json, show_progress, stderr_console
from river_trt.engine import Engine, load
from river_trt.errors import MissingDependencyError, RiverError
from river_trt.progress import Progress
from river_trt.prompts import Prompt
from river_trt.user_cache import private_folder

MIN_PROMPTS = 3
QUALITY_TOKENS = 256  # of a piece


def execute(args: argparse.Namespace) -> int:
    paths = [*args.engines, *args.engine]
    check_arguments(args, paths)
    arms_of = chosen_arms(args.mode or DEFAULT_MODES, args.tau, args.depth, args.policy)
    with ExitStack() as stack, show_progress() as progress:
        engines = [_load(args, path, progress) for path in paths]
        labels = _labels(paths)
        contestants = [
            EngineArm(engine, arm, label)
            for engine, label in zip(engines, labels, strict=True)
            for arm in arms_of(engine.num_layers)
        ]
        for contestant in contestants:
            contestant.check_mode()
        loads = _loads(args, engines[0])
        for plan, _, prompts in loads:
            for contestant in contestants:
                contestant.check_prompts(prompts, plan)
        if args.trace is not None:
            check_traced(contestants)
        bandwidth = _bandwidth(args, engines[0])
        on_cpu = all(engine.manifest.backend.target == "cpu" for engine in engines)
        products = product_rate(args.threads) if on_cpu else None
        quality = _quality(args, contestants, progress)
        peers, missing = _peers(args, stack, progress)
        cases: list[BenchCase] = []
        traced: list[list[dict[str, Any]]] = []
        for plan, context, prompts in loads:
            taking_part: list[Contestant] = [*contestants, *(peers if plan.batch == 1 else [])]
            rounds = alternate(taking_part, prompts, plan, progress)
            summaries = summarise([c.name for c in taking_part], rounds)
            cases.append(BenchCase(plan, context, len(prompts), tuple(summaries)))
            if args.trace is not None:
                for contestant in contestants:
                    title, groups = cases[-1].title(), grouped(prompts, plan.batch)
                    traced.append(trace(contestant, groups, len(traced), title))
            bandwidth = max(bandwidth, _bandwidth(args, engines[0]))
    if args.trace is not None:
        write_trace(args.trace, [event for events in traced for event in events])
    result = BenchResult.of(contestants, cases, bandwidth, products, quality, peers, missing)
    if args.plot is not None:
        with needs_extra("a plot", "build"):
            from builders.report.bench_page import write_bench_page

            write_bench_page(result, args.plot)
    if args.json:
        print_json(result.to_json())
    else:
        print_result(result)
    return 0


def _load(args: argparse.Namespace, path: Path, progress: Progress) -> Engine:
    return load(
        path,
        max_batch_size=max(args.batch),
        max_seq_len=args.max_seq_len,
        threads=args.threads,
        verify=not args.no_verify,
        progress=progress,
    )


def _bandwidth(args: argparse.Namespace, engine: Engine) -> float:
    """Bytes/s of the memory that the engine reads."""
    if engine.manifest.backend.name == "torch":
        session = engine.stepper.session
        assert isinstance(session, MeasuresBandwidth)
        return session.read_bandwidth()
    return read_bandwidth(args.threads)


def _labels(paths: Sequence[Path]) -> list[str]:
    """The names of several engines' directories; numbers and paths where they repeat."""
    if len(paths) == 1:
        return [""]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number}: {path}" for number, path in enumerate(paths, 1)]
    return names


def _loads(args: argparse.Namespace, engine: Engine) -> list[tuple[Plan, int | None, list[Prompt]]]:
    """(plan, context, prompts) of each table."""
    found: list[tuple[Plan, int | None, list[Prompt]]] = []
    for batch in args.batch:
        plan = Plan(args.new_tokens, args.rounds, batch)
        for context in args.context or (None,):
            count = max(MIN_PROMPTS, batch)
            prompts = _prompts(engine, args, count)
            if context is not None:
                text = None if args.quality is None or _stored(args) else args.quality
                prompts = list(cut_prompts(engine, prompts, context, count, text))
            found.append((plan, context, prompts))
    return found


def _prompts(engine: Engine, args: argparse.Namespace, count: int) -> list[Prompt]:
    """As token ids, so that peers read the same."""
    if engine.tokenizer is None:
        if args.prompt or args.chat:
            raise RiverError("this engine has no tokenizer; bench it without --prompt and --chat")
        return [list(range(min(16, engine.manifest.model.shape.vocab_size)))]
    built_in_chat = not args.prompt and engine.tokenizer.has_chat_template
    chat = args.chat or built_in_chat
    prompts: list[Prompt] = []
    for text in args.prompt or BUILT_IN[:count]:
        prompt = encode_prompt(engine, text, args, chat)
        prompts.append(engine.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
    return prompts


def _stored(args: argparse.Namespace) -> bool:
    return args.quality is not None and args.quality.suffix == ".json"


def _quality(
    args: argparse.Namespace, contestants: Sequence[EngineArm], progress: Progress
) -> dict[str, ArmQuality]:
    """Scores by the name of the contestant."""
    if args.quality is None:
        return {}
    if _stored(args):
        return stored_quality(args.quality, contestants)
    with needs_extra("scoring a text", "build"):
        from builders.evaluation.contestants import score_contestants

        return score_contestants(contestants, args.quality, args.pieces, QUALITY_TOKENS, progress)


def _peers(
    args: argparse.Namespace, stack: ExitStack, progress: Progress
) -> tuple[list[Peer], list[str]]:
    """Running peers, and what is missing of `all`; one asked for by name must be there."""
    if not args.peer:
        return [], []
    work = args.work or private_folder("peers")
    names = list(EXTRAS) if "all" in args.peer else list(dict.fromkeys(args.peer))
    peers, missing = [], []
    for number, name in enumerate(names):
        progress("starting peers", number, len(names))
        try:
            peers.append(stack.enter_context(Peer(name, args.model, work, args.threads)))
        except MissingDependencyError as error:
            if "all" not in args.peer:
                raise
            missing.append(str(error))
            stderr_console().print(f"not measured: {error}", soft_wrap=True)
    progress("starting peers", len(names), len(names))
    return peers, missing


COMMAND = Command(
    "bench",
    "Measure engines, their modes and other runtimes side by side, in one run.",
    EXAMPLES,
    add_arguments,
    execute,
)
