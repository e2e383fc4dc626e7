"""Which models get the native kernels, and what a token reads with them."""

from dataclasses import replace

import numpy as np
import pytest

from builders.families.base import ModelConfig, QueryScaling
from builders.onnxruntime.native import choose_kernels
from builders.source import ModelSource
from river_trt.backends.base import Step
from river_trt.errors import CheckpointError
from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import LAYERS, TINY_MODELS, save_tiny_model
from tests.builders.tiny_engines import build_pair, forced_exit, pair_of
from tests.builders.tiny_llama import save_tiny_llama

LACKING = {
    "soft caps": {"final_softcap": 30.0},
    "queries scaled by position": {"query_scaling": QueryScaling(0.1, 64)},
    "the activation relu": {"activation": "relu"},
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


@pytest.mark.parametrize("family", ["qwen3", "smollm3", "phi4-mini", "mistral", "gemma3"])
def test_what_families_add_to_llama(tmp_path, family):
    """Norms of heads and of sums, windows, other rotations and none; 40 tokens: seven windows."""
    hf = save_tiny_model(tmp_path / "model", replace(TINY_MODELS[family], quantiser="rtn"))
    pair = pair_of(tmp_path, hf, kernels="native")
    ids = np.random.default_rng(0).integers(3, 112, (2, 40))
    for exit_after in range(1, LAYERS + 1):
        pair.assert_equal(ids, forced_exit(LAYERS, exit_after))
    full = ExitPolicy.full_depth(LAYERS)
    logits, _ = pair.engine.forward(ids[:1], full)
    for start in range(0, ids.shape[1], 7):  # in steps over a filled cache, to the bit
        step = Step.whole(ids[:1, start : start + 7], full, past_length=start)
        found = pair.engine.stepper.session.step(step).logits
        np.testing.assert_array_equal(found, logits[:, start : start + 7])
