"""No table drops or crops anything, in a terminal of whatever width, or in a pipe."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from rich.bar import Bar

from builders.calibration.budget import Budget
from builders.calibration.command import Calibration
from builders.evaluation.intervals import Estimate
from builders.evaluation.results import PolicyResult
from builders.tasks import TaskScore
from builders.verify.command import VerifyResult
from builders.verify.compare import Comparison
from river_trt.benchmark.arms import Arm
from river_trt.benchmark.measure import Plan, Round
from river_trt.benchmark.result import ArmQuality, BenchCase, BenchEngine, BenchResult
from river_trt.benchmark.summary import summarise
from river_trt.cli import bench_tables, calibrate, evaluate_tables, run_statistics, verify
from river_trt.cli.console import stdout_console
from river_trt.cli.main import main
from river_trt.cli.tables import plain_table, print_table
from river_trt.manifest import ByteCounts
from river_trt.results import GenerationResult, Speculation
from river_trt.spec import ExitPolicy

NUM_LAYERS = 12
WIDTHS = (40, 60, 80, 120)
DRAWN = re.compile(r"[\u2500-\u259f]+")  # lines and bars


def bench_result() -> BenchResult:
    names = [
        f"{engine}: {mode}"
        for engine in ("engine-float32", "engine-int8")
        for mode in ("full depth", "engine's", "all river", "tau 0.97")
    ]
    modes = [name.partition(": ")[2] for name in names]
    arms = {n: (i // 4, Arm(m, None)) for i, (n, m) in enumerate(zip(names, modes, strict=True))}
    rounds = [
        [Round(64, 64, seconds, (0.1, 0.2), 6.0, 64 * 500_000_000) for seconds in (0.5, 0.52, 0.6)]
        for _ in names
    ]
    peer = [[replace(r, read_bytes=None, mean_backbone_layers=None) for r in rounds[0]]]
    engines = [
        BenchEngine(label, "SmolLM2-135M", "onnxruntime, native kernels", "float32", 30,
                    ByteCounts(1, 1, 1, 1), "", (0.5,) * 30)
        for label in ("engine-float32", "engine-int8")
    ]  # fmt: skip
    quality = {name: ArmQuality(0.0525, 0.875) for name in names}
    cases = (
        BenchCase(Plan(64, 3, 1), None, 3, tuple(summarise([*names, "genai-int4"], rounds + peer))),
        BenchCase(Plan(64, 3, 4), 512, 4, tuple(summarise(names, rounds))),
    )
    return BenchResult(tuple(engines), arms, cases, 2.2e10, 1.2e11, quality, {"genai-int4": {}}, ())


def policy_results() -> list[PolicyResult]:
    return [
        PolicyResult(
            name=name,
            policy=ExitPolicy.uniform(NUM_LAYERS, 0.5),
            kl=Estimate(0.0005, 0.00046, 0.0006),
            agreement=Estimate(0.912, 0.9, 0.923),
            perplexity=Estimate(1234.56, 1200.0, 1300.25),
            backbone_layers=Estimate(6.04),
            exit_counts=tuple(range(NUM_LAYERS)),
            k_cosine=(0.998,) * NUM_LAYERS,
            v_cosine=(0.997,) * NUM_LAYERS,
            positions=sum(range(NUM_LAYERS)),
            pieces=2,
        )
        for name in ("backbone (inf)", "all river (-inf)", "the engine's own", "paper, tau 0.97")
    ]


def generation() -> GenerationResult:
    exits = np.array([NUM_LAYERS, 3, 3, 4, NUM_LAYERS], np.int32)
    return GenerationResult("text", [1] * 5, "eos", exits, exits, 39, 0.181, 0.02)


def speculation() -> GenerationResult:
    counts = np.array([3, 2], np.int32)
    return replace(generation(), speculation=Speculation(counts, counts - 1, 0.1, 0.2))


def print_calibration() -> None:
    results = policy_results()
    found = Calibration(
        results[2].policy, "direction gate, pinned 1", "", "model", tuple(results), False, "line"
    )
    calibrate._print(found, Budget("max-kl", 0.05), ["engine/", "policy.json"])


def print_verification() -> None:
    rows = [
        Comparison("onnxruntime", output, 0.02, 0.000123, passed)
        for output, passed in (("logits at full depth", True), ("hidden state of layer 12", False))
    ]
    verify._print(VerifyResult(tuple(rows), {"tensorrt": "no GPU here"}))


def print_scores() -> None:
    scores = [
        TaskScore("gsm8k", "the engine's own", "exact match", Estimate(0.412, 0.39, 0.43), 200,
                  20480, 6.04),
        TaskScore("gsm8k", "backbone", "exact match", Estimate(0.5), 200, None, None),
    ]  # fmt: skip
    evaluate_tables.print_scores(scores)


PRINTERS = {
    "bench": lambda: bench_tables.print_result(bench_result()),
    "bench, time to first token": lambda: bench_tables.print_result(
        replace(bench_result(), quality={})
    ),
    "evaluate": lambda: evaluate_tables.print_results(policy_results()),
    "evaluate --task": print_scores,
    "calibrate": print_calibration,
    "verify": print_verification,
    "run --stats": lambda: run_statistics.print_statistics(generation(), NUM_LAYERS, 1.2, 15.0),
    "run --lossless --stats": lambda: run_statistics.print_statistics(
        speculation(), NUM_LAYERS, 1.2, 0.0
    ),
}


def words(text: str) -> Counter[str]:
    return Counter(DRAWN.sub(" ", text).split())


def assert_nothing_is_lost(capsys, monkeypatch, print_it) -> None:
    monkeypatch.delenv("COLUMNS")
    print_it()
    whole = capsys.readouterr().out
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        print_it()
        out = capsys.readouterr().out
        longer = {word for word in words(whole) if len(word) > width // 2}  # may be cut in two
        missing = {word for word in words(whole) - words(out) if word not in longer}
        assert missing == set(), f"at {width} columns"
        folded = "".join(out.split())
        assert all(word in folded or width < len(word) + 20 for word in longer)


@pytest.mark.parametrize("name", PRINTERS)
def test_a_narrow_terminal_loses_nothing(name, capsys, monkeypatch):
    assert_nothing_is_lost(capsys, monkeypatch, PRINTERS[name])


@pytest.mark.parametrize(
    "arguments",
    [["--layers"], ["--offload", "16GB"]],
    ids=" ".join,
)
def test_inspect_loses_nothing(arguments, directory, capsys, monkeypatch):
    monkeypatch.chdir(directory.parent)
    argv = ["inspect", directory.name, *arguments]
    assert_nothing_is_lost(capsys, monkeypatch, lambda: main(argv))


@pytest.mark.parametrize("argv", [["triton", "doctor"], ["plugin", "info"]], ids=" ".join)
def test_what_is_said_of_this_machine_loses_nothing(argv, capsys, monkeypatch):
    assert_nothing_is_lost(capsys, monkeypatch, lambda: main(argv))


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_keep_to_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    evaluate_tables._print_layers(policy_results())
    bench_tables._print_case(stdout_console(), bench_result(), bench_result().cases[1])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_a_pipe_has_whole_lines(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    bench_tables.print_result(bench_result())
    lines = capsys.readouterr().out.splitlines()
    (header,) = (line for line in lines if line.startswith(" mode") and "mixed" in line)
    assert header.split() == [
        "mode", "tokens/s", "ratio", "depth", "reads", "roof", "of", "it", "prefill", "mixed",
        "KL", "top-1",
    ]  # fmt: skip
    rows = [line for line in lines if line.startswith(" engine-int8: all river")]
    assert len(rows) == 2 and all("\u00b1" in row and row.endswith("87.5% ") for row in rows)


def test_a_terminal_of_40_columns_has_a_line_a_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    table = plain_table("a title")
    names = ["mode", "tokens a second", "ratio to the first", "mean backbone layers", "share"]
    for name in names:
        table.add_column(name, no_wrap=True, max_width=30)
    table.add_row("full depth", "123.4 \u00b11%", "", "12.34 of 30 layers", Bar(2, 0, 1))
    print_table(stdout_console(), table)
    lines = [line.strip().split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line] == ["a title", *names]


def test_an_interval_holds_its_value_as_printed():
    text = evaluate_tables._with_interval(Estimate(0.0005, 0.00046, 0.00061), "{:.4f}")
    assert text == "0.0005 0.0005-0.0006"
