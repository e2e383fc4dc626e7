import dataclasses
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from builders.families import family_of
from builders.families.base import LayerSpec, ModelConfig
from river_trt.errors import CheckpointError
from tests.builders.tiny_llama import SIZES

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 2.0}


def llama(**changes: Any) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | SIZES | changes


def read(config: dict[str, Any]) -> ModelConfig:
    return family_of(config).read_config(config)


def check_rope(config: dict[str, Any]) -> None:
    """inv_freq and the factor equal transformers' own rotary embedding."""
    ours = read(config)
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(config))
    (rope,) = ours.ropes
    assert torch.equal(torch.tensor(rope.inv_freq), theirs.inv_freq)
    assert rope.factor == pytest.approx(theirs.attention_scaling)


def test_every_field() -> None:
    config = read(
        llama(
            head_dim=16,
            rms_norm_eps=1e-4,
            tie_word_embeddings=True,
            bos_token_id=3,
            eos_token_id=[4, 5],
            attention_bias=True,
        )
    )
    found = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    found.pop("ropes")
    assert found == {
        "family": "llama",
        "hidden_size": 32,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": 112,
        "norm_eps": 1e-4,
        "tie_embeddings": True,
        "max_position_embeddings": 128,
        "eos_token_ids": (4, 5),
        "bos_token_id": 3,
        "layers": (LayerSpec(rope=0, window=None),) * 2,
        "attention_scale": 0.25,
        "activation": "silu",
        "qkv_bias": True,
        "o_bias": True,
        "mlp_bias": False,
        "qk_norms": False,
        "sandwich_norms": False,
        "embedding_scale": 1.0,
        "attention_softcap": None,
        "final_softcap": None,
        "query_scaling": None,
        "fixed_rope_positions": None,
        "needs_bfloat16": False,
    }
    assert config.linear_shapes["qkv"] == (128, 32)
    assert config.linear_shapes["o"] == (32, 64)
    assert config.biased_linears == {"qkv", "o"}


def test_defaults_of_old_files() -> None:
    old = llama()
    del old["num_key_value_heads"]  # Llama 1 and 2: no GQA
    config = read(old)
    assert config.num_kv_heads == 4
    assert config.head_dim == 8
    assert config.eos_token_ids == (2,)


@pytest.mark.parametrize("scaling", [None, LLAMA3, YARN, LINEAR])
def test_rope_equals_transformers(scaling: dict[str, Any] | None) -> None:
    check_rope(llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5} | (scaling or {})))


@pytest.mark.parametrize("scaling", [None, LLAMA3, YARN, LINEAR])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_rope_of_old_files_equals_transformers(scaling: dict[str, Any] | None, key: str) -> None:
    old = scaling and {key if k == "rope_type" else k: v for k, v in scaling.items()}
    config = llama(rope_theta=5e5, rope_scaling=old)
    check_rope(config)
    new = llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5} | (scaling or {}))
    assert read(config) == read(new)


def test_scaling_is_not_a_no_op() -> None:
    assert read(llama(rope_scaling=LLAMA3)).ropes != read(llama()).ropes
    assert read(llama(rope_scaling=YARN)).ropes[0].factor > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "MambaForCausalLM.*supported: .*LlamaForCausalLM",
        ),
        ({"architectures": None}, "supported: .*LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantised .gptq"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "over a part of each head are not supported in llama"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"num_hidden_layers": 0}, "num_layers must be positive"),
        ({"num_attention_heads": 0}, "not a valid llama config"),
        ({"hidden_size": "wide"}, "not a valid llama config"),
        ({"dtype": "float7"}, "not a valid llama config"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(llama(**changes))
    assert "\n" not in str(caught.value)
