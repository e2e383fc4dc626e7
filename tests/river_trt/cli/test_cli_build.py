import argparse
import builtins
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from builders.onnxruntime.options import OnnxRuntimeOptions
from builders.options import BackendOptions, declarations, option
from builders.recipes import COMMON, known_recipes, load_recipe
from builders.registry import options_of
from river_trt import CheckpointError, RiverError
from river_trt.backends import BACKENDS
from river_trt.cli import build, convert
from river_trt.cli.build_options import NOT_OPTIONS, given_options
from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.origin import this_build


@dataclass(frozen=True, slots=True)
class FakeOptions:
    model: str
    out: Path
    recipe: str = "cpu"
    backend: str | None = None
    quantiser: str | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    lm_head_bits: int | None = None
    backbone_bits: int | None = None
    river_activation: str | None = None
    kernels: str | None = None
    network: str | None = None
    max_seq_len: int | None = None
    tau: float | None = None
    pinned: tuple[int, ...] | None = None
    policy: Path | str | None = None
    quality: float | None = None
    calibrate: bool = True
    calibration_text: Path | None = None
    force: bool = False
    banks: str = "both"


@pytest.fixture
def builder(monkeypatch, directory):
    """Stands in for builders.build; `calls` are the options of its builds."""
    module: Any = ModuleType("builders.build")
    module.calls, module.error = [], None

    def build(options, progress, announce=None):
        module.calls.append(options)
        progress("quantising", 0, 4)
        if module.error:
            raise module.error
        progress("quantising", 4, 4)
        progress("writing", 1, 1)
        return read_engine_dir(directory)

    module.BuildOptions, module.build = FakeOptions, build
    monkeypatch.setitem(sys.modules, "builders.build", module)
    return module


def test_options_not_given_keep_the_builder_s_defaults(capsys, builder):
    assert main(["build", "--model", "demo", "--out", "engine"]) == 0
    assert builder.calls == [FakeOptions("demo", Path("engine"))]


def test_every_option_reaches_the_builder(capsys, builder):
    argv = "build --model m --out e --target h100 --quantiser awq --group-size 32 --symmetric"
    argv += " --lm-head-bits 8 --river-activation float32 --max-seq-len 99 --tau -inf --pinned 1,4"
    argv += " --kernels native --policy p.json --backbone-bits 8 --banks backbone"
    argv += " --calibration-text t.txt --force --backend onnxruntime"
    assert main(argv.split()) == 0
    assert builder.calls == [
        FakeOptions(
            model="m",
            out=Path("e"),
            recipe="h100",
            backend="onnxruntime",
            quantiser="awq",
            group_size=32,
            symmetric=True,
            lm_head_bits=8,
            backbone_bits=8,
            river_activation="float32",
            kernels="native",
            max_seq_len=99,
            tau=float("-inf"),
            pinned=(1, 4),
            policy=Path("p.json"),
            calibration_text=Path("t.txt"),
            force=True,
            banks="backbone",
        )
    ]


def test_policies_by_name(capsys, builder):
    argv = ["build", "--model", "m", "--out", "e"]
    for options, expected in (
        (["--policy", "none"], {"policy": "none"}),
        (["--policy", "paper", "--quality", "0.1"], {"policy": "paper", "quality": 0.1}),
        (["--no-calibrate"], {"calibrate": False}),
    ):
        assert main([*argv, *options]) == 0
        assert builder.calls.pop() == FakeOptions("m", Path("e"), **expected)
    assert "policy " in capsys.readouterr().out


def test_result_says_what_to_type_next(capsys, builder):
    assert main(["build", "--model", "demo", "--out", "my engine"]) == 0
    captured = capsys.readouterr()
    assert "river-trt run --engine 'my engine' --chat --prompt" in captured.out
    assert captured.err == "quantising\nwriting\n"  # no bars where there is no terminal


def test_json_describes_the_engine(capsys, builder):
    assert main(["build", "--model", "demo", "--out", "engine", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["engine"] == "engine" and result["manifest"]["model"]["name"] == "fake"


def test_builder_s_refusal_is_one_line(builder, capsys):
    builder.error = CheckpointError("no such model directory: nowhere")
    assert main(["build", "--model", "nowhere", "--out", "engine"]) == 2
    assert capsys.readouterr().err.endswith("error: no such model directory: nowhere\n")


@pytest.mark.parametrize("name", ["torch", "onnx", "hqq.core.quantize"])
def test_missing_package_names_the_pip_command(capsys, builder, name):
    builder.error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert main(["build", "--model", "demo", "--out", "engine"]) == 2
    package = name.partition(".")[0]
    expected = f"building needs {package}, which is not installed: {this_build().install('build')}"
    assert expected in capsys.readouterr().err


def test_missing_torch_is_found_at_the_import(monkeypatch, refused):
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "builders.build":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert "building needs torch" in refused("build", "--model", "demo", "--out", "engine")


def test_our_own_missing_module_is_a_bug(builder):
    builder.error = ModuleNotFoundError("no", name="builders.nothing")
    assert main(["build", "--model", "demo", "--out", "engine"]) == 3  # a fault, no pip line


def test_interrupted_build(capsys, builder):
    builder.error = KeyboardInterrupt()
    assert main(["build", "--model", "demo", "--out", "engine"]) == 130


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--backend", "abacus"], "invalid choice: 'abacus' (choose from 'aotinductor', 'onnx"),
        (["--lm-head-bits", "5"], "invalid choice: 5 (choose from 4, 8, 16, 32)"),
        (["--backbone-bits", "4"], "invalid choice: 4 (choose from 8, 16, 32)"),
        (["--river-activation", "int4"], "choose from 'int8', 'float32'"),
        (["--group-size", "big"], "invalid int value"),
    ],
)
def test_unknown_choice_lists_what_there_is(builder, refused, argv, message):
    assert message in refused("build", "--model", "m", "--out", "e", *argv)
    assert builder.calls == []


def known_options(backends: Iterable[str]) -> set[str]:
    own = {field.name for field in fields(pytest.importorskip("builders.build").BuildOptions)}
    declared = {name for backend in backends for name in declarations(options_of(backend))}
    return (own | declared | set(COMMON)) - {"changes", "target"}


@pytest.mark.parametrize(
    ("command", "backends"), [(build, BACKENDS), (convert, convert.FORMATS.values())]
)
def test_every_argument_is_an_option_of_the_build(command, backends):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    names = {action.dest for action in parser._actions} - {"help", *NOT_OPTIONS}
    assert names <= known_options(backends)
    assert {field.name for field in fields(FakeOptions)} <= known_options(BACKENDS)


def test_an_option_declared_by_one_backend_is_an_argument_and_a_recipe_s_key(tmp_path, monkeypatch):
    @dataclass(frozen=True, slots=True)
    class More(OnnxRuntimeOptions):
        speed: str | None = option(None, choices=("fast", "slow"), help="of the trial")

    def declaring(backend: str) -> type[BackendOptions]:
        return More if backend == "onnxruntime" else options_of(backend)

    monkeypatch.setattr("builders.registry.options_of", declaring)
    monkeypatch.setattr("builders.recipes.options_of", declaring)
    parser = argparse.ArgumentParser()
    build.add_arguments(parser)
    args = parser.parse_args(["--model", "m", "--out", "e", "--speed", "slow"])
    changes = {"speed": given_options(args)["speed"]}
    assert load_recipe("cpu", changes).options_as(More).speed == "slow"
    mine = tmp_path / "mine.toml"
    mine.write_text((known_recipes()["cpu"]).read_text() + 'speed = "fast"\n')
    assert load_recipe(str(mine), {}).options_as(More).speed == "fast"
    with pytest.raises(RiverError, match="speed 'odd' is not offered; choose one of fast, slow"):
        load_recipe("cpu", {"speed": "odd"})


def test_the_former_name_of_network_is_understood(builder):
    assert main(["build", "--model", "m", "--out", "e", "--mode", "portable"]) == 0
    assert builder.calls[0].network == "portable"
