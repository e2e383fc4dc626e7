"""KV strategies side by side on text: each with one tau, or each at one mean depth."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from builders.decoder import RiverDecoder
from builders.evaluation.intervals import Estimate, bootstrap_mean
from builders.evaluation.metrics import agreement, kl_divergence, surprise
from builders.evaluation.results import exponential
from builders.evaluation.subject import DecoderSubject
from builders.evaluation.text import TextOptions, read_pieces
from builders.recipes import load_recipe
from scripts.research.kv_strategies import (
    READOUTS,
    STRATEGIES,
    Readout,
    Strategy,
    StrategyRun,
    run_strategy,
)

INFINITE = float("inf")
# For the tau that gives a mean depth.
SEARCH_RANGE, SEARCH_STEPS, SEARCH_TEXTS = (0.95, 1.0), 6, 2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Text:
    ids: torch.Tensor  # [seq]
    full_depth: StrategyRun


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
    decoder: RiverDecoder,
    texts: Sequence[Text],
    skip: int,
    readout: Readout,
    strategy: Strategy,
    tau: float,
) -> Row:
    columns = [score(decoder, text, skip, tau, strategy, readout) for text in texts]
    return summarise(readout, strategy, tau, columns)


def score(
    decoder: RiverDecoder, text: Text, skip: int, tau: float, name: Strategy, readout: Readout
) -> list[torch.Tensor]:
    """[positions] each, in the order of Row's columns."""
    run = run_strategy(decoder, text.ids, tau, name, readout, text.full_depth)
    scored = slice(skip, len(text.ids) - 1)
    expected, logits = text.full_depth.logits[scored], run.logits[scored]
    layers = (run.exit_layer, run.river_layers, run.recomputed_layers, run.projected_layers)
    return [
        kl_divergence(expected, logits),
        agreement(expected, logits),
        surprise(logits, text.ids[skip + 1 :]),
        *(column[scored] for column in layers),
    ]


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
    decoder: RiverDecoder,
    texts: Sequence[Text],
    skip: int,
    readout: Readout,
    strategy: Strategy,
    depth: float,
) -> float:
    """Bisection."""
    low, high = SEARCH_RANGE
    for _ in range(SEARCH_STEPS):
        tau = (low + high) / 2
        row = measure(decoder, texts, skip, readout, strategy, tau)
        low, high = (tau, high) if row.backbone_layers < depth else (low, tau)
    return (low + high) / 2


def report(title: str, rows: Sequence[Row], as_json: bool) -> None:
    """A table, or one line of JSON."""
    if as_json:
        print(json.dumps({"title": title, "rows": [dataclasses.asdict(row) for row in rows]}))
        return
    table = Table(title=title)
    for header in ("readout", "strategy", "tau", "KL, nats", "top-1", "perplexity"):
        table.add_column(header)
    for header in ("backbone", "river", "recomputed", "projected"):
        table.add_column(header, justify="right")
    for row in rows:
        layers = (row.backbone_layers, row.river_layers, row.recomputed_layers)
        table.add_row(
            row.readout,
            row.strategy,
            f"{row.tau:.4f}",
            interval(row.kl, "{:.3f}"),
            interval(row.agreement, "{:.1%}"),
            interval(row.perplexity, "{:.1f}"),
            *(f"{value:.2f}" for value in (*layers, row.projected_layers)),
        )
    Console(width=max(120, Console().width)).print(table)


def interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return form.format(estimate.value)
    low, high = form.format(estimate.low), form.format(estimate.high)
    return f"{form.format(estimate.value)} [{low}, {high}]"


def compare(
    model: str,
    options: TextOptions,
    tau: float,
    readouts: Sequence[Readout] = READOUTS,
    depth: float | None = None,  # mean backbone layers of a second table
) -> dict[str, list[Row]]:
    """Rows by the title of their table. Teacher forced, on the torch reference of the model."""
    subject = DecoderSubject.open(model, load_recipe("cpu", {}), options.piece_tokens)
    decoder, skip = subject.decoder, options.skip
    texts = []
    for piece in read_pieces(subject, options):
        ids = torch.from_numpy(piece)
        texts.append(Text(ids, run_strategy(decoder, ids, INFINITE, "share", "river")))
    arms = [
        (readout, name)
        for readout in readouts
        for name in STRATEGIES
        if name != "share" or readout == "river"  # its one readout
    ]
    tables = {
        f"the same gate, tau {tau:g}": [
            measure(decoder, texts, skip, readout, name, tau) for readout, name in arms
        ]
    }
    if depth is not None:
        few, rows = texts[:SEARCH_TEXTS], []
        for readout, name in arms:
            own = tau_for_depth(decoder, few, skip, readout, name, depth)
            rows.append(measure(decoder, texts, skip, readout, name, own))
        tables[f"{depth:g} backbone layers each"] = rows
    return tables
