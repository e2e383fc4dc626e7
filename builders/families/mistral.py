"""Mistral (one sliding window for all layers) and Ministral (a kind of attention a layer)."""

from transformers import MinistralConfig, MistralConfig

from builders.families.base import Family, ModelConfig
from builders.families.reading import standard_config, typed_layers, windowed_layers


def describe_mistral(config: MistralConfig) -> ModelConfig:
    return standard_config(config, "mistral", layers=windowed_layers(config))


def describe_ministral(config: MinistralConfig) -> ModelConfig:
    return standard_config(config, "ministral", layers=typed_layers(config))


MISTRAL = Family("mistral", ("MistralForCausalLM",), MistralConfig, describe_mistral)
MINISTRAL = Family("ministral", ("MinistralForCausalLM",), MinistralConfig, describe_ministral)
