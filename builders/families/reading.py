"""Reads what Hugging Face configs of all families call alike."""

from typing import Any

from transformers import PreTrainedConfig

from builders.families.base import LayerSpec, ModelConfig
from builders.families.rope import fixed_rope_positions, read_rope
from river_trt.errors import CheckpointError

# Other names that transformers has for an activation.
SAME_ACTIVATIONS = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}


def head_dim_of(config: PreTrainedConfig) -> int:
    stated: int | None = getattr(config, "head_dim", None)
    return stated or config.hidden_size // config.num_attention_heads


def standard_config(
    config: PreTrainedConfig, family: str, partial_rotary: bool = False, **differences: Any
) -> ModelConfig:
    """A Llama-like model: gated MLP, two RMSNorms a layer, RoPE; `differences` replace fields.

    partial_rotary: the family has rotary embeddings over a part of each head.
    """
    head_dim = head_dim_of(config)
    if "ropes" not in differences:
        rope = read_rope(config, head_dim)
        if 2 * len(rope.inv_freq) != head_dim and not partial_rotary:
            raise CheckpointError(
                f"rotary embeddings over a part of each head are not supported in {family}"
            )
        differences["ropes"] = (rope,)
        differences["fixed_rope_positions"] = fixed_rope_positions(config)
    if "activation" not in differences:
        act = config.hidden_act
        differences["activation"] = SAME_ACTIVATIONS.get(act, act)
    eos = config.eos_token_id
    fields: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads or config.num_attention_heads,
        "head_dim": head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "norm_eps": config.rms_norm_eps,
        "tie_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "eos_token_ids": () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        "bos_token_id": config.bos_token_id,
        "layers": (LayerSpec(),) * config.num_hidden_layers,
        "attention_scale": head_dim**-0.5,
    }
    return ModelConfig(family=family, **(fields | differences))


def windowed_layers(config: PreTrainedConfig) -> tuple[LayerSpec, ...]:
    """Layers that all have the config's sliding window, if it has one."""
    num_layers: int = config.num_hidden_layers
    return (LayerSpec(window=config.sliding_window),) * num_layers


def typed_layers(config: PreTrainedConfig) -> tuple[LayerSpec, ...]:
    """Layers as `layer_types` lists them: full attention, or the config's sliding window."""
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    for kind in config.layer_types:
        if kind not in windows:
            raise CheckpointError(
                f"attention of type {kind!r} is not supported; supported: {', '.join(windows)}"
            )
        if kind == "sliding_attention" and config.sliding_window is None:
            raise CheckpointError("config.json has sliding_attention layers but no sliding_window")
    if len(config.layer_types) != config.num_hidden_layers:
        raise CheckpointError(
            f"config.json has {len(config.layer_types)} layer_types for "
            f"{config.num_hidden_layers} layers"
        )
    return tuple(LayerSpec(window=windows[kind]) for kind in config.layer_types)
