"""Calibrated policies beside the paper's gate, fixed exits and static masks, budget by budget.

One calibration of an engine serves all budgets; every policy is then scored on held-out text.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builders.calibration.budget import Budget
from builders.calibration.candidates import static_mask
from builders.calibration.material import Split
from builders.calibration.paper import PaperSearch
from builders.calibration.search import Search, pin_counts
from builders.evaluation.command import TextRun, open_subject
from builders.evaluation.policies import fixed_exit
from builders.evaluation.results import NamedPolicy
from builders.evaluation.text import ALL_RIVER, BACKBONE, evaluate_policies, read_pieces
from builders.report import PolicyPoint, ReportData, write_report
from builders.report.collect import point_of
from builders.report.data import Series
from river_trt.cli.console import show_progress
from river_trt.cli.evaluate_tables import describe
from river_trt.spec import ExitPolicy


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
    options = run.options
    budgets = [float(layers) for layers in args.layers.split(",")]
    with show_progress() as progress:
        subject = open_subject(run)
        layers = subject.num_layers
        split = Split.of(read_pieces(subject, options), str(run.text))
        counts = {n for b in budgets for n in pin_counts(Budget("target-layers", b), layers)}
        search = Search(subject, split, sorted(counts), run.skip, progress)
        paper = PaperSearch(subject, split.choose, run.skip, progress)
        rows: list[tuple[Series, NamedPolicy]] = [
            ("full depth", NamedPolicy(BACKBONE, ExitPolicy.full_depth(layers))),
            ("all river", NamedPolicy(ALL_RIVER, ExitPolicy.uniform(layers, float("-inf")))),
        ]
        for budget in budgets:
            found = search.at(budget)
            mask = static_mask(search.sensitivity, round(budget)).policy
            rows += [
                ("calibrated", NamedPolicy(f"{budget:g}: {found.description}", found.policy)),
                ("paper", NamedPolicy(f"{budget:g}: the paper's gate", paper.policy(budget))),
                ("fixed", NamedPolicy(f"{budget:g}: fixed exit", fixed_exit(layers, int(budget)))),
                ("static", NamedPolicy(f"{budget:g}: static mask", mask)),
            ]
        policies = [named for _, named in rows]
        # Evenly spread, as the pieces are over the text.
        scored = split.report[:: max(1, len(split.report) // args.scored)][: args.scored]
        results = evaluate_policies(subject, scored, policies, options, progress)
    table = Table("policy", "backbone layers", "KL, nats", "top-1", "perplexity")
    for result in results:
        table.add_row(
            result.name,
            f"{result.backbone_layers.value:.2f}",
            f"{result.kl.value:.4f} ({result.kl.low:.4f}-{result.kl.high:.4f})",
            f"{result.agreement.value:.1%} "
            f"({result.agreement.low:.1%}-{result.agreement.high:.1%})",
            f"{result.perplexity.value:.2f} "
            f"({result.perplexity.low:.2f}-{result.perplexity.high:.2f})",
        )
    Console(width=130).print(table)
    print(f"{results[0].positions} positions of {results[0].pieces} pieces, held out")
    if args.json is not None:
        args.json.write_text(json.dumps([describe(result) for result in results]) + "\n")
    if args.report is not None:
        points: list[PolicyPoint] = [
            point_of(result, series) for (series, _), result in zip(rows, results, strict=True)
        ]
        data = ReportData(
            model=subject.name,
            num_layers=layers,
            text=f"{args.text.name}: {results[0].positions} held-out positions",
            river=subject.river,
            points=tuple(points),
            commands=(" ".join(["python", "scripts/compare_policies.py", *sys.argv[1:]]),),
        )
        write_report(data, args.report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
