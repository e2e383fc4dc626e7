"""SmolLM3: Llama with some layers that have no rotary embedding (NoPE)."""

import dataclasses

from transformers import SmolLM3Config

from builders.families.base import Family, ModelConfig
from builders.families.reading import standard_config, typed_layers
from river_trt.errors import CheckpointError


def describe(config: SmolLM3Config) -> ModelConfig:
    rotated = config.no_rope_layers  # 1: the layer has a rotary embedding
    if len(rotated) < config.num_hidden_layers:
        raise CheckpointError(
            f"config.json has {len(rotated)} no_rope_layers for {config.num_hidden_layers} layers"
        )
    layers = tuple(
        dataclasses.replace(layer, rope=0 if has_rope else None)
        for layer, has_rope in zip(typed_layers(config), rotated, strict=False)
    )
    bias = config.attention_bias
    return standard_config(
        config, "smollm3", layers=layers, qkv_bias=bias, o_bias=bias, mlp_bias=config.mlp_bias
    )


SMOLLM3 = Family("smollm3", ("SmolLM3ForCausalLM",), SmolLM3Config, describe)
