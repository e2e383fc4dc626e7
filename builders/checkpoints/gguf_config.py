"""GGUF metadata under the names of a Hugging Face config.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import ReaderField, ReaderTensor

from builders.checkpoints.text_files import eos_union
from river_trt.errors import CheckpointError

# Per-frequency RoPE divisors: how llama.cpp stores Llama 3's scaling, and LongRoPE's two.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
# The families whose tensors and metadata map one to one, up to MODULES of gguf_file.py.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "phi3": ("Phi3ForCausalLM", "phi3"),
}
# llama.cpp has Mistral in its llama, by its window.
WINDOWED = {"llama": ("MistralForCausalLM", "mistral")}
TAKES_WINDOW = ("llama", "gemma3", "phi3")
# Gemma 3's scale of q . k is by head_dim, but in its largest model by hidden size over heads.
GEMMA3_27B_LAYERS = 62


def read_config(
    fields: Mapping[str, ReaderField], tensors: list[ReaderTensor], tied: bool
) -> dict[str, Any]:
    """The config.json; CheckpointError for an architecture that is not supported."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    def field(key: str, default: Any = None) -> Any:
        return fields[key].contents() if key in fields else default

    architecture = field("general.architecture", "unnamed")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"GGUF files of architecture {architecture} are not supported; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    window = field(f"{architecture}.attention.sliding_window")
    if window and architecture not in TAKES_WINDOW:
        raise CheckpointError(
            f"GGUF files of {architecture} with a sliding window are not supported"
        )
    named, model_type = ARCHITECTURES[architecture]
    if window and architecture in WINDOWED:
        named, model_type = WINDOWED[architecture]
    config: dict[str, Any] = {
        "architectures": [named],
        "model_type": model_type,
        "tie_word_embeddings": tied,
    }
    mapping: Any = GGUF_CONFIG_MAPPING
    for gguf_key, name in mapping.get(architecture, {}).items():
        value = field(f"{architecture}.{gguf_key}")
        if name is not None and value is not None:
            config[name] = value
    if (head_dim := field(f"{architecture}.attention.key_length")) is not None:
        config["head_dim"] = head_dim
    if "vocab_size" not in config:
        config["vocab_size"] = len(field("tokenizer.ggml.tokens", ()))
    if window:
        config["sliding_window"] = window
    config["bos_token_id"] = field("tokenizer.ggml.bos_token_id")
    ends = [field(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    union = eos_union(*ends)
    config["eos_token_id"] = union if len(union) > 1 else ends[0]
    config["rope_scaling"] = _rope_scaling(field, tensors, architecture)
    if architecture == "gemma3":
        config |= _gemma3(config)
    if architecture == "phi3":
        config |= _phi3(config, field)
    return config


def _gemma3(config: dict[str, Any]) -> dict[str, Any]:
    scalar = config["head_dim"]
    if config["num_hidden_layers"] == GEMMA3_27B_LAYERS:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    return {"query_pre_attn_scalar": scalar}


def _phi3(config: dict[str, Any], field: Any) -> dict[str, Any]:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    rotated = field("phi3.rope.dimension_count", head_dim)
    original = field("phi3.rope.scaling.original_context_length")
    return {
        "partial_rotary_factor": rotated / head_dim,
        "pad_token_id": None,  # Phi3Config's own default is beyond a small vocabulary
        **({} if original is None else {"original_max_position_embeddings": original}),
    }


def _rope_scaling(
    field: Any, tensors: list[ReaderTensor], architecture: str
) -> dict[str, Any] | None:
    found = {tensor.name: tensor.data for tensor in tensors if tensor.name in ROPE_FACTORS}
    lists = {name: np.asarray(data, np.float32).tolist() for name, data in found.items()}
    same, short, long = (lists.get(name) for name in ROPE_FACTORS)
    if same is not None:  # longrope with one list of factors divides each frequency by its own
        return {
            "rope_type": "longrope",
            "short_factor": same,
            "long_factor": same,
            "attention_factor": 1.0,
        }
    prefix = f"{architecture}.rope.scaling."
    if short is not None and long is not None:
        scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
        if (factor := field(prefix + "attn_factor")) is not None:
            scaling["attention_factor"] = factor
        return scaling
    kind = field(prefix + "type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": field(prefix + "factor")}
    if (original := field(prefix + "original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling
