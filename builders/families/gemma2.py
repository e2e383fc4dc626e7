"""Gemma 2. Against Llama: norms on both sides of attention and MLP, norm weights stored less one,
a scaled embedding, GELU, an attention scale of its own, soft caps, windows in every other layer.
"""

from typing import Any

from transformers import Gemma2Config, PreTrainedConfig

from builders.families.base import SANDWICH_NORMS, Family, ModelConfig, WeightNames
from builders.families.reading import standard_config, typed_layers
from river_trt.errors import CheckpointError

GEMMA_WEIGHTS = WeightNames(norms=SANDWICH_NORMS, norm_offset=1.0)


def describe(config: Gemma2Config) -> ModelConfig:
    return standard_config(
        config,
        "gemma2",
        layers=typed_layers(config),
        attention_softcap=config.attn_logit_softcapping,
        **gemma_features(config),
    )


def gemma_features(config: PreTrainedConfig) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common; CheckpointError for a bidirectional one."""
    if config.use_bidirectional_attention:
        raise CheckpointError("bidirectional attention is not supported: a decoder is causal")
    bias = config.attention_bias
    return {
        "activation": config.hidden_activation,
        "sandwich_norms": True,
        "needs_bfloat16": True,
        "embedding_scale": config.hidden_size**0.5,
        "attention_scale": config.query_pre_attn_scalar**-0.5,
        "final_softcap": config.final_logit_softcapping,
        "qkv_bias": bias,
        "o_bias": bias,
    }


GEMMA2 = Family("gemma2", ("Gemma2ForCausalLM",), Gemma2Config, describe, GEMMA_WEIGHTS)
