"""Backbones of fewer bits: equal to the reference with the stored weights, in fewer bytes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import river_trt
from builders.build import BuildOptions, build
from builders.evaluation.metrics import kl_divergence
from builders.recipes import load_recipe
from builders.reference import teacher_forced
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import TINY, build_pair, forced_exit, policy
from tests.builders.tiny_llama import save_tiny_llama

LAYERS = 4
IDS = np.random.default_rng(0).integers(3, 112, (3, 24))
OFFERED = [(8, "native"), (16, "native"), (8, "onnxruntime")]
# A part-filled group and panel, biases, and a river with an input scaling of its own.
VARIANTS = {
    "rtn": {},
    "awq, biases, sizes that fill no panel": {
        "quantiser": "awq",
        "attention_bias": True,
        "mlp_bias": True,
        "intermediate_size": 100,
        "hidden_size": 72,
        "head_dim": 16,
    },
}


@pytest.mark.parametrize(("bits", "kernels"), OFFERED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference_with_the_stored_backbone(tmp_path, bits, kernels, variant):
    pair = build_pair(tmp_path, kernels=kernels, backbone_bits=bits, **VARIANTS[variant])
    for layer in range(1, LAYERS + 1):
        pair.assert_equal(IDS, forced_exit(LAYERS, layer))
        pair.assert_equal(IDS, forced_exit(LAYERS, layer, (3,)))
    mixed = pair.assert_equal(IDS, policy(LAYERS, 0.5))
    assert len(np.unique(mixed)) > 1, "the threshold must split the tokens"


@pytest.mark.parametrize("bits", [8, 16])
def test_rows_of_a_batch_with_their_own_exits_equal_each_row_alone(tmp_path, bits):
    """With rounded activations too, as an engine is shipped."""
    pair = build_pair(tmp_path, backbone_bits=bits, river_activation="int8")
    prompts = [IDS[0, :3].tolist(), IDS[1, :17].tolist(), IDS[2, :9].tolist(), IDS[0, 5:6].tolist()]
    config = river_trt.GenerationConfig(max_new_tokens=20, tau=0.45, ignore_eos=True)
    together = pair.engine.generate(prompts, config)
    assert len({int(layer) for result in together for layer in result.exit_layers[1:]}) > 1
    for prompt, result in zip(prompts, together, strict=True):
        (alone,) = pair.engine.generate([prompt], config)
        assert result.token_ids == alone.token_ids
        assert list(result.exit_layers) == list(alone.exit_layers)


FULL_DEPTH = """
import sys
import numpy as np
import river_trt
from river_trt.spec import ExitPolicy

engine = river_trt.load(sys.argv[1])
ids = np.load(sys.argv[2])
np.save(sys.argv[3], engine.forward(ids, ExitPolicy.full_depth(engine.num_layers))[0])
"""


def test_rounded_activations_of_an_integer_backbone_cost_next_to_nothing(tmp_path):
    """In 16 bits, as portable kernels have them; AVX-512 rounds to 8 what its rule allows."""
    pair = build_pair(tmp_path, backbone_bits=8, river_activation="int8")
    full, ids, out = ExitPolicy.full_depth(LAYERS), tmp_path / "ids.npy", tmp_path / "logits.npy"
    np.save(ids, IDS)
    program = [sys.executable, "-c", FULL_DEPTH, str(pair.directory), str(ids), str(out)]
    subprocess.run(program, env=os.environ | {"RIVER_TRT_CPU_KERNELS": "portable"}, check=True)
    expected, _ = teacher_forced(pair.reference, IDS, full)
    np.testing.assert_allclose(np.load(out), expected, rtol=0, atol=4e-3)
    by_best_kernels, _ = pair.engine.forward(IDS, full)
    kl = kl_divergence(*map(torch.from_numpy, (expected, by_best_kernels))).mean()
    assert kl < 0.005, "the rule of the default engine"
    river = forced_exit(LAYERS, 1)
    logits, _ = pair.engine.forward(IDS, river)
    expected, _ = teacher_forced(pair.reference, IDS, river)
    assert np.abs(logits - expected).max() > 0.02, "the river rounds to 8"


def test_manifest_states_precision_and_bytes(tmp_path):
    save_tiny_llama(tmp_path / "model", **TINY)
    counts = {}
    for bits, name in ((8, "int8"), (16, "float16"), (32, "float32")):
        options = BuildOptions(
            str(tmp_path / "model"),
            tmp_path / str(bits),
            quantiser="rtn",
            group_size=32,
            backbone_bits=bits,
        )
        manifest = build(options)
        assert manifest.precision.backbone == name
        counts[bits] = manifest.bytes_per_layer
    # qkv 128 x 64, o 64 x 64, gate and up 192 x 64, down 64 x 96: whole groups of 32
    weights, norms = 64 * (128 + 64 + 192 + 96), 2 * 64 * 4
    groups = weights // 32
    assert counts[32].backbone_layer == 4 * weights + norms
    assert counts[16].backbone_layer == 2 * weights + norms
    assert counts[8].backbone_layer == weights + 5 * groups + norms
    assert len({c.river_layer for c in counts.values()}) == 1
    assert len({c.lm_head for c in counts.values()}) == 1


@pytest.mark.parametrize("banks", ["backbone", "river"])
def test_one_bank_alone_reads_as_much_at_any_depth(tmp_path, banks):
    save_tiny_llama(tmp_path / "model", **TINY)
    options = BuildOptions(
        str(tmp_path / "model"), tmp_path / "engine", quantiser="rtn", group_size=32, banks=banks
    )
    counts = build(options).bytes_per_layer
    assert counts.backbone_layer == counts.river_layer
    weights = 64 * (128 + 64 + 192 + 96)
    assert (counts.backbone_layer > 4 * weights) == (banks == "backbone")
    engine = river_trt.load(tmp_path / "engine")
    config = river_trt.GenerationConfig(max_new_tokens=3, tau=np.inf, ignore_eos=True)
    assert len(engine.generate([[5, 6]], config)[0].token_ids) == 3


def test_sixteen_bits_without_native_kernels_are_refused(tmp_path):
    save_tiny_llama(tmp_path / "model", **TINY)
    options = BuildOptions(
        str(tmp_path / "model"), tmp_path / "engine", kernels="onnxruntime", backbone_bits=16
    )
    with pytest.raises(RiverError, match="16 needs the native kernels.*choose 8 or 32"):
        build(options)
    assert not (tmp_path / "engine").exists()


def test_weights_beyond_float16_are_refused(tmp_path):
    model = save_tiny_llama(tmp_path / "model", **TINY)
    model.model.layers[1].mlp.down_proj.weight.data[3, 5] = 70000.0
    model.save_pretrained(tmp_path / "model")
    options = BuildOptions(
        str(tmp_path / "model"), tmp_path / "engine", quantiser="rtn", backbone_bits=16
    )
    with pytest.raises(RiverError, match="layers.1.mlp.down_proj.weight holds 70000"):
        build(options)
    assert not (tmp_path / "engine").exists()


def test_other_backends_refuse_the_option():
    with pytest.raises(
        RiverError, match="backbone_bits is an option of onnxruntime, and .* tensorrt-llm"
    ):
        load_recipe("cpu", {"backend": "tensorrt-llm", "backbone_bits": 8})
    with pytest.raises(RiverError, match="backbone_bits 4 is not offered"):
        load_recipe("cpu", {"backbone_bits": 4})
