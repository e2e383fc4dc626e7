"""The page around the charts: headline, table, sections. No script, no network."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from builders.evaluation.intervals import Estimate
from builders.report.charts import STYLES, pareto_chart, policy_chart, similarity_chart
from builders.report.data import PolicyPoint, ReportData
from builders.report.sample import sample_html
from river_trt.errors import RiverError

STYLE = Path(__file__).with_name("style.css")
WIDE, NARROW, HALF = (900, 430), (400, 400), (440, 290)


def write_report(data: ReportData, path: Path) -> None:
    """Write the page; RiverError when the file cannot be written."""
    html = render(data)
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RiverError(f"cannot write {path}: {error.strerror}") from error


def render(data: ReportData) -> str:
    body = "\n".join(part for part in _parts(data) if part)
    return document(f"{data.model}: river-trt report", body)


def document(title: str, body: str) -> str:
    """The page around a body of HTML: one file, for screens of any width, light or dark."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _parts(data: ReportData) -> Iterator[str]:
    yield f"<h1>{escape(data.model)} as a River engine</h1>"
    yield (
        f'<p class="soft">{data.num_layers} layers; river: {escape(data.river)}. '
        f"Scored on {escape(data.text)}.</p>"
    )
    yield _cards(data)
    yield _section(
        "Speed against quality",
        "How far a policy moves the model from its own backbone, against how many layers still run "
        "at full precision. Lower left is better. Whiskers: 95 % intervals over pieces of text.",
        _legend(data)
        + pareto_chart(data.points, data.num_layers, *WIDE, "wide")
        + pareto_chart(data.points, data.num_layers, *NARROW, "narrow"),
    )
    if data.sample is not None:
        yield _section(
            "Depth of each token",
            data.sample.caption or "Under the engine's policy.",
            sample_html(data.sample, data.num_layers),
        )
    yield _layers(data)
    yield _section("All policies", "", _table(data.points))
    if data.commands or data.notes:
        lines = [f"<p>{escape(note)}</p>" for note in data.notes]
        lines += [f"<p><code>{escape(command)}</code></p>" for command in data.commands]
        yield f"<footer>{''.join(lines)}</footer>"


def _cards(data: ReportData) -> str:
    shipped = next((point for point in data.points if point.shipped), None)
    if shipped is None:
        return ""
    cards = [
        (f"{shipped.backbone_layers:.1f}", f"of {data.num_layers} backbone layers a token"),
        (f"{shipped.kl.value:.3f}", "nats of KL to the backbone"),
        (f"{shipped.agreement.value:.1%}", "same likeliest token as the backbone"),
    ]
    full = next((point for point in data.points if point.series == "full depth"), None)
    if full is not None:
        change = shipped.perplexity.value / full.perplexity.value - 1
        cards.append((f"{change:+.1%}", "perplexity, against the backbone's"))
    if shipped.speedup is not None:
        cards.append((f"{shipped.speedup:.2f}x", "decode speed of full depth, measured"))
    inner = "".join(f'<div class="card"><b>{b}</b><span>{label}</span></div>' for b, label in cards)
    return f'<div class="cards">{inner}</div>'


def _layers(data: ReportData) -> str:
    """Similarity and policy, side by side where there is room."""
    charts = []
    if data.similarity is not None:
        charts.append(
            "<div><h2>Similarity of each layer</h2>"
            '<p class="soft">Cosine of a block\'s output with its input: median, and the band '
            "that holds 80 % of the tokens.</p>"
            + similarity_chart(data.similarity, data.num_layers, *HALF)
            + "</div>"
        )
    if data.shipped is not None:
        scores = data.gate_scores
        if scores is None and data.shipped.gate == "similarity":
            scores = data.similarity
        charts.append(
            "<div><h2>The policy, layer by layer</h2>"
            '<p class="soft">A token exits where its score is above tau. '
            f"{_policy_key(data)}</p>"
            + policy_chart(data.shipped, scores, data.num_layers, *HALF)
            + "</div>"
        )
    return f'<section class="pair">{"".join(charts)}</section>' if charts else ""


def _policy_key(data: ReportData) -> str:
    assert data.shipped is not None
    parts = ["dots: tau"]
    if np.isposinf(data.shipped.tau[:-1]).any():
        parts.append("rings on top: no exit there")
    if np.isneginf(data.shipped.tau[:-1]).any():
        parts.append("orange at the bottom: every token exits")
    if data.shipped.pinned.any():
        parts.append("yellow: pinned to the backbone")
    return "; ".join(parts).capitalize() + "."


def _legend(data: ReportData) -> str:
    present = {point.series for point in data.points}
    items = []
    for series, (style, label) in STYLES.items():
        if series in present:
            kind = "round " if series in ("full depth", "all river") else ""
            text = data.calibrated_label if series == "calibrated" else label
            items.append(f'<li><i class="{kind}{style}"></i>{escape(text)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(points: tuple[PolicyPoint, ...]) -> str:
    speeds = any(point.speedup is not None for point in points)
    heads = ["policy", "backbone layers", "KL, nats", "top-1", "perplexity"]
    heads += ["speed-up"] if speeds else []
    rows = []
    for point in points:
        cells = [
            f'<i class="{STYLES[point.series][0]}"></i>{escape(point.name)}',
            f"{point.backbone_layers:.2f}",
            _estimate(point.kl, "{:.4f}"),
            _estimate(point.agreement, "{:.1%}"),
            _estimate(point.perplexity, "{:.2f}"),
        ]
        if speeds:
            cells.append("" if point.speedup is None else f"{point.speedup:.2f}x")
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr{' class=shipped' if point.shipped else ''}>{row}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _estimate(estimate: Estimate, form: str) -> str:
    """Rounded alike: a value lies in its interval as they are printed."""
    text = form.format(estimate.value)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return text
    low, high = form.format(estimate.low), form.format(estimate.high)
    return f"{text}<small>{low}-{high}</small>"


def _section(title: str, explanation: str, content: str) -> str:
    soft = f'<p class="soft">{escape(explanation)}</p>' if explanation else ""
    return f"<section><h2>{escape(title)}</h2>{soft}{content}</section>"
