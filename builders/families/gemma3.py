"""Gemma 3, text only. Against Gemma 2: norms on q and k in place of the attention's soft cap, and
other rotary frequencies where there is a window.
"""

import dataclasses

from transformers import Gemma3TextConfig

from builders.families.base import Family, ModelConfig
from builders.families.gemma2 import GEMMA_WEIGHTS, gemma_features
from builders.families.reading import head_dim_of, standard_config, typed_layers
from builders.families.rope import read_rope
from river_trt.errors import CheckpointError

ROPES = ("full_attention", "sliding_attention")  # the order of ModelConfig.ropes


def describe(config: Gemma3TextConfig) -> ModelConfig:
    if config.attn_logit_softcapping is not None:  # transformers reads it and then ignores it
        raise CheckpointError("Gemma 3 with attn_logit_softcapping is not supported")
    layers = tuple(
        dataclasses.replace(layer, rope=ROPES.index(kind))
        for layer, kind in zip(typed_layers(config), config.layer_types, strict=True)
    )
    head_dim = head_dim_of(config)
    return standard_config(
        config,
        "gemma3",
        layers=layers,
        ropes=tuple(read_rope(config, head_dim, kind) for kind in ROPES),
        qk_norms=True,
        **gemma_features(config),
    )


GEMMA3 = Family("gemma3", ("Gemma3ForCausalLM",), Gemma3TextConfig, describe, GEMMA_WEIGHTS)
