"""Which models get the native kernels, and what a token reads with them."""

from dataclasses import replace

import pytest

from builders.families.base import LayerSpec, ModelConfig, QueryScaling, Rope
from builders.onnxruntime.native import choose_kernels
from builders.source import ModelSource
from river_trt.errors import CheckpointError
from tests.builders.tiny_engines import build_pair
from tests.builders.tiny_llama import save_tiny_llama

LACKING = {
    "q/k norms": {"qk_norms": True},
    "norms after attention and MLP": {"sandwich_norms": True},
    "soft caps": {"final_softcap": 30.0},
    "sliding windows": {"layers": (LayerSpec(), LayerSpec(window=8))},
    "layers without RoPE": {"layers": (LayerSpec(), LayerSpec(rope=None))},
    "partial RoPE": {"ropes": (Rope((1.0,)),)},
    "queries scaled by position": {"query_scaling": QueryScaling(0.1, 64)},
    "the activation gelu_pytorch_tanh": {"activation": "gelu_pytorch_tanh"},
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
