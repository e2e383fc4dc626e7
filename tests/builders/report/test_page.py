import re
from html.parser import HTMLParser

import numpy as np
import pytest

from builders.evaluation.intervals import Estimate
from builders.report import LayerScores, PolicyPoint, ReportData, TokenDepths, write_report
from builders.report.page import render
from builders.report.sample import depth_colour
from builders.report.svg import LEFT, Plot, _overlap, layer_ticks, ticks
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy

LAYERS = 6
VOID = {"meta", "circle", "line", "polyline", "polygon", "rect", "br"}


def point(name, series, layers, kl, **options) -> PolicyPoint:
    policy = ExitPolicy.uniform(LAYERS, 0.5)
    estimate = Estimate(kl, kl * 0.8, kl * 1.2)
    perplexity = Estimate(20 + kl)
    return PolicyPoint(
        name, series, policy, layers, estimate, Estimate(1 - kl), perplexity, **options
    )


def data(**changes) -> ReportData:
    shipped = ExitPolicy.uniform(LAYERS, 0.5)
    shipped.tau[:2] = np.inf, -np.inf
    shipped.pinned[5] = True
    scores = LayerScores("similarity", (0.1, 0.8, 0.9, 0.9, 0.9), (0.2, 0.85, 0.92, 0.93, 0.93),
                         (0.3, 0.9, 0.95, 0.96, 0.97))  # fmt: skip
    fields = {
        "model": "a <model>",
        "num_layers": LAYERS,
        "text": "t.txt",
        "river": "rtn",
        "points": (
            point("backbone", "full depth", 6, 0.0),
            point("all river", "all river", 1, 0.4),
            point("River", "calibrated", 2.5, 0.1, shipped=True, speedup=2.25),
            point("tau 0.9", "paper", 3, 0.2),
            point("exit after layer 2", "fixed", 2, 0.3),
            point("4 pinned", "static", 4, 0.05),
        ),
        "shipped": shipped,
        "sample": TokenDepths(("a", " <b>", "\n"), (1, 3, 6), (2, 4, 6)),
        "similarity": scores,
    }
    return ReportData(**(fields | changes))


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place; keeps ids and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID or tag in ("circle", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_whole_and_fetches_nothing():
    html = render(data())
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://|src=|href=", html)
    text = "".join(parser.texts)
    for expected in ("a <model> as a River engine", "Speed against quality", "4 pinned", "2.25x"):
        assert expected in text
    assert "<model>" not in html and " <b>" not in html, "texts are escaped"


def test_parts_that_are_not_known_are_left_out():
    html = render(data(sample=None, similarity=None, shipped=None))
    assert "Speed against quality" in html and "All policies" in html
    for part in ("Depth of each token", "Similarity of each layer", "The policy, layer by layer"):
        assert part in render(data()) and part not in html
    only = render(data(points=(point("backbone", "full depth", 6, 0.0),)))
    assert 'class="card"' not in only and "speed-up" not in only


def test_every_token_is_on_a_colour_of_its_depth():
    html = render(data())
    spans = re.findall(r'<span style="background:rgb(\([^)]*\))[^>]*title="([^"]*)">', html)
    assert [tip for _, tip in spans] == [
        f"exit after layer {exit_layer} of 6; {depth} backbone layers"
        for exit_layer, depth in ((1, 2), (3, 4), (6, 6))
    ]
    assert len({colour for colour, _ in spans}) == 3
    shades = [sum(depth_colour(share)) for share in np.linspace(0, 1, 20)]
    assert shades == sorted(shades, reverse=True), "deeper is darker"


def test_a_text_begins_with_the_first_token_that_can_be_seen():
    sample = TokenDepths(("", " ", "\n", " a", "", "\n", "b"), (1,) * 7, (2,) * 7)
    chips = re.findall(r'<span style="background[^>]*>([^<]*)</span>', render(data(sample=sample)))
    assert chips == ["a", "\n", "b"]


def test_a_name_keeps_off_dots_and_names():
    plot = Plot(400, 300, (0, 10), (0, 1), "x", "y", "t")
    for at in ((5, 0.5), (5.2, 0.5), (5, 0.53)):
        plot.dot(at, "calibrated", "")
    for at, name in (((5, 0.5), "one"), ((5.2, 0.5), "other"), ((5, 0.53), "third")):
        plot.name_dot(at, name)
    boxes = plot.taken
    assert all(_overlap(a, b) == 0 for a in boxes[3:] for b in boxes if a is not b)
    assert all(left >= LEFT and right <= 400 for left, _, right, _ in boxes)


def test_pages_are_for_phones_and_the_dark():
    html = render(data())
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html
    light, dark = re.findall(r":root \{([^}]*)\}", html)
    assert set(re.findall(r"--\w+", light)) == set(re.findall(r"--\w+", dark))
    assert html.count('class="plot wide"') == html.count('class="plot narrow"') == 1


def test_marks_of_the_policy():
    html = render(data())
    assert "layer 1: no exit" in html and "layer 2: every token exits" in html
    assert "layer 3: tau 0.5" in html and "layer 6 is pinned to the backbone" in html
    assert "layer 6: tau" not in html, "the last layer's tau is never read"


def test_points_stand_where_they_belong():
    plot = Plot(400, 300, (0, 10), (0, 1), "x", "y", "t")
    xs = [plot.x(value) for value in (0, 5, 10)]
    ys = [plot.y(value) for value in (0, 0.5, 1)]
    assert xs[0] < xs[1] < xs[2] <= 400 and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys[0] > ys[1] > ys[2] >= 0


def test_ticks_are_round():
    assert ticks(0, 0.2) == [0, 0.05, 0.1, 0.15, 0.2]
    assert ticks(-0.31, 1) == [0, 0.5, 1] and ticks(3, 3) == [3]
    assert str(ticks(-0.1, 0.1, 4)[2]) == "0.0"
    assert layer_ticks(30, 6) == [1, 5, 10, 15, 20, 25, 30]
    assert layer_ticks(2) == [1, 2] and layer_ticks(1) == [1]


def test_a_page_that_cannot_be_written(tmp_path):
    with pytest.raises(RiverError, match="cannot write .*: Is a directory"):
        write_report(data(), tmp_path)
