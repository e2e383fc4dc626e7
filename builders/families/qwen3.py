"""Qwen3 (dense): norms on each head's q and k; sliding windows as in Qwen2."""

from transformers import Qwen3Config

from builders.families.base import Family, ModelConfig
from builders.families.reading import standard_config, typed_layers


def describe(config: Qwen3Config) -> ModelConfig:
    bias = config.attention_bias
    return standard_config(
        config,
        "qwen3",
        layers=typed_layers(config),
        qkv_bias=bias,
        o_bias=bias,
        qk_norms=True,
    )


QWEN3 = Family("qwen3", ("Qwen3ForCausalLM",), Qwen3Config, describe)
