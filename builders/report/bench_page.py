"""The page of a benchmark: speed-up over depth with the roof that memory sets, and the figures."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from builders.report.page import STYLE
from builders.report.svg import Plot, layer_ticks, ticks
from river_trt.benchmark.result import BenchCase, BenchResult
from river_trt.benchmark.summary import ArmSummary
from river_trt.errors import RiverError

SIZE = (900, 430)
STYLES = ("calibrated", "paper", "static", "fixed")  # of the engines, in turn: style.css
PEER_NAMES = (0.9, 0.7, 0.5)  # of the width
PEER_STYLE = "median"


def write_bench_page(result: BenchResult, path: Path) -> None:
    """Write it; RiverError when the file cannot be written."""
    try:
        path.write_text(render(result), encoding="utf-8")
    except OSError as error:
        raise RiverError(f"cannot write {path}: {error.strerror}") from error


def render(result: BenchResult) -> str:
    model = escape(result.engines[0].model)
    body = "\n".join(part for case in result.cases for part in _case(result, case))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{model}: decode speed</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{model}: decode speed</h1>\n"
        f'<p class="soft">{result.said_bandwidth} Lines: what '
        "reading the weights and the cache at that speed would allow at each depth, one an engine. "
        "Dots: what was measured. Level lines: other runtimes on the same weights.</p>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _case(result: BenchResult, case: BenchCase) -> Iterator[str]:
    yield f"<section><h2>{escape(case.title().capitalize())}</h2>"
    yield _legend(result)
    yield speed_chart(result, case)
    yield _table(result, case) + "</section>"


def speed_chart(result: BenchResult, case: BenchCase) -> str:
    """Speed over the baseline's, over mean backbone layers."""
    baseline = case.summaries[0].tokens_per_second.median
    layers = max(engine.num_layers for engine in result.engines)
    roofs = [_roof_line(result, case, place) for place in range(len(result.engines))]
    top = max(*(y for line in roofs for _, y in line), *(s.ratio for s in case.summaries)) * 1.06
    plot = Plot(
        *SIZE,
        (0, layers + 0.5),
        (0, top),
        "backbone layers a token, mean",
        "speed-up over the baseline's full depth",
        "Decode speed over mean backbone layers, with the roof that memory sets",
        layer_ticks(layers, 6),
        ticks(0, top),
    )
    for place, line in enumerate(roofs):
        plot.line(line, STYLES[place % len(STYLES)])
    peers = [summary for summary in case.summaries if summary.mean_backbone_layers is None]
    for place, peer in enumerate(sorted(peers, key=lambda summary: summary.ratio)):
        plot.line([(0, peer.ratio), (layers + 0.5, peer.ratio)], PEER_STYLE)
        # Names of neighbours stand side by side: their lines may lie close together.
        plot.note((plot.x(layers * PEER_NAMES[place % 3]), plot.y(peer.ratio) - 5), peer.name)
    for summary in case.summaries:
        speed, depth = summary.tokens_per_second, summary.mean_backbone_layers
        if depth is None:
            continue
        tip = f"{summary.name}: {speed.median:.1f} tokens/s"
        style = STYLES[result.arms[summary.name][0] % len(STYLES)]
        plot.whisker(depth, speed.least / baseline, speed.most / baseline, style)
        plot.dot((depth, summary.ratio), style, tip)
    return plot.render()


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
    heads = ["mode", "tokens/s", "ratio", "backbone layers", "of the roof", "KL, nats"]
    rows = [_row(result, case, summary) for summary in case.summaries]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _row(result: BenchResult, case: BenchCase, summary: ArmSummary) -> str:
    speed, roof = summary.tokens_per_second, summary.roof(result.bandwidth)
    depth, quality = summary.mean_backbone_layers, result.quality.get(summary.name)
    cells = [
        escape(summary.name),
        f"{speed.median:.1f}<small>{speed.least:.1f}-{speed.most:.1f}</small>",
        f"{summary.ratio:.2f}x",
        "" if depth is None else f"{depth:.1f}",
        "" if roof is None else f"{speed.median / roof:.0%}",
        "" if quality is None else f"{quality.kl:.4f}",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
