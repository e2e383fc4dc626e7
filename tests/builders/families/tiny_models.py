"""One tiny random model a family, each with all that its family has, and what must matter in it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from builders.families import ModelConfig

LAYERS, WINDOW = 3, 6  # texts are several windows long
Change = Callable[[ModelConfig], dict[str, Any]]  # fields of a config that differs in one thing

SIZES: dict[str, Any] = {
    "vocab_size": 112,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large enough for similarities to spread over (-1, 1)
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SLIDING, FULL = "sliding_attention", "full_attention"
ALTERNATING = [SLIDING, FULL, SLIDING]
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "llama_4_scaling_beta": 0.5,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.8, 2.2, 3.0],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0],
}


def _layers(**changes: Any) -> Change:
    return lambda config: {
        "layers": tuple(dataclasses.replace(layer, **changes) for layer in config.layers)
    }


def _with(**changes: Any) -> Change:
    return lambda config: changes


def _factor_of_one(config: ModelConfig) -> dict[str, Any]:
    return {"ropes": tuple(dataclasses.replace(rope, factor=1.0) for rope in config.ropes)}


def _rotary_over_whole_heads(config: ModelConfig) -> dict[str, Any]:
    (rope,) = config.ropes
    return {"ropes": (dataclasses.replace(rope, inv_freq=rope.inv_freq * 2),)}


NO_WINDOW = {"window": _layers(window=None), "width of the window": _layers(window=WINDOW + 1)}


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model class, its config, and changes to the config that must change the logits."""

    architecture: str
    config: dict[str, Any]
    features: dict[str, Change]
    quantiser: str = "awq"


TINY_MODELS: dict[str, TinyModel] = {
    "llama": TinyModel(
        "LlamaForCausalLM",
        {"attention_bias": True, "mlp_bias": True},
        {"biases": _with(qkv_bias=False), "MLP biases": _with(mlp_bias=False)},
    ),
    "mistral": TinyModel(
        "MistralForCausalLM", {"sliding_window": WINDOW}, NO_WINDOW, quantiser="rtn"
    ),
    "ministral": TinyModel(
        "MinistralForCausalLM",
        {"sliding_window": WINDOW, "layer_types": ALTERNATING, "head_dim": 32},
        NO_WINDOW | {"full layers": _layers(window=WINDOW)},
    ),
    "ministral3": TinyModel(
        "Ministral3ForCausalLM",
        {"rope_parameters": YARN, "head_dim": 16, "sliding_window": 2 * WINDOW},
        {
            "growing queries": _with(query_scaling=None),
            "window": _layers(window=None),
            "factor of the angles": _factor_of_one,
        },
    ),
    "qwen2": TinyModel(
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        NO_WINDOW | {"biases": _with(qkv_bias=False), "full layer": _layers(window=WINDOW)},
        quantiser="hqq",
    ),
    "qwen3": TinyModel(
        "Qwen3ForCausalLM",
        {
            "head_dim": 32,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ALTERNATING,
        },
        NO_WINDOW | {"q and k norms": _with(qk_norms=False), "bias of o": _with(o_bias=False)},
    ),
    "phi3": TinyModel("Phi3ForCausalLM", {"sliding_window": WINDOW}, NO_WINDOW),
    "phi4-mini": TinyModel(
        "Phi3ForCausalLM",
        {
            "hidden_size": 128,
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
        {
            "partial rotary": _rotary_over_whole_heads,
            "factor of the angles": _factor_of_one,
        },
    ),
    "smollm3": TinyModel(
        "SmolLM3ForCausalLM",
        {
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "attention_bias": True,
            "mlp_bias": True,
        },
        NO_WINDOW | {"layer without rotary": _layers(rope=0)},
    ),
    "gemma2": TinyModel(
        "Gemma2ForCausalLM",
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 4.0,
        },
        NO_WINDOW
        | {
            "soft cap of scores": _with(attention_softcap=None),
            "soft cap of logits": _with(final_softcap=None),
            "sandwich norms": _with(sandwich_norms=False),
            "embedding scale": _with(embedding_scale=1.0),
            "attention scale": _with(attention_scale=16**-0.5),
            "activation": _with(activation="silu"),
        },
    ),
    "gemma3": TinyModel(
        "Gemma3ForCausalLM",
        {
            "head_dim": 32,
            "sliding_window": WINDOW,
            "layer_types": ALTERNATING,
            "query_pre_attn_scalar": 24,
            "attention_bias": True,
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                SLIDING: {"rope_type": "default", "rope_theta": 1000.0},
            },
        },
        NO_WINDOW
        | {
            "global rotary": _layers(rope=1),
            "local rotary": _layers(rope=0),
            "q and k norms": _with(qk_norms=False),
            "sandwich norms": _with(sandwich_norms=False),
        },
    ),
}


def save_tiny_model(directory: Path, tiny: TinyModel) -> PreTrainedModel:
    """Save a model with random weights, norms and biases too, and return it."""
    torch.manual_seed(0)
    model_class = getattr(transformers, tiny.architecture)
    model: PreTrainedModel = model_class(model_class.config_class(**(SIZES | tiny.config)))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
        if name.endswith(".bias"):
            parameter.data += torch.randn_like(parameter)
    model.save_pretrained(directory)
    return model.eval()
