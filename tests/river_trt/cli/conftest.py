"""A real engine directory around a graph so small that its text is known: the alphabet."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from river_trt.cli.main import main
from river_trt.engine_dir import hash_files, write_manifest
from river_trt.spec import cache_names

LAYERS, VOCAB, CHAT_TEMPLATE = (
    4,
    260,
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
)


def alphabet_graph() -> onnx.ModelProto:
    """logits[b,n,v] = -(id + 1 - v)^2: the next token is the one after; exits where tau_1 < 0.5.

    exit_layer[b,s] = 1 if tau_1 < 0.5 else L
    """
    i64, i32, f32, boolean = (getattr(TensorProto, t) for t in ("INT64", "INT32", "FLOAT", "BOOL"))
    info = helper.make_tensor_value_info
    cache_shape = ["batch", 1, "slots", 4]
    inputs = [
        info("input_ids", i64, ["batch", "seq"]),
        info("past_lengths", i32, ["batch"]),
        info("logit_indices", i64, ["num_logits"]),
        info("tau", f32, [LAYERS]),
        info("pinned", boolean, [LAYERS]),
        info("use_directions", boolean, []),
        info("directions", f32, [LAYERS, 8]),
        info("gate_scope", i32, []),
        *(info(name, f32, cache_shape) for name in cache_names(LAYERS)),
    ]
    outputs = [
        info("logits", f32, ["batch", "num_logits", VOCAB]),
        info("exit_layer", i32, ["batch", "seq"]),
        *(info(name, f32, cache_shape) for name in cache_names(LAYERS, "_out")),
    ]
    constants = {
        "next": np.arange(-1, VOCAB - 1, dtype=np.float32),
        "half": np.float32(0.5),
        "zero": np.int32(0),
        "one": np.int32(1),
        "deepest": np.int32(LAYERS),
        "first": np.array(0),
        "axis_2": np.array([2]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["input_ids", "logit_indices"], ["wanted"], axis=1),
        node("Cast", ["wanted"], ["wanted_f"], to=f32),
        node("Unsqueeze", ["wanted_f", "axis_2"], ["wanted_3"]),
        node("Sub", ["wanted_3", "next"], ["distance"]),
        node("Mul", ["distance", "distance"], ["square"]),
        node("Neg", ["square"], ["logits"]),
        node("Gather", ["tau", "first"], ["tau_1"]),
        node("Less", ["tau_1", "half"], ["exits"]),
        node("Where", ["exits", "one", "deepest"], ["depth"]),
        node("Cast", ["input_ids"], ["ids_32"], to=i32),
        node("Mul", ["ids_32", "zero"], ["zeros"]),
        node("Add", ["zeros", "depth"], ["exit_layer"]),
        *(
            node("Identity", [name], [name_out])
            for name, name_out in zip(cache_names(LAYERS), cache_names(LAYERS, "_out"), strict=True)
        ),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "alphabet", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Keeps the lines of a table whole."""
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def make_directory(engine_directory: Path, make_manifest) -> Callable[..., Path]:
    """Changes are of the manifest's fields; the default policy is tau (inf, 0.5, 0.9, -inf)."""

    def make(has_tokenizer: bool = True, **changes) -> Path:
        onnx.save(alphabet_graph(), engine_directory / "model.onnx")
        (engine_directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        (engine_directory / "manifest.json").unlink()
        files = hash_files(engine_directory)
        write_manifest(engine_directory, make_manifest(has_tokenizer, files=files, **changes))
        return engine_directory

    return make


@pytest.fixture
def directory(make_directory) -> Path:
    return make_directory()


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a command that must fail: its one line on stderr."""

    def check(*argv: str) -> str:
        assert main([str(item) for item in argv]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ") and captured.err.endswith("\n")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("error: ").strip()

    return check
