"""`river-trt calibrate`: bad input, saved policies. The search has its own tests."""

import re

import numpy as np
import pytest

from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.policy_file import PolicyFile
from river_trt.spec import ExitPolicy


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a river finds its way downhill " * 40)
    return path


@pytest.fixture
def saved(tmp_path):
    def save(config_sha256: str = "0" * 64, num_layers: int = 4):
        policy = ExitPolicy.uniform(num_layers, 0.5)
        PolicyFile("fake", config_sha256, "found elsewhere", policy).write(tmp_path / "p.json")
        return tmp_path / "p.json"

    return save


@pytest.mark.parametrize(("goal", "least"), [(("--target-layers", "2"), 8), (("--draft",), 5)])
def test_too_few_pieces_are_refused_before_the_engine_is_loaded(refused, text, goal, least):
    message = refused("calibrate", "/nowhere", "--text", text, "--pieces", "2", *goal)
    assert message == f"--pieces must be at least {least} to calibrate, got 2"


def test_budget_is_needed_and_only_one(refused, directory, text):
    assert "one budget: --max-kl, --min-agreement, --target-layers" in refused(
        "calibrate", directory, "--text", text
    )
    assert "one budget" in refused(
        "calibrate", directory, "--text", text, "--max-kl", "1", "--target-layers", "2"
    )


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (("--target-layers", "9"), "--target-layers 9 cannot be met: .* 4 layers"),
        (("--max-kl", "-1"), "--max-kl -1 cannot be met: the best is 0"),
        (("--min-agreement", "2"), "--min-agreement 2 cannot be met"),
    ],
)
def test_budget_that_cannot_be_met(refused, directory, text, budget, message):
    argv = ("--text", text, "--piece-tokens", "60", *budget)
    assert re.search(message, refused("calibrate", directory, *argv))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("too short", "is too short"),
        ("a river finds its way downhill " * 8, "8 are needed to fit, choose and report on"),
    ],
)
def test_text_that_is_not_enough(refused, directory, text, content, message):
    text.write_text(content)
    argv = ("--target-layers", "2", "--piece-tokens", "60")
    assert message in refused("calibrate", directory, "--text", text, *argv)


def test_wrong_field_of_jsonl_is_named(refused, directory, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"txt": "a"}\n')
    message = refused("calibrate", directory, "--text", path, "--target-layers", "2")
    assert "line 1 has no field 'text'; its fields: txt" in message


def test_engine_or_model(refused, directory, text):
    assert "give one engine directory" in refused("calibrate", "--text", text, "--max-kl", "1")
    assert "--save" in refused("calibrate", "--model", "demo", "--text", text, "--max-kl", "1")
    assert "give --text" in refused("calibrate", directory, "--max-kl", "1")


def test_report_of_a_missing_folder(refused, directory, text, tmp_path):
    report = tmp_path / "none" / "r.html"
    argv = ("--text", text, "--max-kl", "1", "--report", report)
    assert "cannot write" in refused("calibrate", directory, *argv)


def test_apply_stores_a_saved_policy(directory, saved, capsys):
    assert main(["calibrate", str(directory), "--apply", str(saved())]) == 0
    assert "found elsewhere" in capsys.readouterr().out
    policy = read_engine_dir(directory).policy
    assert (policy.tau, policy.calibration) == ((0.5,) * 4, "found elsewhere")
    assert main(["inspect", str(directory)]) == 0
    assert "found elsewhere" in capsys.readouterr().out


def test_policy_of_another_model_is_refused(refused, directory, saved):
    before = read_engine_dir(directory)
    message = refused("calibrate", directory, "--apply", saved(config_sha256="1" * 64))
    assert "calibrated for fake, another model than this one" in message
    assert "layers" in refused("calibrate", directory, "--apply", saved(num_layers=5))
    assert read_engine_dir(directory) == before


def test_saved_policy_keeps_infinities(tmp_path):
    tau = np.array([-np.inf, 0.5, np.inf, np.inf], np.float32)
    PolicyFile("m", "0", "", ExitPolicy(tau, np.zeros(4, np.bool_))).write(tmp_path / "p.json")
    np.testing.assert_array_equal(PolicyFile.read(tmp_path / "p.json").policy.tau, tau)


@pytest.mark.parametrize(
    "extra",
    [
        ("--max-kl", "1"),
        ("--target-layers", "2"),
        ("--save", "policy.json"),
        ("--report", "page.html"),
        ("--policy", "paper"),
        ("--quantiser", "rtn"),
    ],
)
def test_draft_takes_no_budget_and_no_other_options(refused, directory, text, extra):
    said = refused("calibrate", directory, "--text", text, "--draft", *extra)
    assert f"leave {extra[0]} out" in said
    said = refused("calibrate", "--model", "demo", "--text", text, "--draft")
    assert "leave --model out" in said
