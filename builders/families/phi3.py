"""Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: fused projections, partial rotary, LongRoPE."""

from transformers import Phi3Config

from builders.families.base import LINEARS, Family, ModelConfig, WeightNames
from builders.families.reading import standard_config, windowed_layers


def describe(config: Phi3Config) -> ModelConfig:
    return standard_config(config, "phi3", partial_rotary=True, layers=windowed_layers(config))


PHI3 = Family(
    "phi3",
    ("Phi3ForCausalLM",),
    Phi3Config,
    describe,
    WeightNames(
        linears={
            **LINEARS,
            "qkv": ("self_attn.qkv_proj",),
            "gate_up": ("mlp.gate_up_proj",),
        }
    ),
)
