"""What `evaluate` prints: policies side by side, then the layers of the engine's own."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.bar import Bar

from river_trt.cli.console import stdout_console
from river_trt.cli.tables import plain_table, print_table
from river_trt.spec import ExitPolicy

if TYPE_CHECKING:  # the builders are imported when called
    from builders.evaluation.intervals import Estimate
    from builders.evaluation.results import PolicyResult
    from builders.tasks import TaskScore

BAR_WIDTH = 24


def describe(value: Any) -> Any:
    """Dataclasses as JSON: a policy as tau, pins and gate; infinities as "inf" and "-inf"."""
    if isinstance(value, ExitPolicy):
        pinned = (np.flatnonzero(value.pinned) + 1).tolist()
        return {"gate": value.gate, "tau": describe(value.tau.tolist()), "pinned": pinned}
    if dataclasses.is_dataclass(value):
        return {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def print_results(results: Sequence["PolicyResult"]) -> None:
    """One line a policy, then exits and cache cosines of the engine's own."""
    print_policies(results)
    _print_layers(results)


def print_policies(results: Sequence["PolicyResult"]) -> None:
    """One line a policy."""
    table = plain_table()
    table.add_column("policy")
    for header in ("KL, nats", "top-1", "perplexity", "depth"):
        table.add_column(header, justify="right")
    for result in results:
        table.add_row(
            result.name,
            _with_interval(result.kl, "{:.4f}"),
            _with_interval(result.agreement, "{:.1%}"),
            _with_interval(result.perplexity, "{:.2f}"),
            f"{result.backbone_layers.value:.2f}",
        )
    console = stdout_console()
    print_table(console, table)
    first = results[0]
    console.print(
        f"{first.positions} positions of {first.pieces} pieces, teacher forced. Ranges: 95 % "
        "intervals over pieces.\n"
        f"depth: mean backbone layers a token, of {len(first.exit_counts)}\n"
    )


def _print_layers(results: Sequence["PolicyResult"]) -> None:
    river, own = results[1], results[2]
    table = plain_table(f"{own.name}, layer by layer; K and V beside the backbone's, cosine")
    table.add_column("layer", justify="right")
    table.add_column("exits", max_width=BAR_WIDTH)
    headers = ("share", "K", "V", "K, all river", "V, all river")
    for header in headers:
        table.add_column(header, justify="right")
    most = max(own.exit_counts)
    columns = (own.exit_counts, own.k_cosine, own.v_cosine, river.k_cosine, river.v_cosine)
    for layer, (count, *cosines) in enumerate(zip(*columns, strict=True), 1):
        table.add_row(
            str(layer),
            Bar(most, 0, count, color="cyan"),
            f"{count / own.positions:.0%}" if count else "",
            *(f"{cosine:.3f}" for cosine in cosines),
        )
    print_table(stdout_console(), table)


def print_scores(scores: Sequence["TaskScore"]) -> None:
    table = plain_table(scores[0].task)
    table.add_column("policy")
    for header in ("score", "questions", "tokens", "backbone layers"):
        table.add_column(header, justify="right")
    for score in scores:
        depth = "" if score.backbone_layers is None else f"{score.backbone_layers:.2f}"
        table.add_row(
            f"{score.policy}: {score.metric}",
            _with_interval(score.score, "{:.3f}"),
            str(score.questions),
            "" if score.tokens is None else str(score.tokens),
            depth,
        )
    print_table(stdout_console(), table)


def _with_interval(estimate: "Estimate", form: str) -> str:
    """Rounded alike: a value lies in its interval as they are printed."""
    value = form.format(estimate.value)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return value
    return f"{value} {form.format(estimate.low)}-{form.format(estimate.high)}"
