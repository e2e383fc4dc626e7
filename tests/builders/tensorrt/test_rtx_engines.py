"""Engines of TensorRT-RTX for an A100, built on this machine: each family, both modes.

The builder runs in a process of its own, so a case that aborts it is one failure. Running an
engine needs a GPU: not covered.
"""

import pytest

from builders.build import BuildOptions, build
from builders.tensorrt import process
from builders.tensorrt.portable_graph import PortableLowering
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError
from river_trt.layer_record import CacheSlot, read_record
from tests.builders.families.tiny_models import LAYERS, TINY_MODELS, save_tiny_model
from tests.builders.tensorrt.graphs import shared_traces
from tests.plugins import native

LINEARS = 4  # of a layer
SLOTS = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    for name, tiny in TINY_MODELS.items():
        save_tiny_model(directory / name, tiny)
    return directory


@pytest.fixture
def options(models, tmp_path, monkeypatch):
    native.skip_without_package("tensorrt-rtx-cu13")

    def make(name: str, mode: str, **changes) -> BuildOptions:
        if mode == "plugin":
            library = native.build("river_trt_plugin") / "libriver_trt_plugin.so"
            monkeypatch.setenv("RIVER_TRT_PLUGIN", str(library))
        values = {"recipe": "a100", "backend": "tensorrt-rtx", "quantiser": "rtn", "network": mode}
        # By name: Gemma wants to be asked for it.
        values |= {"group_size": 32, "max_seq_len": SLOTS, "dtype": "float16"} | changes
        return BuildOptions(str(models / name), tmp_path / "engine", **values)

    return make


@pytest.mark.parametrize("mode", ["plugin", "portable"])
@pytest.mark.parametrize("name", TINY_MODELS)
def test_an_engine_of_every_family(options, name, mode):
    chosen = options(name, mode)
    with shared_traces():
        built = build(chosen)
    manifest = read_engine_dir(chosen.out)
    assert manifest == built
    assert (manifest.backend.name, manifest.backend.mode) == ("tensorrt-rtx", mode)
    assert manifest.backend.compute_capability == "8.0"
    assert manifest.precision.kv_cache == "float16"
    assert {"engine.trt", "layers.json", "build.log"} <= manifest.files.keys()
    assert not [path for path in chosen.out.iterdir() if path.name.startswith(".")]

    record = read_record(chosen.out)
    assert record is not None
    assert (record.gates, record.attentions) == (LAYERS, attentions_of(name, mode))
    updates = [
        CacheSlot(f"{kv}_cache.{layer}", updater(mode, kv, layer), in_conditional=False)
        for layer in range(LAYERS)
        for kv in "kv"
    ]
    assert list(record.cache_slots) == updates
    if mode == "plugin":
        linears = LINEARS * LAYERS + 1  # and the head
        plugins = {"RiverLinear": linears, "RiverAttention": LAYERS, "RiverGate": LAYERS}
        assert (record.plugins, record.linears, record.conditionals) == (plugins, linears, 0)
    else:
        # Layer 1 has one bank; the others two regions of two conditionals, and the river twice.
        assert record.conditionals == 4 * (LAYERS - 1)
        assert record.linears == LINEARS + 3 * LINEARS * (LAYERS - 1) + 1
        assert not record.plugins
        assert record.weight_bytes["INT4"] > 0


def attentions_of(name: str, mode: str) -> int:
    """Soft-capped scores are spelled out in portable mode."""
    return 0 if (name, mode) == ("gemma2", "portable") else LAYERS


def updater(mode: str, kv: str, layer: int) -> str:
    module = f"layers.{layer}.self_attn"
    return f"{module}.attention" if mode == "plugin" else f"{module}/update.{kv}_cache.{layer}"


MINE = """
backend = "tensorrt-rtx"
target = "mine"
quantiser = "rtn"
group_size = 32
symmetric = true
max_seq_len = 64
[tensorrt]
compute_capability = "8.9"
dtype = "bfloat16"
kv_cache = "bfloat16"
attention = "native"
profiles = [{ name = "decode", batch = [1, 1, 2], seq = [1, 1, 1] }]
"""


def test_a_recipe_of_ones_own(options, tmp_path):
    """Another type, another GPU, and TensorRT's own attention between the plugins."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(MINE)
    chosen = options("qwen2", "plugin", recipe=str(recipe), quantiser=None, dtype=None)
    with shared_traces():
        manifest = build(chosen)
    assert manifest.backend.target == "mine"
    assert manifest.backend.compute_capability == "8.9"
    assert manifest.precision.backbone == manifest.precision.kv_cache == "bfloat16"
    record = read_record(chosen.out)
    assert record is not None
    assert record.plugins == {"RiverLinear": LINEARS * LAYERS + 1, "RiverGate": LAYERS}
    assert (record.attentions, record.conditionals) == (LAYERS, 0)
    assert {slot.updated_by for slot in record.cache_slots} == {
        updater("portable", kv, layer) for layer in range(LAYERS) for kv in "kv"
    }


def test_a_graph_that_tensorrt_refuses(options, tmp_path, monkeypatch):
    monkeypatch.setattr(PortableLowering, "exit_layer", lambda self: "nowhere")
    chosen = options("llama", "portable")
    with (
        shared_traces(),
        pytest.raises(RiverError, match="TensorRT cannot read the graph: .*exit_layer"),
    ):
        build(chosen)
    assert not list(tmp_path.iterdir())


def test_a_builder_that_aborts_ends_its_own_process_only(
    options, tmp_path, tmp_path_factory, monkeypatch
):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(process, "WORKER", "tests.builders.tensorrt.aborting_worker")
    chosen = options("llama", "portable")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    message = "TensorRT ended by SIGABRT while building: the last thing it said; the whole log is"
    with shared_traces(), pytest.raises(RiverError, match=message):
        build(chosen)
    assert not list(tmp_path.iterdir())
    assert "nothing much" in (cache / "river-trt" / "tensorrt" / "last-failure.log").read_text()
