"""Which models get the native kernels, and what a token reads with them."""

from dataclasses import replace

import numpy as np
import pytest

import river_trt
from builders.build import BuildOptions, build
from builders.families.base import ModelConfig, QueryScaling
from builders.onnxruntime.native import choose_kernels
from builders.source import ModelSource
from river_trt.backends.base import Step
from river_trt.errors import CheckpointError
from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import LAYERS, TINY_MODELS, save_tiny_model
from tests.builders.tiny_engines import build_pair
from tests.builders.tiny_llama import save_tiny_llama

LACKING = {
    "soft caps": {"final_softcap": 30.0},
    "queries scaled by position": {"query_scaling": QueryScaling(0.1, 64)},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> ModelConfig:
    directory = tmp_path_factory.mktemp("llama")
    save_tiny_llama(directory / "model")
    return ModelSource.open(str(directory / "model")).config


def test_llama_gets_native_kernels_unless_others_are_asked_for(llama):
    assert choose_kernels(llama, None) == choose_kernels(llama, "native") == "native"
    assert choose_kernels(llama, "onnxruntime") == "onnxruntime"


@pytest.mark.parametrize("feature", LACKING)
def test_what_the_kernels_lack_is_named(llama, feature):
    config = replace(llama, **LACKING[feature])
    assert choose_kernels(config, None) == "onnxruntime"
    with pytest.raises(CheckpointError, match=f"{feature}.*--kernels onnxruntime"):
        choose_kernels(config, "native")


def test_both_kernels_read_as_many_bytes(tmp_path):
    counts = {
        kernels: build_pair(tmp_path / kernels, kernels=kernels).engine.manifest.bytes_per_layer
        for kernels in ("native", "onnxruntime")
    }
    native, stock = counts["native"], counts["onnxruntime"]
    assert (native.backbone_layer, native.lm_head) == (stock.backbone_layer, stock.lm_head)
    # A zero point takes a byte there, half a byte here.
    assert 0 <= native.river_layer - stock.river_layer < 0.1 * stock.river_layer


def test_every_family_but_two_gets_native_kernels(tmp_path):
    found = {}
    for name, tiny in TINY_MODELS.items():
        save_tiny_model(tmp_path / name, tiny)
        found[name] = choose_kernels(ModelSource.open(str(tmp_path / name)).config, None)
    stock = {name for name, kernels in found.items() if kernels == "onnxruntime"}
    assert stock == {"gemma2", "ministral3"}


@pytest.mark.parametrize("family", ["qwen3", "smollm3", "phi4-mini", "mistral", "gemma3"])
def test_steps_of_any_length_give_the_same_bits(tmp_path, family):
    """Norms of heads and of sums, windows, other rotations and none; 40 tokens: seven windows."""
    save_tiny_model(tmp_path / "model", TINY_MODELS[family])
    options = BuildOptions(
        str(tmp_path / "model"), tmp_path / "engine", quantiser="rtn", kernels="native"
    )
    build(replace(options, calibrate=False))
    engine = river_trt.load(tmp_path / "engine")
    ids, full = np.random.default_rng(0).integers(3, 112, (1, 40)), ExitPolicy.full_depth(LAYERS)
    logits, _ = engine.forward(ids, full)
    for start in range(0, ids.shape[1], 7):
        step = Step.whole(ids[:, start : start + 7], full, past_length=start)
        found = engine.stepper.session.step(step).logits
        np.testing.assert_array_equal(found, logits[:, start : start + 7])
    for wanted in ([39], [0, 22]):  # the last layer leaves the other rows out
        some, _ = engine.forward(ids, full, logit_indices=np.array(wanted))
        np.testing.assert_array_equal(some, logits[:, wanted])
