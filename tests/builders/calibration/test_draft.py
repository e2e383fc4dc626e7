"""The search for a draft policy on a tiny engine."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import river_trt
from builders.calibration.draft import MOST_PINS, calibrate_draft
from builders.evaluation.command import TextRun
from river_trt import GenerationConfig
from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError
from river_trt.lossless.length import best_length
from tests.builders.tiny_engines import build_pair

LAYERS = 6


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("draft")
    pair = build_pair(directory, with_tokenizer=True, num_hidden_layers=LAYERS)
    return pair.directory


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    words = np.random.default_rng(0).integers(0, 100, 600)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(f"w{word}" for word in words))
    return path


def test_sets_grow_and_the_best_promise_wins(directory, text):
    run = TextRun(directory, None, text, pieces=10, piece_tokens=40, skip=4)
    found = calibrate_draft(run, quiet)
    sets = [set(result.pinned) for result in found.results]
    assert [len(pins) for pins in sets] == list(range(len(sets))) and len(sets) <= MOST_PINS + 1
    assert all(small < large for small, large in itertools.pairwise(sets))
    costs = [result.step_cost for result in found.results]
    assert costs == sorted(costs) and 0 < costs[0] < costs[-1] < 1
    assert all(result.length > 0 for result in found.results[:-1])
    assert 0 < found.best.acceptance < 1 < found.best.speedup
    assert found.best.speedup == max(result.speedup for result in found.results)
    assert found.draft.pinned == found.best.pinned and "words.txt" in found.draft.calibration


def test_command_stores_it_and_lossless_mode_drafts_with_it(directory, text, capsys):
    argv = ["--text", str(text), "--pieces", "8", "--piece-tokens", "40", "--skip", "4", "--draft"]
    before = read_engine_dir(directory).draft
    assert main(["calibrate", str(directory), *argv, "--dry-run"]) == 0
    assert "nowhere: --dry-run" in capsys.readouterr().out
    assert read_engine_dir(directory).draft == before
    assert main(["calibrate", str(directory), *argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = read_engine_dir(directory).draft
    assert found["stored"] == [str(directory)] and tuple(found["draft"]["pinned"]) == stored.pinned
    engine = river_trt.load(directory)
    assert (np.flatnonzero(engine.draft_policy.pinned) + 1).tolist() == list(stored.pinned)
    row = engine.make_row(0, [1], GenerationConfig(mode="lossless"))
    assert row.draft.policy is engine.draft_policy


def test_too_little_text_is_refused(directory, text):
    with pytest.raises(RiverError, match="--pieces must be at least 5 to calibrate, got 4"):
        calibrate_draft(TextRun(directory, None, text, pieces=4, piece_tokens=40, skip=4), quiet)
    short = text.with_name("short.txt")
    short.write_text(text.read_text()[:400])
    with pytest.raises(RiverError, match=r"gives \d pieces of text; more than 4 are needed"):
        calibrate_draft(TextRun(directory, None, short, pieces=5, piece_tokens=40, skip=4), quiet)


def test_best_length_weighs_acceptance_against_cost():
    assert best_length([0.0], 0.1, 8) == (0, 1.0)
    assert best_length([1.0], 0.3, 3) == (3, pytest.approx(4 / 1.9))
    assert (
        best_length([0.9], 0.25, 8)[1]
        > best_length([0.8], 0.25, 8)[1]
        > best_length([0.8], 0.4, 8)[1]
    )
