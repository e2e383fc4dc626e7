"""Llama and what copies it (SmolLM2, TinyLlama, ...): GQA, gated SiLU MLP, RMSNorm, RoPE."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from builders.families.base import Family, ModelConfig
from builders.families.rope import read_rope
from river_trt.errors import CheckpointError

# What transformers raises on a config.json with a wrong value, a missing key or an unknown dtype.
UNREADABLE = (
    StrictDataclassError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ZeroDivisionError,
)


def read_config(hf: dict[str, Any]) -> ModelConfig:
    """The only reader of a Llama's config.json; old files (rope_theta, rope_scaling) read too."""
    try:
        config = LlamaConfig.from_dict(hf)
        inv_freq, rope_scaling_factor = read_rope(config)
    except CheckpointError:
        raise
    except UNREADABLE as error:
        cause = " ".join(str(error).split())
        raise CheckpointError(f"config.json is not a valid Llama config: {cause}") from error
    eos = config.eos_token_id
    return ModelConfig(
        family="llama",
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        norm_eps=config.rms_norm_eps,
        tie_embeddings=config.tie_word_embeddings,
        max_position_embeddings=config.max_position_embeddings,
        eos_token_ids=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        bos_token_id=config.bos_token_id,
        inv_freq=inv_freq,
        rope_scaling_factor=rope_scaling_factor,
        activation=config.hidden_act,
        qkv_bias=config.attention_bias,
        o_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
    )


LLAMA = Family(name="llama", architectures=("LlamaForCausalLM",), read_config=read_config)
