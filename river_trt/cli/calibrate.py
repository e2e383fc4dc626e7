"""`river-trt calibrate`: the exit policy that keeps most quality within a budget."""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from river_trt.cli.arguments import add_load_arguments, add_text_arguments, engine_path
from river_trt.cli.builders_import import needs_extra
from river_trt.cli.command import Command
from river_trt.cli.console import format_layers, print_json, show_progress, stdout_console
from river_trt.cli.evaluate_tables import describe, print_policies
from river_trt.cli.inspect import summarise_tau
from river_trt.cli.tables import facts_table, plain_table, print_table
from river_trt.engine_dir import read_engine_dir, replace_draft, replace_policy
from river_trt.errors import RiverError
from river_trt.policy_file import PolicyFile

if TYPE_CHECKING:  # the builders are imported when called
    from builders.calibration.budget import Budget
    from builders.calibration.command import Calibration

EXAMPLES = """\
  river-trt calibrate engine/ --text wiki.txt --target-layers 6      as fast as 6 layers allow
  river-trt calibrate engine/ --text wiki.txt --max-kl 0.05          as fast as this quality allows
  river-trt calibrate engine/ --text chats.jsonl --min-agreement 0.9 --report report.html
  river-trt calibrate engine/ --text wiki.txt --target-layers 6 --policy paper
  river-trt calibrate --model demo --text wiki.txt --max-kl 0.05 --save policy.json
  river-trt calibrate engine/ --apply policy.json                    one found elsewhere
  river-trt calibrate engine/ --text wiki.txt --named                all of them anew, as at build
  river-trt calibrate engine/ --text wiki.txt --draft                what drafts in lossless mode

The policy goes into the engine's manifest; nothing is built again. It is that of calls which name
none: named policies (quality, balanced, fast) stay as they are without --named. Half of the text is
held out and only reported on. Calibrating needs the extra `build` of river-trt; --apply does not.
"""
BUDGETS = {  # option: metavar, help
    "max-kl": ("X", "fewest layers with at most this KL to the backbone, nats a token"),
    "min-agreement": (
        "X",
        "fewest layers that choose the backbone's token this often, 0..1",
    ),
    "target-layers": ("X", "least KL with this many backbone layers a token, on average"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_load_arguments(parser)
    parser.add_argument("--model", help="calibrate a model's torch reference, not an engine")
    parser.add_argument("--quantiser", metavar="NAME", help="river of --model (default: recipe's)")
    budget = parser.add_argument_group("budget, one of")
    for name, (metavar, help_text) in BUDGETS.items():
        budget.add_argument(f"--{name}", type=float, metavar=metavar, help=help_text)
    parser.add_argument(
        "--draft",
        action="store_true",
        help="no budget: choose the layers pinned while drafting for `run --lossless`",
    )
    parser.add_argument(
        "--named",
        action="store_true",
        help="no budget: the engine's policy and its named ones for KL 0.03, 0.05 and 0.1",
    )
    parser.add_argument(
        "--policy",
        choices=("calibrated", "paper"),
        default="calibrated",
        help="paper: similarity gate, one tau, no pins (default: %(default)s)",
    )
    add_text_arguments(
        parser, 64, "pieces of text, spread over the file; half of them are held out"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="leave the engine as it is, only show what was found"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the policy to a file too")
    parser.add_argument(
        "--apply", type=Path, metavar="FILE", help="store a saved policy in the engine, no search"
    )
    parser.add_argument(
        "--report", type=Path, metavar="HTML", help="write a page with charts; takes minutes more"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def execute(args: argparse.Namespace) -> int:
    engines = [path for path in (args.engine, args.engine_option) if path is not None]
    if (args.model is None) != (len(engines) == 1):
        raise RiverError("give one engine directory, or --model for the torch reference")
    if args.apply is not None:
        return _apply(args)
    if args.text is None:
        raise RiverError("give --text FILE: what the policy is calibrated on")
    if args.named:
        return _calibrate_named(args)
    if args.draft:
        return _calibrate_draft(args)
    if args.model is not None and args.save is None:
        raise RiverError("--model has no engine to store the policy in; add --save FILE")
    with needs_extra("calibrating", "build"):
        from builders.calibration.command import calibrate
        from builders.evaluation.command import TextRun

    budget = _budget(args)
    run = TextRun(
        engine=None if args.model else engine_path(args),
        model=args.model,
        quantiser=args.quantiser,
        report=args.report,
        command=" ".join(["river-trt", *map(shlex.quote, sys.argv[1:])]),
        **_text_options(args),
    )
    with show_progress() as progress:
        found = calibrate(run, args.policy, budget, progress)
    stored = _store(args, found)
    if args.json:
        print_json(_document(found, stored))
    else:
        _print(found, budget, stored)
    return 0


def _text_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("text", "pieces", "piece_tokens", "skip", "seed", "threads")
    return {name: getattr(args, name) for name in names} | {"verify": not args.no_verify}


def _calibrate_named(args: argparse.Namespace) -> int:
    _leave_out_options(args, "--named finds an engine's policies for their own budgets")
    with needs_extra("calibrating", "build"):
        from builders.build import DEFAULT_QUALITY
        from builders.calibration.named import calibrate_named
        from builders.evaluation.command import TextRun

    path = engine_path(args)
    run = TextRun(engine=path, model=None, **_text_options(args))
    with show_progress() as progress:
        found = calibrate_named(run, DEFAULT_QUALITY, progress)
    manifest = read_engine_dir(path, verify=False)
    if not args.dry_run:
        found.store(path, manifest)
    summaries = {item.result.name: item.summary(manifest) for item in found.named}
    stored = [] if args.dry_run else [str(path)]
    if args.json:
        print_json({"policies": summaries, "stored": stored})
        return 0
    facts = [*summaries.items(), ("stored", ", ".join(stored) or "nowhere: --dry-run")]
    stdout_console().print(facts_table(facts))
    return 0


def _leave_out_options(args: argparse.Namespace, why: str) -> None:
    given = {option: getattr(args, option.replace("-", "_")) for option in BUDGETS}
    given |= {option: getattr(args, option) for option in ("model", "quantiser", "save", "report")}
    given["policy"] = None if args.policy == "calibrated" else args.policy
    given["draft"] = True if args.draft and args.named else None
    for option, value in given.items():
        if value is not None:
            raise RiverError(f"{why}; leave --{option} out")


def _calibrate_draft(args: argparse.Namespace) -> int:
    _leave_out_options(args, "--draft chooses pins of an engine")
    with needs_extra("calibrating", "build"):
        from builders.calibration.draft import calibrate_draft
        from builders.evaluation.command import TextRun

    path = engine_path(args)
    run = TextRun(engine=path, model=None, **_text_options(args))
    with show_progress() as progress:
        found = calibrate_draft(run, progress)
    stored = [] if args.dry_run else [str(path)]
    if not args.dry_run:
        replace_draft(path, found.draft)
    if args.json:
        results = [dataclasses.asdict(result) for result in found.results]
        print_json({"draft": dataclasses.asdict(found.draft), "results": results, "stored": stored})
        return 0
    table = plain_table()
    for name in ("pinned", "accepted", "draft step", "length", "promised"):
        table.add_column(name, justify="right")
    for result in found.results:
        mark = " *" if result is found.best else ""
        table.add_row(
            format_layers(result.pinned) + mark,
            f"{result.acceptance:.1%}",
            f"{result.step_cost:.2f}",
            str(result.length),
            f"{result.speedup:.2f}x",
        )
    console = stdout_console()
    print_table(console, table)
    console.print(
        "accepted: of drafted tokens whose predecessors were; draft step: in full-depth steps, by\n"
        "bytes; length: tokens of the best draft; promised: speed-up over full depth\n"
        f"* stored: {', '.join(stored) or 'nowhere: --dry-run'}",
        soft_wrap=True,
    )
    return 0


def _budget(args: argparse.Namespace) -> "Budget":
    from builders.calibration.budget import Budget, BudgetKind

    given = [
        Budget(kind, value)
        for kind in get_args(BudgetKind)
        if (value := getattr(args, kind.replace("-", "_"))) is not None
    ]
    if len(given) != 1:
        raise RiverError(f"give one budget: {', '.join(f'--{name}' for name in BUDGETS)}")
    return given[0]


def _apply(args: argparse.Namespace) -> int:
    if args.model is not None:
        raise RiverError("--apply stores a policy in an engine; give one in place of --model")
    path = engine_path(args)
    manifest, saved = read_engine_dir(path, verify=not args.no_verify), PolicyFile.read(args.apply)
    shape = manifest.model.shape
    saved.check_model(manifest.model.config_sha256, shape.num_layers, shape.hidden_size)
    if manifest.backend.name == "tensorrt-llm":
        raise RiverError(
            "the policy is a constant of a TensorRT-LLM engine; convert and build it again with "
            f"--policy {args.apply}"
        )
    replace_policy(path, saved.policy, saved.calibration)
    stdout_console().print(f"{path}: {saved.calibration}", soft_wrap=True)
    return 0


def _store(args: argparse.Namespace, found: "Calibration") -> list[str]:
    """Where the policy went."""
    stored = []
    if args.save is not None:
        saved = PolicyFile(found.model, found.config_sha256, found.summary, found.policy)
        saved.write(args.save)
        stored.append(str(args.save))
    if args.model is None and not args.dry_run:
        path = engine_path(args)
        replace_policy(path, found.policy, found.summary)
        stored.append(str(path))
    return stored


def _document(found: "Calibration", stored: list[str]) -> dict[str, object]:
    return {
        "policy": describe(found.policy),
        "description": found.description,
        "calibration": found.summary,
        "budget_met": found.budget_met,
        "results": [describe(result) for result in found.results],
        "stored": stored,
    }


def _print(found: "Calibration", budget: "Budget", stored: list[str]) -> None:
    pinned = (np.flatnonzero(found.policy.pinned) + 1).tolist()
    console = stdout_console()
    console.print(
        facts_table(
            [
                ("policy", found.description),
                ("tau", summarise_tau(tuple(found.policy.tau.tolist()))),
                ("pinned", format_layers(pinned)),
                ("stored", ", ".join(stored) or "nowhere: --dry-run"),
            ]
        )
    )
    console.print("\non held-out text, with as many backbone layers:")
    print_policies(found.results)
    if not found.budget_met:
        console.print(
            f"--{budget.kind} {budget.value:g} is met on the text of the search but not on the "
            "held-out half: take a tighter budget, or more text with --pieces"
        )


COMMAND = Command(
    "calibrate",
    "Choose the exit policy for a budget of quality or of layers.",
    EXAMPLES,
    add_arguments,
    execute,
)
