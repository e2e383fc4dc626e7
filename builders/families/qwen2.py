"""Qwen2 and Qwen2.5: biases on q, k and v; a sliding window in the later layers, if switched on."""

from transformers import Qwen2Config

from builders.families.base import Family, ModelConfig
from builders.families.reading import standard_config, typed_layers


def describe(config: Qwen2Config) -> ModelConfig:
    return standard_config(config, "qwen2", layers=typed_layers(config), qkv_bias=True)


QWEN2 = Family("qwen2", ("Qwen2ForCausalLM",), Qwen2Config, describe)
