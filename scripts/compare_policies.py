"""Calibrated policies beside the paper's gate, fixed exits and static masks, budget by budget.

One calibration of an engine serves all budgets; every policy is then scored on held-out text.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from builders.evaluation.command import TextRun
from builders.report import write_report
from river_trt.cli.console import show_progress
from river_trt.cli.evaluate_tables import describe
from scripts.research.policies import compare


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--layers", default="4,6,10,14,22", help="budgets (default: %(default)s)")
    parser.add_argument("--pieces", type=int, default=64, help="of 256 tokens, half held out")
    parser.add_argument("--scored", type=int, default=16, help="of the held-out pieces")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--report", type=Path, metavar="HTML")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)

    run = TextRun(args.engine, None, args.text, pieces=args.pieces, threads=args.threads)
    budgets = [float(layers) for layers in args.layers.split(",")]
    with show_progress() as progress:
        found = compare(run, budgets, args.scored, progress)
    Console(width=130).print(found.table())
    print(f"{found.results[0].positions} positions of {found.results[0].pieces} pieces, held out")
    if args.json is not None:
        args.json.write_text(json.dumps([describe(result) for result in found.results]) + "\n")
    if args.report is not None:
        command = " ".join(["python", "scripts/compare_policies.py", *sys.argv[1:]])
        write_report(found.report(command), args.report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
