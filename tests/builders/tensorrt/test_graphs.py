"""Both modes' graphs against the torch reference, without TensorRT and without a GPU.

Portable graphs run in ONNX Runtime; plugin graphs in onnx's reference evaluator, over what the
plugins are specified to compute.
"""

import functools

import numpy as np
import pytest

from builders.dialect import dequantise
from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import LAYERS, TINY_MODELS, WINDOW, save_tiny_model
from tests.builders.tensorrt.graphs import Subject, recipe_of, write
from tests.builders.tiny_engines import forced_exit, policy

RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 112, (2, 4 * WINDOW))
DIRECTIONS = RNG.standard_normal((LAYERS, 64)).astype(np.float32)
MODES = ("portable", "plugin")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    @functools.cache
    def make(name: str, mode: str, quantiser: str, symmetric: bool = False) -> Subject:
        directory = tmp_path_factory.mktemp(f"{name}-{mode}")
        save_tiny_model(directory / "model", TINY_MODELS[name])
        recipe = recipe_of(mode, quantiser, symmetric)
        return write(directory / "model", directory / "graph", mode, recipe)

    return make


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TINY_MODELS)
def test_every_family_at_every_forced_exit(subjects, name, mode):
    quantiser = "rtn" if name not in ("llama", "gemma3") else "awq"  # its pre_scales
    subject = subjects(name, mode, quantiser)
    subject.assert_equal(IDS, ExitPolicy.full_depth(LAYERS))
    for layer in range(1, LAYERS):
        exit_layer = subject.assert_equal(IDS, forced_exit(LAYERS, layer))
        assert (exit_layer == layer).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scope", ["token", "sequence", "batch"])
@pytest.mark.parametrize("directions", [None, DIRECTIONS], ids=["similarity", "direction"])
def test_gates_decide_alike(subjects, mode, scope, directions):
    """Thresholds that split the tokens: rows on different banks in one step."""
    subject = subjects("qwen2", mode, "rtn")
    tau = 0.5 if directions is None else 0.0
    for pinned in ((), (2,), (LAYERS,)):
        chosen = policy(LAYERS, tau, pinned, directions)
        exit_layer = subject.assert_equal(IDS, chosen, scope)
        if scope == "token":
            assert len(np.unique(exit_layer)) > 1, "the thresholds split nothing"


@pytest.mark.parametrize("mode", MODES)
def test_a_symmetric_river(subjects, mode):
    subject = subjects("llama", mode, "rtn", symmetric=True)
    subject.assert_equal(IDS, forced_exit(LAYERS, 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", "ministral3"])
def test_steps_over_a_filled_cache_equal_one_pass(subjects, mode, name):
    """Rows of different lengths, several tokens a step; ministral3 scales queries by position."""
    subject = subjects(name, mode, "awq" if name == "llama" else "rtn")
    chosen = forced_exit(LAYERS, 1)
    whole, _, _ = subject.step(IDS, chosen)
    first, _, caches = subject.step(IDS[:, :9], chosen)
    np.testing.assert_allclose(first, whole[:, :9], atol=1e-4, rtol=0)
    # The second row is one token behind the first.
    past = np.array([9, 8], np.int32)
    ids = np.stack([IDS[0, 9:12], IDS[1, 8:11]])
    later, _, _ = subject.step(ids, chosen, past=past, caches=caches)
    np.testing.assert_allclose(later[0], whole[0, 9:12], atol=1e-4, rtol=0)
    np.testing.assert_allclose(later[1], whole[1, 8:11], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["phi4-mini", "gemma2"])  # a tied head; soft-capped logits
def test_a_head_of_four_bits(tmp_path, mode, name):
    save_tiny_model(tmp_path / "model", TINY_MODELS[name])
    recipe = recipe_of(mode, lm_head_bits=4)
    subject = write(tmp_path / "model", tmp_path / "graph", mode, recipe)
    subject.assert_equal(IDS, forced_exit(LAYERS, 2))


def test_native_attention_between_plugins(tmp_path):
    """onnx's evaluator has TensorScatter and Attention too."""
    save_tiny_model(tmp_path / "model", TINY_MODELS["mistral"])
    recipe = recipe_of("plugin")
    subject = write(tmp_path / "model", tmp_path / "graph", "plugin", recipe, attention="native")
    kinds = {node.op_type for node in subject.model.graph.node}
    assert {"RiverLinear", "RiverGate", "TensorScatter", "Attention"} <= kinds
    assert "RiverAttention" not in kinds
    subject.assert_equal(IDS, forced_exit(LAYERS, 2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("banks", ["backbone", "river"])
def test_one_bank_alone_is_a_plain_model(tmp_path, mode, banks):
    """No gate and no policy inputs; with the river, layer 1 runs it too."""
    save_tiny_model(tmp_path / "model", TINY_MODELS["qwen2"])
    recipe = recipe_of(mode)
    subject = write(tmp_path / "model", tmp_path / "graph", mode, recipe, banks=banks)
    names = {tensor.name for tensor in subject.model.graph.initializer}
    assert any(name.endswith(("int4", "qweight_int32")) for name in names) == (banks == "river")
    if banks == "backbone":
        subject.assert_equal(IDS, ExitPolicy.full_depth(LAYERS))
        return
    reference = subject.reference
    for layer in reference.layers:
        for linear in layer.linears().values():
            size = linear.weight.shape[1]
            linear.weight = dequantise(linear.qweight, linear.scales, linear.zero_points, size)
    subject.assert_equal(IDS, ExitPolicy.full_depth(LAYERS))


def test_the_plugins_absorb_what_stands_around_a_linear(subjects):
    """A llama layer is six nodes: nothing plain is left between the plugins."""
    model = subjects("llama", "plugin", "awq").model
    kinds = [node.op_type for node in model.graph.node]
    layer = ["RiverLinear", "RiverAttention", *["RiverLinear"] * 3, "RiverGate"]
    assert kinds[1 : 1 + 6 * LAYERS] == layer * LAYERS
    fields = {node.name: {a.name for a in node.attribute if a.i} for node in model.graph.node}
    assert {"bias", "pre_scale"} <= fields["layers.1.self_attn.qkv_proj"]
    assert "norm" in fields["layers.1.self_attn.qkv_proj"]
    assert "residual" in fields["layers.1.self_attn.o_proj"]
    assert {"norm", "silu_mul"} <= fields["layers.1.mlp.gate_up_proj"]
    assert "residual" in fields["layers.1.mlp.down_proj"]
    assert "norm" in fields["lm_head"]
