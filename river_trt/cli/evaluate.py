"""`river-trt evaluate`: what the river and its policies cost in quality, on text or on tasks."""

import argparse
import shlex
from pathlib import Path

from river_trt.cli.arguments import (
    add_load_arguments,
    add_text_arguments,
    engine_path,
    load_engine,
    parse_pinned,
    parse_tau,
)
from river_trt.cli.builders_import import needs_extra
from river_trt.cli.command import Command
from river_trt.cli.console import print_json, show_progress, stdout_console
from river_trt.cli.evaluate_tables import describe, print_results, print_scores
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError

EXAMPLES = """\
  river-trt evaluate engine/ --text wiki.txt                  backbone, all river and River
  river-trt evaluate engine/ --text wiki.txt --tau 0.95 --tau 0.98 --json
  river-trt evaluate engine/ --text wiki.txt --report report.html
  river-trt evaluate --model demo --text chats.jsonl          the torch reference, no engine
  river-trt evaluate engine/ --task gsm8k --data gsm8k_test.jsonl --limit 100
  river-trt evaluate engine/ --task humaneval --data HumanEval.jsonl --allow-code
  river-trt evaluate engine/ --task lm-eval:hellaswag --limit 200

Evaluating needs the extra `build` of river-trt; lm-eval tasks the extra `evaluate`.
"""
TASKS = ("gsm8k", "humaneval", "lm-eval:NAME")
TASK_OPTIONS = (
    *("data", "chat", "limit", "max_new_tokens", "task_path", "allow_code"),
    "unsafe_execution",
    "resume",
    "max_seq_len",  # with --text, the pieces say it
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_load_arguments(parser)
    parser.add_argument("--model", help="evaluate the torch reference of a model, not an engine")
    parser.add_argument("--quantiser", metavar="NAME", help="river of --model (default: recipe's)")
    parser.add_argument(
        "--tau",
        type=parse_tau,
        action="append",
        default=[],
        metavar="X",
        help="a policy with this threshold too; may be given several times",
    )
    parser.add_argument(
        "--pinned",
        type=parse_pinned,
        metavar="1,30",
        help="pinned layers of the policies of --tau; `none` for no layer (default: the engine's)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")

    text = parser.add_argument_group("text")
    add_text_arguments(text, 16, "pieces of text, spread over the file")
    text.add_argument(
        "--report", type=Path, metavar="HTML", help="write a page with charts; takes minutes more"
    )

    task = parser.add_argument_group("task")
    task.add_argument("--task", metavar="NAME", help=f"one of {', '.join(TASKS)}")
    task.add_argument("--data", type=Path, metavar="FILE", help="JSONL with the task's questions")
    task.add_argument("--chat", action="store_true", help="ask through the chat template")
    task.add_argument("--limit", type=int, metavar="N", help="the first N questions only")
    task.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="of an answer (default: the task's)"
    )
    task.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="keep every answer here as it comes, and ask no question again that has one",
    )
    task.add_argument(
        "--task-path", type=Path, metavar="DIR", help="more lm-eval task definitions (YAML)"
    )
    task.add_argument(
        "--allow-code",
        action="store_true",
        help="let humaneval run the code that the model writes, in namespaces of its own",
    )
    task.add_argument(
        "--unsafe-execution",
        action="store_true",
        help="run it even where the system gives it none: it then has your rights",
    )


def execute(args: argparse.Namespace) -> int:
    _check(args)
    if args.text is not None:
        return _evaluate_text(args)
    return _evaluate_task(args)


def _check(args: argparse.Namespace) -> None:
    """What is wrong with the arguments is said before anything is loaded."""
    if (args.text is None) == (args.task is None):
        raise RiverError("give --text FILE or --task NAME, one of them")
    engines = [path for path in (args.engine, args.engine_option) if path is not None]
    if (args.model is None) != (len(engines) == 1):
        raise RiverError("give one engine directory, or --model for the torch reference")
    if args.text is not None:
        for option in TASK_OPTIONS:
            if getattr(args, option) not in (None, False):
                raise RiverError(f"--{option.replace('_', '-')} belongs to --task")
    else:
        for option in ("report", "model"):
            if getattr(args, option) is not None:
                raise RiverError(f"--{option} goes with --text; a task needs an engine")
        for option in ("limit", "max_new_tokens"):
            value = getattr(args, option)
            if value is not None and value < 1:
                raise RiverError(f"--{option.replace('_', '-')} must be at least 1, got {value}")
    if args.quantiser is not None and args.model is None:
        raise RiverError("--quantiser goes with --model; an engine has its river already")


def _evaluate_text(args: argparse.Namespace) -> int:
    with needs_extra("evaluating", "build"):
        from builders.evaluation.command import TextRun, evaluate_text

    run = TextRun(
        engine=None if args.model else engine_path(args),
        model=args.model,
        quantiser=args.quantiser,
        text=args.text,
        taus=tuple(args.tau),
        pinned=args.pinned,
        pieces=args.pieces,
        piece_tokens=args.piece_tokens,
        skip=args.skip,
        seed=args.seed,
        threads=args.threads,
        verify=not args.no_verify,
        report=args.report,
        command=_command_line(args),
    )
    with show_progress() as progress:
        results = evaluate_text(run, progress)
    if args.json:
        print_json([describe(result) for result in results])
    else:
        print_results(results)
        if args.report is not None:
            stdout_console().print(f"report: {args.report}", soft_wrap=True)
    return 0


def _command_line(args: argparse.Namespace) -> str:
    """What makes the same report again."""
    subject = ["--model", args.model] if args.model else [str(engine_path(args))]
    words = ["river-trt", "evaluate", *subject, "--text", str(args.text)]
    for option in ("pieces", "piece_tokens", "skip", "seed", "report"):
        words += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    for tau in args.tau:
        words.append(f"--tau={tau if isinstance(tau, float) else ','.join(map(str, tau))}")
    return shlex.join(words)


def _evaluate_task(args: argparse.Namespace) -> int:
    with needs_extra("evaluating", "build"):
        from builders.tasks import TaskRun, evaluate_task
        from builders.tasks.asking import TOGETHER

    run = TaskRun(
        task=args.task,
        data=args.data,
        taus=tuple(args.tau),
        pinned=args.pinned,
        chat=args.chat,
        limit=args.limit,
        max_new_tokens=args.max_new_tokens,
        task_path=args.task_path,
        allow_code=args.allow_code,
        unsafe_execution=args.unsafe_execution,
        resume=args.resume,
        seed=args.seed,
    )
    run.check()
    with show_progress() as progress, needs_extra("this task", "evaluate"):
        manifest = read_engine_dir(engine_path(args), verify=False)
        together = TOGETHER if manifest.backend.name != "tensorrt-llm" else {}  # has its own loop
        engine = load_engine(args, progress, **together)
        scores = evaluate_task(engine, run, progress)
    if args.json:
        print_json([describe(score) for score in scores])
    else:
        print_scores(scores)
    return 0


COMMAND = Command(
    "evaluate",
    "Measure quality on a text or a task: backbone, all river and River side by side.",
    EXAMPLES,
    add_arguments,
    execute,
)
