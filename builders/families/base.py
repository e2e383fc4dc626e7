"""What a model family states: how its config reads, and what its weights are called.

ModelConfig is the one place that says what a model has. A backend asks it, never the family:
`config.layers[l].window`, `config.attention_softcap`, `config.sandwich_norms`, `config.qk_norms`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from builders.quiet import quietly
from river_trt.errors import CheckpointError
from river_trt.model_shapes import linear_shapes, norm_sizes

ACTIVATIONS = ("silu", "gelu_pytorch_tanh")

# What transformers raises on a config.json with a wrong value, a missing key or an unknown dtype.
UNREADABLE = (
    StrictDataclassError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
)


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary frequencies. Fewer than head_dim / 2: the rest of each head is not rotated."""

    inv_freq: tuple[float, ...]  # [rotary_dim / 2], scaling included; float32 values
    factor: float = 1.0  # multiplies cos and sin


@dataclass(frozen=True, slots=True)
class QueryScaling:
    """Queries grow with their position p: 1 + beta ln(1 + floor(p / period)), as in Llama 4."""

    beta: float
    period: int


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What one layer's attention does."""

    rope: int | None = 0  # index into ModelConfig.ropes; None: no rotary embedding (NoPE)
    window: int | None = None  # tokens that a token sees, itself included; None: all before it


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's sizes and features under this project's names, checked once."""

    family: str
    hidden_size: int
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
    layers: tuple[LayerSpec, ...]
    ropes: tuple[Rope, ...]
    attention_scale: float  # multiplies q . k
    activation: str = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norms: bool = False  # each head's q and k are normed before the rotary embedding
    sandwich_norms: bool = False  # the outputs of attention and MLP are normed too
    embedding_scale: float = 1.0
    attention_softcap: float | None = None  # scores: cap tanh(score / cap)
    final_softcap: float | None = None  # logits, likewise
    query_scaling: QueryScaling | None = None
    # Past this length transformers changes the angles of all tokens (LongRoPE); None: never.
    fixed_rope_positions: int | None = None
    # Its activations leave float16's range: trained in bfloat16, they reach some 10^5 and more.
    needs_bfloat16: bool = False

    def __post_init__(self) -> None:
        for size in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self, size) < 1:
                raise CheckpointError(f"config.json: {size} must be positive")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json: {self.num_heads} attention heads cannot share "
                f"{self.num_kv_heads} key/value heads evenly"
            )
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(
                f"activation {self.activation!r} is not supported, only {' and '.join(ACTIVATIONS)}"
            )
        for layer in self.layers:
            if layer.window is not None and layer.window < 1:
                raise CheckpointError(f"config.json: a sliding window of {layer.window} tokens")
        for rope in self.ropes:
            if not 1 <= len(rope.inv_freq) <= self.head_dim // 2:
                raise CheckpointError(
                    f"config.json: {len(rope.inv_freq)} rotary frequencies do not fit a "
                    f"head_dim of {self.head_dim}"
                )
        for cap in (self.attention_softcap, self.final_softcap):
            if cap is not None and cap <= 0:
                raise CheckpointError(f"config.json: a soft cap must be positive, got {cap}")

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """[out, in] of a layer's four linears."""
        return linear_shapes(self)

    @property
    def biased_linears(self) -> frozenset[str]:
        """The linears of a layer that have a bias."""
        biased = {"qkv": self.qkv_bias, "o": self.o_bias}
        biased |= {"gate_up": self.mlp_bias, "down": self.mlp_bias}
        return frozenset(linear for linear, has_bias in biased.items() if has_bias)

    @property
    def norm_sizes(self) -> dict[str, int]:
        """Width of each of a layer's norms."""
        return norm_sizes(self)


# Hugging Face modules of each linear; one read from several modules is stacked in that order.
LINEARS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
NORMS: Mapping[str, str] = {
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",  # ours is the one before the MLP
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
# With norms on both sides of attention and MLP, Hugging Face names them by place.
SANDWICH_NORMS: Mapping[str, str] = {
    **NORMS,
    "attention_out_norm": "post_attention_layernorm",
    "post_attention_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Hugging Face module names of a checkpoint."""

    linears: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: LINEARS)
    norms: Mapping[str, str] = field(default_factory=lambda: NORMS)
    layer: str = "model.layers.{layer}"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    lm_head: str = "lm_head"
    norm_offset: float = 0.0  # added to every stored norm weight


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    architectures: tuple[str, ...]  # values of `architectures` in config.json
    config_class: type[PreTrainedConfig]
    describe: Callable[[Any], ModelConfig]  # from an instance of config_class
    weights: WeightNames = WeightNames()

    def read_config(self, hf: dict[str, Any]) -> ModelConfig:
        """The ModelConfig of a config.json; CheckpointError, in one sentence, if it has none."""
        try:
            with quietly():  # transformers has advice on how a config should be written
                return self.describe(self.config_class.from_dict(hf))
        except CheckpointError:
            raise
        except UNREADABLE as error:
            cause = " ".join(str(error).split())
            raise CheckpointError(
                f"config.json is not a valid {self.name} config: {cause}"
            ) from error
