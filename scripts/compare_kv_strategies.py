"""What becomes of a token's missing K and V: share, recompute, propagate, mask, monotone exit.

The same similarity gate and tau for each, on the torch reference, teacher forced. Then each at the
same mean backbone layers as `share`, with a tau of its own. builders/kv_strategies.py defines them.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from builders.evaluation.intervals import Estimate, bootstrap_mean
from builders.evaluation.metrics import agreement, kl_divergence, surprise
from builders.evaluation.results import exponential
from builders.evaluation.subject import DecoderSubject
from builders.evaluation.text import TextOptions, read_pieces
from builders.kv_strategies import READOUTS, STRATEGIES, Readout, Strategy, run_strategy
from builders.recipes import load_recipe

INFINITE = float("inf")
SEARCH_STEPS, SEARCH_PIECES = 8, 3  # of the tau that gives a mean depth


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    readout: Readout
    strategy: Strategy
    tau: float
    kl: Estimate
    agreement: Estimate
    perplexity: Estimate
    backbone_layers: float
    river_layers: float
    recomputed_layers: float
    projected_layers: float


def measure(
    subject: DecoderSubject,
    pieces: Sequence[np.ndarray],
    skip: int,
    readout: Readout,
    strategies: dict[Strategy, float],  # with their tau
) -> list[Row]:
    columns: dict[Strategy, list[list[torch.Tensor]]] = {name: [] for name in strategies}
    for piece in pieces:
        ids = torch.from_numpy(piece)
        full = run_strategy(subject.decoder, ids, INFINITE, "share", "river")
        scored = slice(skip, len(ids) - 1)
        for name, tau in strategies.items():
            run = run_strategy(subject.decoder, ids, tau, name, readout, full)
            expected, logits = full.logits[scored], run.logits[scored]
            scores = [
                kl_divergence(expected, logits),
                agreement(expected, logits),
                surprise(logits, ids[skip + 1 :]),
                run.exit_layer[scored],
                run.river_layers[scored],
                run.recomputed_layers[scored],
                run.projected_layers[scored],
            ]
            columns[name].append(scores)
    return [summarise(readout, name, strategies[name], columns[name]) for name in strategies]


def summarise(
    readout: Readout, strategy: Strategy, tau: float, pieces: list[list[torch.Tensor]]
) -> Row:
    counts = np.array([len(scores[0]) for scores in pieces])
    kl, agreed, nats, *layers = (
        bootstrap_mean(np.array([float(s.double().sum()) for s in column]), counts)
        for column in zip(*pieces, strict=True)
    )
    means = [estimate.value for estimate in layers]
    return Row(readout, strategy, tau, kl, agreed, exponential(nats), *means)


def tau_for_depth(
    subject: DecoderSubject,
    pieces: Sequence[np.ndarray],
    skip: int,
    readout: Readout,
    strategy: Strategy,
    depth: float,
) -> float:
    """Bisection on a few pieces."""
    low, high = 0.5, 1.0
    for _ in range(SEARCH_STEPS):
        tau = (low + high) / 2
        (row,) = measure(subject, pieces[:SEARCH_PIECES], skip, readout, {strategy: tau})
        low, high = (tau, high) if row.backbone_layers < depth else (low, tau)
    return (low + high) / 2


def print_rows(title: str, rows: Sequence[Row]) -> None:
    table = Table(title=title)
    for header in ("readout", "strategy", "tau", "KL, nats", "top-1", "perplexity"):
        table.add_column(header)
    for header in ("backbone", "river", "recomputed", "projected"):
        table.add_column(header, justify="right")
    for row in rows:
        layers = (row.backbone_layers, row.river_layers, row.recomputed_layers)
        table.add_row(
            "river" if row.strategy == "share" else row.readout,
            row.strategy,
            f"{row.tau:.4f}",
            interval(row.kl, "{:.3f}"),
            interval(row.agreement, "{:.1%}"),
            interval(row.perplexity, "{:.1f}"),
            *(f"{value:.2f}" for value in (*layers, row.projected_layers)),
        )
    Console().print(table)


def interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return form.format(estimate.value)
    low, high = form.format(estimate.low), form.format(estimate.high)
    return f"{form.format(estimate.value)} [{low}, {high}]"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text, or .jsonl")
    parser.add_argument("--tau", type=float, default=0.97)
    parser.add_argument("--pieces", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a piece")
    parser.add_argument("--skip", type=int, default=32, help="first positions, not scored")
    parser.add_argument("--match", type=float, help="mean backbone layers of the second table")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)

    options = TextOptions(args.text, args.pieces, args.tokens, args.skip)
    subject = DecoderSubject.open(args.model, load_recipe("cpu", {}), args.tokens)
    pieces = read_pieces(subject, options)
    same = dict.fromkeys(STRATEGIES, args.tau)
    tables = {f"the same gate, tau {args.tau:g}": [
        row for readout in READOUTS for row in measure(subject, pieces, args.skip, readout, same)
    ]}  # fmt: skip
    if args.match is not None:
        rows = []
        for readout in READOUTS:
            taus = {
                name: tau_for_depth(subject, pieces, args.skip, readout, name, args.match)
                for name in STRATEGIES
            }
            rows += measure(subject, pieces, args.skip, readout, taus)
        tables[f"{args.match:g} backbone layers each"] = rows
    if args.json:
        print(json.dumps({k: [dataclasses.asdict(r) for r in v] for k, v in tables.items()}))
    else:
        for title, rows in tables.items():
            print_rows(title, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
