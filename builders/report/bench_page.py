"""The page of a benchmark: speed-up over depth with the roof that memory sets, and the figures."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from builders.report.page import document
from builders.report.svg import Plot, layer_ticks, ticks
from river_trt.benchmark.result import BenchCase, BenchResult
from river_trt.benchmark.summary import ArmSummary
from river_trt.errors import RiverError

WIDE, NARROW = (900, 430), (400, 400)
STYLES = ("calibrated", "paper", "static", "fixed")  # of the engines, in turn: style.css
PEER_PLACES = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)  # of a name on its line, in its width
FASTER_THAN_MEMORY = (
    "Above its line, or over 100 % of the roof: what a step reads was in part still in the "
    "processor's caches, or the memory was slower while its speed was measured than in the rounds."
)


def write_bench_page(result: BenchResult, path: Path) -> None:
    """Write it; RiverError when the file cannot be written."""
    try:
        path.write_text(render(result), encoding="utf-8")
    except OSError as error:
        raise RiverError(f"cannot write {path}: {error.strerror}") from error


def render(result: BenchResult) -> str:
    model = result.engines[0].model
    lines = (
        f"{result.said_bandwidth} Lines: the roof, what reading the weights and the cache at that "
        "speed would allow at each depth, one an engine. Dots: what was measured, with whiskers "
        "from the slowest round to the fastest. Level lines: what has no depth, lossless mode and "
        "other runtimes on the same weights."
    )
    parts = [f"<h1>{escape(model)}: decode speed</h1>", f'<p class="soft">{escape(lines)}</p>']
    parts += [part for case in result.cases for part in _case(result, case)]
    return document(f"{model}: decode speed", "\n".join(parts))


def _case(result: BenchResult, case: BenchCase) -> Iterator[str]:
    yield f"<section><h2>{escape(case.title().capitalize())}</h2>"
    yield _legend(result)
    yield speed_chart(result, case, *WIDE, "wide")
    yield speed_chart(result, case, *NARROW, "narrow")
    if any(share > 1 for s in case.summaries if (share := _share(result, s)) is not None):
        yield f'<p class="soft">{escape(FASTER_THAN_MEMORY)}</p>'
    yield _table(result, case) + "</section>"


def speed_chart(
    result: BenchResult, case: BenchCase, width: int, height: int, css_class: str
) -> str:
    """Speed over that of the first engine's full depth, over mean backbone layers."""
    first = case.summaries[0]
    layers = max(engine.num_layers for engine in result.engines)
    roofs = [_roof_line(result, case, place) for place in range(len(result.engines))]
    top = max(*(y for line in roofs for _, y in line), *(s.ratio for s in case.summaries)) * 1.06
    plot = Plot(
        width,
        height,
        (0, layers + 0.5),
        (0, top),
        "backbone layers a token, mean",
        f"speed, {first.name} = 1",
        "Decode speed over mean backbone layers, with the roof that memory sets",
        layer_ticks(layers, 6),
        ticks(0, top),
    )
    for place, line in enumerate(roofs):
        plot.line(line, STYLES[place % len(STYLES)])
    measured = [summary for summary in case.summaries if summary.mean_backbone_layers is not None]
    level = [summary for summary in case.summaries if summary.mean_backbone_layers is None]
    for summary in level:
        plot.line([(0, summary.ratio), (layers + 0.5, summary.ratio)], "peer")
    for summary in measured:
        speed, depth = summary.tokens_per_second, summary.mean_backbone_layers
        assert depth is not None
        style, one = _style(result, summary), first.tokens_per_second.median
        plot.whisker(depth, speed.least / one, speed.most / one, style)
        plot.dot((depth, summary.ratio), style, f"{summary.name}: {speed.median:.1f} tokens/s")
    for summary in measured:
        assert summary.mean_backbone_layers is not None
        mode = result.arms[summary.name][1].name  # the colour is the engine's
        plot.name_dot((summary.mean_backbone_layers, summary.ratio), mode, "small")
    for summary in level:
        y = plot.y(summary.ratio) - 5
        plot.name(summary.name, [(plot.x(layers * place), y) for place in PEER_PLACES], "small")
    return plot.render(css_class)


def _style(result: BenchResult, summary: ArmSummary) -> str:
    return STYLES[result.arms[summary.name][0] % len(STYLES)]


def _share(result: BenchResult, summary: ArmSummary) -> float | None:
    """Of the roof, of what memory would allow."""
    roof = summary.roof(result.bandwidth)
    return None if roof is None else summary.tokens_per_second.median / roof


def _roof_line(result: BenchResult, case: BenchCase, place: int) -> list[tuple[float, float]]:
    """Bytes of equal rows at each depth; what they read beside the layers is as measured."""
    engine, baseline = result.engines[place], case.summaries[0]
    measured = next(s for s in case.summaries if result.arms.get(s.name, (None,))[0] == place)
    assert measured.bytes_per_step is not None and measured.mean_backbone_layers is not None
    counts, num_layers = engine.bytes_per_layer, engine.num_layers
    other = measured.bytes_per_step - counts.per_token(measured.mean_backbone_layers, num_layers)
    rows = measured.tokens_per_second.median * measured.step_seconds
    return [
        (
            float(depth),
            rows
            * result.bandwidth
            / (counts.per_token(depth, num_layers) + max(0.0, other))
            / baseline.tokens_per_second.median,
        )
        for depth in np.linspace(1, num_layers, 60)
    ]


def _legend(result: BenchResult) -> str:
    items = [
        f'<li><i class="{STYLES[place % len(STYLES)]}"></i>'
        f"{escape(engine.label or engine.model)}: backbone {engine.backbone}</li>"
        for place, engine in enumerate(result.engines)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(result: BenchResult, case: BenchCase) -> str:
    heads = ["mode", "tokens/s", "speed", "backbone layers", "of the roof"]
    heads += ["KL, nats"] if result.quality else []
    rows = [_row(result, case, summary) for summary in case.summaries]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _row(result: BenchResult, case: BenchCase, summary: ArmSummary) -> str:
    speed, share = summary.tokens_per_second, _share(result, summary)
    depth, quality = summary.mean_backbone_layers, result.quality.get(summary.name)
    cells = [
        escape(summary.name),
        f"{speed.median:.1f}<small>{speed.least:.1f}-{speed.most:.1f}</small>",
        f"{summary.ratio:.2f}x",
        "" if depth is None else f"{depth:.1f}",
        "" if share is None else f"{share:.0%}",
    ]
    if result.quality:
        cells.append("" if quality is None else f"{quality.kl:.4f}")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
