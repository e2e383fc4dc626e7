"""The charts of a report, each from its part of ReportData to SVG."""

from collections.abc import Sequence

import numpy as np

from builders.report.data import LayerScores, PolicyPoint, Series
from builders.report.svg import Plot, Point, layer_ticks, ticks
from river_trt.spec import ExitPolicy

# CSS class, and what the legend says. Lines are of the first four.
STYLES: dict[Series, tuple[str, str]] = {
    "calibrated": ("calibrated", "calibrated policies"),
    "paper": ("paper", "the paper's gate: one tau, no pins"),
    "fixed": ("fixed", "fixed exit: every token after one layer"),
    "static": ("static", "static: only pinned layers"),
    "full depth": ("full", "full depth"),
    "all river": ("river", "all river"),
}
OUTLIER = 6.0  # times the usual layer's distance from the top: what lies lower is cut off
# The paper's gate with tau = -inf, and an exit after layer 1, are all river; with inf, full depth.
ENDS: dict[Series, tuple[Series, ...]] = {
    "paper": ("full depth", "all river"),
    "fixed": ("full depth", "all river"),
    "calibrated": ("full depth",),
    "static": ("full depth",),
}


def pareto_chart(
    points: Sequence[PolicyPoint], num_layers: int, width: int, height: int, css_class: str
) -> str:
    """KL over mean backbone layers: a line a series, whiskers for the intervals."""
    tops = [point.kl.value if point.kl.high is None else point.kl.high for point in points]
    top = max(*tops, 1e-6) * 1.06
    plot = Plot(
        width,
        height,
        (0, num_layers + 0.5),
        (0, top),
        "backbone layers a token, mean (fewer is faster)",
        "KL to the backbone, nats",
        "KL to the backbone over mean backbone layers, for each policy",
        layer_ticks(num_layers, 6),
        ticks(0, top),
    )
    for series in ("fixed", "static", "paper", "calibrated"):
        drawn = [p for p in points if p.series == series]
        if drawn:
            ends = [p for p in points if p.series in ENDS[series]]
            plot.line(sorted(map(_place, (*drawn, *ends))), STYLES[series][0])
    for point in points:
        style = STYLES[point.series][0]
        if point.kl.low is not None and point.kl.high is not None:
            plot.whisker(point.backbone_layers, point.kl.low, point.kl.high, style)
        if not point.shipped:
            plot.dot(_place(point), style, _tip(point))
    for point in points:
        if point.shipped:
            style = STYLES[point.series][0]
            plot.dot(_place(point), f"{style} shipped", _tip(point), radius=8)
    _label_ends(plot, points)
    return plot.render(css_class)


def similarity_chart(scores: LayerScores, num_layers: int, width: int, height: int) -> str:
    plot = _layer_plot(scores, num_layers, width, height, f"{scores.gate}, cosine")
    _draw_scores(plot, scores)
    return plot.render()


def policy_chart(
    policy: ExitPolicy, scores: LayerScores | None, num_layers: int, width: int, height: int
) -> str:
    """tau of every layer over the scores it is compared with; pinned layers as stripes."""
    plot = _layer_plot(scores, num_layers, width, height, f"tau ({policy.gate} gate)")
    for layer in (np.flatnonzero(policy.pinned) + 1).tolist():
        plot.column(float(layer), 0.9, "pinned", f"layer {layer} is pinned to the backbone")
    if scores is not None:
        _draw_scores(plot, scores)
    low, high = plot.y_range
    # The last layer's flag is never read: nothing comes after it.
    for number, tau in enumerate(policy.tau[:-1].tolist(), 1):
        if np.isinf(tau):
            tip = f"layer {number}: {'no exit' if tau > 0 else 'every token exits'}"
            plot.dot((number, high if tau > 0 else low), "never" if tau > 0 else "always", tip, 3.5)
        else:
            inside = min(max(tau, low), high)
            plot.dot((number, inside), "tau", f"layer {number}: tau {tau:.4g}", 3.5)
    return plot.render()


def _draw_scores(plot: Plot, scores: LayerScores) -> None:
    layers = list(range(1, len(scores.median) + 1))
    plot.band(layers, scores.low, scores.high)
    plot.line(list(zip(layers, scores.median, strict=True)), "median")


def _layer_plot(
    scores: LayerScores | None, num_layers: int, width: int, height: int, y_label: str
) -> Plot:
    """The range is where most layers are; one far below (a first layer near 0) is named instead."""
    low, high = (0.0, 1.0) if scores is None else (min(scores.low), max(scores.high))
    if scores is not None:
        usual = float(np.median(scores.low))
        low = max(low, high - OUTLIER * (high - usual))
    margin = max(high - low, 1e-3) * 0.06
    low, high = low - margin, high + margin
    plot = Plot(
        width,
        height,
        (0.4, num_layers + 0.6),
        (low, high),
        "layer",
        y_label,
        f"{y_label} of each layer",
        layer_ticks(num_layers, 6),
        ticks(low, high),
    )
    if scores is not None:
        below = [n for n, value in enumerate(scores.median, 1) if value < low]
        for place, layer in enumerate(below):
            at = plot.x(layer) + 56, plot.y(low) - 8 - 17 * place
            plot.note(at, f"\u2193 layer {layer}: {scores.median[layer - 1]:.2f}")
    return plot


def _place(point: PolicyPoint) -> Point:
    return point.backbone_layers, point.kl.value


def _tip(point: PolicyPoint) -> str:
    return f"{point.name}: {point.backbone_layers:.1f} backbone layers, KL {point.kl.value:.4f}"


def _label_ends(plot: Plot, points: Sequence[PolicyPoint]) -> None:
    """Names beside the points that a reader looks for first, where lines seldom pass."""
    for point in points:
        x, y = plot.x(point.backbone_layers), plot.y(point.kl.value)
        if point.shipped:
            plot.note((x - 48, min(y + 36, plot.y(0) - 8)), "the engine's policy", "strong")
        elif point.named:
            plot.note((x + 12, y - 14), point.name)
        elif point.series == "full depth":
            plot.note((x - 112, y - 8), "full depth")
        elif point.series == "all river":
            plot.note((x + 44, y - 12), "all river")
