"""What a model family states: how its config reads, and what its weights are called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from river_trt.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's sizes and constants under this project's names, checked once."""

    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    tie_embeddings: bool
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    inv_freq: tuple[float, ...]  # [head_dim / 2], scaling included; float32 values
    rope_scaling_factor: float = 1.0  # multiplies cos and sin
    activation: str = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        for size in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self, size) < 1:
                raise CheckpointError(f"config.json: {size} must be positive")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json: {self.num_heads} attention heads cannot share "
                f"{self.num_kv_heads} key/value heads evenly"
            )
        if self.activation != "silu":
            raise CheckpointError(f"activation {self.activation!r} is not supported, only silu")
        if len(self.inv_freq) * 2 != self.head_dim:
            raise CheckpointError("rotary embeddings over a part of each head are not supported")

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """[out, in] of a layer's four linears."""
        q_size = self.num_heads * self.head_dim
        return {
            "qkv": (q_size + 2 * self.num_kv_heads * self.head_dim, self.hidden_size),
            "o": (self.hidden_size, q_size),
            "gate_up": (2 * self.intermediate_size, self.hidden_size),
            "down": (self.hidden_size, self.intermediate_size),
        }

    @property
    def biased_linears(self) -> frozenset[str]:
        """The linears of a layer that have a bias."""
        biased = {"qkv": self.qkv_bias, "o": self.o_bias}
        biased |= {"gate_up": self.mlp_bias, "down": self.mlp_bias}
        return frozenset(linear for linear, has_bias in biased.items() if has_bias)


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Hugging Face module names. A linear read from several modules is stacked in that order."""

    linears: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "o": ("self_attn.o_proj",),
            "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
            "down": ("mlp.down_proj",),
        }
    )
    norms: Mapping[str, str] = field(
        default_factory=lambda: {
            "input_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
        }
    )
    layer: str = "model.layers.{layer}"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    lm_head: str = "lm_head"


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    architectures: tuple[str, ...]  # values of `architectures` in config.json
    read_config: Callable[[dict[str, Any]], ModelConfig]
    weights: WeightNames = WeightNames()
