"""The page of a benchmark: what is measured lies under the roof it is drawn with."""

import re
from dataclasses import replace

import pytest

from builders.report.bench_page import render, speed_chart, write_bench_page
from river_trt.benchmark.arms import ALL_RIVER, FULL_DEPTH
from river_trt.benchmark.measure import Plan, Round
from river_trt.benchmark.result import ArmQuality, BenchCase, BenchEngine, BenchResult
from river_trt.benchmark.summary import summarise
from river_trt.errors import RiverError
from river_trt.manifest import ByteCounts

COUNTS = ByteCounts(backbone_layer=100, river_layer=10, lm_head=7, embedding=1)
CACHE = 2.0  # bytes a step, of both arms


def result_of(full_seconds: float = 1.0, river_seconds: float = 0.25) -> BenchResult:
    """10 steps of a 4-layer engine at both ends, and a peer; 8160 bytes/s are full depth's roof."""
    rounds = [
        [Round(10, 10, full_seconds, (0.1,), 4.0, int(10 * (COUNTS.per_token(4, 4) + CACHE)))],
        [Round(10, 10, river_seconds, (0.1,), 1.0, int(10 * (COUNTS.per_token(1, 4) + CACHE)))],
        [Round(10, 10, 0.5, (0.1,))],
    ]
    names = ["a & b: full depth", "a & b: all river", "peer <x>"]
    engine = BenchEngine("a & b", "tiny", "onnxruntime", "int8", 4, COUNTS, "0", (0.9,) * 4)
    return BenchResult(
        engines=(engine,),
        arms={names[0]: (0, FULL_DEPTH), names[1]: (0, ALL_RIVER)},
        cases=(BenchCase(Plan(), None, 1, tuple(summarise(names, rounds))),),
        bandwidth=8200.0,
        products=None,
        quality={names[1]: ArmQuality(0.125, 0.9)},
        peers={"peer <x>": {}},
        missing=(),
    )


def points(chart: str, kind: str) -> list[list[tuple[float, float]]]:
    found = re.findall(rf'class="line {kind}" points="([^"]*)"', chart)
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in found]


def chart_of(result: BenchResult) -> str:
    return speed_chart(result, result.cases[0], 900, 430, "wide")


def test_engine_at_the_roof_is_drawn_on_it_and_a_slower_one_below():
    fast = result_of(full_seconds=10 * 410 / 8200, river_seconds=10 * 140 / 8200)
    chart = chart_of(fast)
    (roof,) = points(chart, "calibrated")
    dots = [
        (float(x), float(y))
        for x, y in re.findall(r'class="dot calibrated" cx="([^"]*)" cy="([^"]*)"', chart)
    ]
    assert dots == [pytest.approx(roof[-1], abs=0.11), pytest.approx(roof[0], abs=0.11)]
    chart = chart_of(result_of())
    ((_, roof_y), *_), (cy, *_) = (
        points(chart, "calibrated")[0][::-1],
        re.findall(r'class="dot calibrated" cx="[^"]*" cy="([^"]*)"', chart),
    )
    assert float(cy) > roof_y + 5  # y grows downwards


def test_peer_is_a_level_line_and_names_are_escaped():
    page = render(result_of())
    ((left, right),) = points(chart_of(result_of()), "peer")
    assert left[1] == right[1] and left[0] < right[0]
    assert "peer &lt;x&gt;" in page and "<x>" not in page
    assert "a &amp; b: full depth" in page
    assert "0.1250" in page


def test_dots_have_names_and_the_axis_says_what_is_one():
    chart = chart_of(result_of())
    names = re.findall(r'<text class="note small"[^>]*>([^<]*)<', chart)
    assert names == ["full depth", "all river", "peer &lt;x&gt;"]
    assert "speed, a &amp; b: full depth = 1" in chart and "baseline" not in render(result_of())


def test_more_than_the_roof_is_explained_and_only_then():
    above = result_of(full_seconds=9 * 410 / 8200)
    assert "over 100 % of the roof" in render(above) and "111%" in render(above)
    assert "over 100 % of the roof" not in render(result_of())


def test_without_a_text_there_is_no_column_for_it():
    assert "KL, nats" in render(result_of())
    assert "KL, nats" not in render(replace(result_of(), quality={}))


def test_path_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(RiverError, match="cannot write"):
        write_bench_page(result_of(), tmp_path)
