"""The building process over a stand-in for full TensorRT: which calls it makes, and when."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.recipes import load_recipe
from builders.tensorrt import worker
from builders.tensorrt.request import BuildRequest
from river_trt.errors import RiverError
from river_trt.layer_record import LayerRecord
from tests.builders.tensorrt.test_versions import ATTENTION, CACHE, stand_in


class Tensor(SimpleNamespace):
    pass


def tensor(name: str, shape: tuple[int, ...], dtype: str = "HALF") -> Tensor:
    return Tensor(name=name, shape=shape, dtype=SimpleNamespace(name=dtype))


class Network:
    """One gate of layer 1, one constant, one cache that it updates."""

    def __init__(self, trt: Any) -> None:
        self.inputs = [tensor("input_ids", (-1, -1)), tensor("k_cache.0", (-1, 2, -1, 16))]
        self.outputs = [tensor("k_cache_out.0", (-1, 2, -1, 16))]
        constant = [tensor("scales", (3, 8))]
        gate = [tensor("exit_layer.1", (-1, -1), "INT32"), *self.outputs]
        self.layers = [
            self.layer(trt, "scales", "CONSTANT", constant),
            self.layer(trt, "layers.0.gate", "PLUGIN_V3", gate),
        ]
        self.num_layers, self.num_inputs, self.num_outputs = 2, 2, 1
        self.get_layer = self.layers.__getitem__
        self.get_input, self.get_output = self.inputs.__getitem__, self.outputs.__getitem__

    @staticmethod
    def layer(trt: Any, name: str, kind: str, outputs: list[Tensor]) -> Any:
        core = SimpleNamespace(plugin_name="RiverGate")
        plugin = SimpleNamespace(get_capability_interface=lambda kind: core)
        made = trt.IPluginV3Layer()
        made.__dict__ |= {
            "name": name,
            "type": SimpleNamespace(name=kind),
            "metadata": f"[ONNX Layer: {name}]",
            "num_outputs": len(outputs),
            "get_output": outputs.__getitem__,
            "plugin": plugin,
        }
        return made


class Config(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(flags=[], previews=[], profiles=[], cache=None)

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_preview_feature(self, feature: str, enable: bool) -> None:
        self.previews.append((feature, enable))

    def add_optimization_profile(self, profile: dict) -> None:
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: data + b" and this build")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> None:
        assert not ignore_mismatch
        self.cache = cache

    def get_timing_cache(self) -> Any:
        return self.cache


def full_tensorrt(**failing: Any) -> Any:
    """TensorRT 10.16; `failing`: parse=False or engine=None."""
    trt = stand_in("10.16.1", ATTENTION | CACHE)
    base = type("Base", (), {"__init__": lambda self: None})
    trt.ILogger = type("ILogger", (base,), {"Severity": SimpleNamespace(INFO=3)})
    trt.IProgressMonitor = base
    trt.IPluginV3Layer = type("IPluginV3Layer", (), {})
    trt.PluginCapabilityType = SimpleNamespace(CORE="core")
    trt.LayerType = SimpleNamespace()
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    trt.BuilderFlag = SimpleNamespace(WEIGHT_STREAMING="stream", VERSION_COMPATIBLE="compatible")
    trt.config, trt.libraries = Config(), []

    def profile() -> Any:
        shapes: dict[str, Any] = {}
        set_shape = lambda name, *sizes: shapes.update({name: sizes})  # noqa: E731
        return SimpleNamespace(shapes=shapes, set_shape=set_shape)

    def build(network: Network, config: Config) -> bytes | None:
        config.progress_monitor.phase_start("Building", None, 1)
        config.progress_monitor.step_complete("Building", 0)
        return failing.get("engine", b"plan")

    trt.Builder = lambda logger: SimpleNamespace(
        create_network=lambda flags: Network(trt),
        create_builder_config=lambda: trt.config,
        create_optimization_profile=profile,
        build_serialized_network=build,
    )
    error = "In node 3 with name: x: no such operator"
    trt.OnnxParser = lambda network, logger: SimpleNamespace(
        parse_from_file=lambda path: failing.get("parse", True),
        num_errors=1,
        get_error=lambda i: error,
    )
    registry = SimpleNamespace(load_library=lambda path: trt.libraries.append(path) or 1)
    trt.get_plugin_registry = lambda: registry
    return trt


@pytest.fixture
def request_for(tmp_path):
    def make(**changes: Any) -> BuildRequest:
        options = load_recipe("h100", {}).options
        assert options is not None
        (tmp_path / "build.log").write_text("ERROR: out of tactics\n")
        return BuildRequest(
            backend="tensorrt",
            target="h100",
            graph=tmp_path / "model.onnx",
            engine=tmp_path / "engine.trt",
            record=tmp_path / "layers.json",
            log=tmp_path / "build.log",
            max_seq_len=1024,
            options=replace(options, **changes),
            plugin_library=Path("/a/libriver_trt_plugin.so"),
            timing_cache=tmp_path / "cache" / "10.16-sm90.timing",
        )

    return make


def test_a_request_survives_the_way_to_the_process(request_for):
    request = request_for(weight_streaming=True)
    assert BuildRequest.from_json(request.to_json()) == request
    without = replace(request, plugin_library=None, timing_cache=None)
    assert BuildRequest.from_json(without.to_json()) == without


def test_a_build_with_full_tensorrt(request_for, capsys):
    request = request_for()
    for expected in (b" and this build", b" and this build and this build"):
        trt = full_tensorrt()
        worker.build(trt, request)
        assert request.timing_cache.read_bytes() == expected  # the second build starts with it
    assert request.engine.read_bytes() == b"plan"
    assert trt.libraries == ["/a/libriver_trt_plugin.so"]
    assert trt.config.previews == [("aliased", True)]
    assert not trt.config.flags and trt.config.builder_optimization_level == 3
    decode, prefill = trt.config.profiles
    assert decode["input_ids"] == ((1, 1), (1, 1), (16, 1))
    assert prefill["input_ids"] == ((1, 1), (1, 512), (1, 512))
    assert decode["k_cache.0"][2] == (16, 2, 1024, 16)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    stages = [["parsing", 0, 1], ["parsing", 1, 1], ["building engine", 100, 100]]
    assert lines == stages * 2
    record = LayerRecord.from_json(request.record.read_text())
    assert (record.library, record.gates) == ("TensorRT 10.16.1", 1)
    assert record.plugins == {"RiverGate": 1} and record.weight_bytes == {"HALF": 48}
    assert [slot.cache for slot in record.cache_slots] == ["k_cache.0"]


def test_flags_of_a_recipe(request_for):
    trt = full_tensorrt()
    worker.build(
        trt,
        request_for(
            weight_streaming=True, version_compatible=True, hardware_compatibility="ampere_plus"
        ),
    )
    assert trt.config.flags == ["stream", "compatible"]
    assert trt.config.hardware_compatibility_level == "ampere+"


def test_refusals_carry_tensorrts_reason(request_for):
    with pytest.raises(RiverError, match="cannot read the graph: In node 3 .*: no such operator"):
        worker.build(full_tensorrt(parse=False), request_for())
    with pytest.raises(RiverError, match="cannot build the engine: out of tactics"):
        worker.build(full_tensorrt(engine=None), request_for())
