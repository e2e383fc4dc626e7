"""Llama and what copies it (SmolLM2, TinyLlama, ...): GQA, gated SiLU MLP, RMSNorm, RoPE."""

from transformers import LlamaConfig

from builders.families.base import Family, ModelConfig
from builders.families.reading import standard_config


def describe(config: LlamaConfig) -> ModelConfig:
    bias = config.attention_bias
    return standard_config(config, "llama", qkv_bias=bias, o_bias=bias, mlp_bias=config.mlp_bias)


LLAMA = Family("llama", ("LlamaForCausalLM",), LlamaConfig, describe)
