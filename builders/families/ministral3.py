"""Ministral 3: Mistral with YaRN, and queries that grow with their position as in Llama 4."""

from transformers import Ministral3Config

from builders.families.base import Family, ModelConfig, QueryScaling
from builders.families.reading import standard_config, windowed_layers
from river_trt.errors import CheckpointError


def describe(config: Ministral3Config) -> ModelConfig:
    rope = config.rope_parameters
    for key in ("llama_4_scaling_beta", "original_max_position_embeddings"):
        if rope.get(key) is None:
            raise CheckpointError(f"config.json: rope_parameters of Ministral 3 lack {key}")
    scaling = QueryScaling(
        float(rope["llama_4_scaling_beta"]), int(rope["original_max_position_embeddings"])
    )
    return standard_config(
        config, "ministral3", layers=windowed_layers(config), query_scaling=scaling
    )


MINISTRAL3 = Family("ministral3", ("Ministral3ForCausalLM",), Ministral3Config, describe)
