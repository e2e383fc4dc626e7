"""`verify` must notice what differs, name what did not run, and pass what is the same."""

import json
from dataclasses import replace

import numpy as np
import pytest

from builders.build import BuildOptions, build
from builders.verify.compare import compare
from builders.verify.runners import PassRunner
from river_trt.cli.main import main
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama

LAYERS = 2
CASES = [
    {"input_ids": np.array([[1, 2]]), "tau": np.full(LAYERS, tau, np.float32)}
    for tau in (np.inf, -np.inf)
]


def runner(name: str, error: float = 0.0, exit_layer: int = 1, only_case: float | None = None):
    def run(ids, policy):
        wrong = error if only_case in (None, policy.tau[0]) else 0.0
        logits = np.ones((1, 2, 5), np.float32)
        logits[0, 1, 3] += wrong
        return {"logits": logits, "exit_layer": np.full((1, 2), exit_layer, np.int32)}

    return PassRunner(name, run, LAYERS)


def test_one_wrong_value_in_one_case_is_found():
    runners = {
        runner("same"): 1e-3,
        runner("near", 5e-4): 1e-3,
        runner("far", 2e-3, only_case=-np.inf): 1e-3,
        runner("lost", np.nan): 1e-3,
        runner("exits elsewhere", exit_layer=2): 1e-3,
    }
    found = {(c.backend, c.output): c for c in compare(runner("torch"), runners, CASES)}
    passed = {key: comparison.passed for key, comparison in found.items()}
    assert [key for key, value in passed.items() if not value] == [
        ("far", "logits"),
        ("lost", "logits"),
        ("exits elsewhere", "exit_layer"),
    ]
    assert found["far", "logits"].worst == pytest.approx(2e-3, rel=1e-3)
    assert found["near", "logits"].worst == pytest.approx(5e-4, rel=1e-3)


def test_large_values_of_a_hidden_state_may_differ_in_proportion():
    def hidden(large: float, small: float):
        return PassRunner(
            f"{large} {small}", lambda ids, policy: {"h.1": np.array([large, small])}, LAYERS
        )

    runners = {hidden(2e4 + 10, 1.0): 1e-3, hidden(2e4 + 30, 1.0): 1e-3, hidden(2e4, 1.003): 1e-3}
    found = compare(hidden(2e4, 1.0), runners, CASES)
    assert [comparison.passed for comparison in found] == [True, False, False]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("verify")
    save_tiny_llama(directory / "model", **(TINY | {"num_hidden_layers": LAYERS}))
    return directory


def test_backends_of_this_machine(model, capsys):
    assert main(["verify", "--model", str(model / "model"), "--layers", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    compared = {(item["backend"], item["output"]) for item in result["comparisons"]}
    graph = "TensorRT's portable graph, by onnxruntime"
    outputs = {"logits", "exit_layer"}
    assert {output for backend, output in compared if backend == "onnxruntime"} == outputs
    assert {o for backend, o in compared if backend == graph} == outputs | {"h.1", "h.2"}
    assert result["passed"]
    assert set(result["not_run"]) == {"tensorrt", "tensorrt-rtx"}


def test_an_engine_of_another_model_is_refused(model, tmp_path, capsys):
    save_tiny_llama(tmp_path / "other", **(TINY | {"num_hidden_layers": 1}))
    options = BuildOptions(
        str(tmp_path / "other"), tmp_path / "engine", quantiser="rtn", calibrate=False
    )
    build(replace(options, lm_head_bits=8))
    argv = ["verify", "--model", str(model / "model"), "--engine", str(tmp_path / "engine")]
    assert main(argv) == 2
    assert "was built from another model" in capsys.readouterr().err
    argv[2] = str(tmp_path / "other")
    assert main(argv) == 2
    assert "the LM head of" in capsys.readouterr().err
