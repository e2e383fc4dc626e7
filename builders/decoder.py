"""RiverDecoder: the one definition of the model, and the reference for every backend.

input_ids -> embedding -> [ layer 1 ] -> ... -> [ layer L ] -> final norm -> lm_head -> logits

one layer ("select, then attend"; some families norm the outputs of attention and MLP too):

h --+-- norm -- qkv(bank) -- attention on slot l -- o(bank) --(+)-- norm -- MLP(bank) --(+)-- h'
    |                                                          |                         |
    +----------------------------------------------------------+            gate(h, h') -+- exited
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, rms_norm, silu

from builders import dialect  # noqa: F401 (registers torch.ops.river_trt)
from builders.families.base import LayerSpec, ModelConfig
from builders.position_tables import Rotary, layer_rotary, position_tables, query_scale
from builders.quantisers.base import RiverWeight
from builders.weights import LayerWeights, SharedWeights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
}
# Norms that are not at the top of a layer; every other one's path is its name.
NORM_PATHS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}


@dataclass(frozen=True, slots=True)
class RiverFormat:
    """How the river bank is stored: what shapes its tensors have."""

    group_size: int
    symmetric: bool
    scaled: frozenset[str]  # the linears (qkv, o, gate_up, down) with a pre_scale


# Of layers whose river is not asked for.
BACKBONE_ONLY = RiverFormat(group_size=32, symmetric=True, scaled=frozenset())


class RiverLinear(nn.Module):
    """A linear layer with two banks: backbone [N, K] and 4-bit river."""

    weight: Tensor
    qweight: Tensor
    scales: Tensor
    zero_points: Tensor | None
    pre_scale: Tensor | None
    bias: Tensor | None

    def __init__(self, name: str, config: ModelConfig, river: RiverFormat) -> None:
        """name: qkv, o, gate_up or down."""
        super().__init__()
        n, k = config.linear_shapes[name]
        groups = -(-k // river.group_size)
        zero_points = None if river.symmetric else torch.zeros(n, groups, dtype=torch.uint8)
        self.register_buffer("weight", torch.zeros(n, k))
        self.register_buffer(
            "qweight", torch.zeros(n, groups, river.group_size // 2, dtype=torch.uint8)
        )
        self.register_buffer("scales", torch.zeros(n, groups))
        self.register_buffer("zero_points", zero_points)
        self.register_buffer("pre_scale", torch.zeros(k) if name in river.scaled else None)
        self.register_buffer("bias", torch.zeros(n) if name in config.biased_linears else None)

    def forward(self, x: Tensor, use_river: Tensor) -> Tensor:
        y: Tensor = torch.ops.river_trt.linear(
            x,
            use_river,
            self.weight,
            self.qweight,
            self.scales,
            self.zero_points,
            self.pre_scale,
            self.bias,
        )
        return y

    def assign_river(self, river: RiverWeight) -> None:
        """Take the tensors of the river bank, without a copy."""
        self.qweight, self.scales = river.qweight, river.scales
        self.zero_points, self.pre_scale = river.zero_points, river.pre_scale


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, shared by both banks."""

    weight: Tensor

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Self-attention around one call of the attention operator on the layer's cache slot."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, river: RiverFormat) -> None:
        super().__init__()
        self.qkv_proj = RiverLinear("qkv", config, river)
        self.o_proj = RiverLinear("o", config, river)
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        self.window = spec.window or 0
        self.softcap = config.attention_softcap or 0.0
        self.q_norm = self.k_norm = None
        if config.qk_norms:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        use_river: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        past_lengths: Tensor,
        rotary: Rotary,
        query_scale: Tensor | None,  # [batch, seq, 1]
    ) -> tuple[Tensor, Tensor, Tensor]:
        kv_size = self.num_kv_heads * self.head_dim
        q, k, v = self.qkv_proj(x, use_river).split(
            (self.num_heads * self.head_dim, kv_size, kv_size), dim=-1
        )
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.unflatten(-1, (self.num_heads, -1))).flatten(-2)
            k = self.k_norm(k.unflatten(-1, (self.num_kv_heads, -1))).flatten(-2)
        if query_scale is not None:
            q = q * query_scale
        out, k_cache, v_cache = torch.ops.river_trt.attention(
            q,
            k,
            v,
            k_cache,
            v_cache,
            past_lengths,
            *(rotary or (None, None)),
            self.num_heads,
            self.num_kv_heads,
            self.scale,
            self.window,
            self.softcap,
        )
        return self.o_proj(out, use_river), k_cache, v_cache


class MLP(nn.Module):
    """down(activation(gate(x)) * up(x)), gate and up in one linear."""

    def __init__(self, config: ModelConfig, river: RiverFormat) -> None:
        super().__init__()
        self.gate_up_proj = RiverLinear("gate_up", config, river)
        self.down_proj = RiverLinear("down", config, river)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, use_river: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x, use_river).chunk(2, dim=-1)
        y: Tensor = self.down_proj(self.activation(gate) * up, use_river)
        return y


class DecoderLayer(nn.Module):
    """One block over both banks; `use_river` [batch, seq] names the bank of each token."""

    def __init__(self, config: ModelConfig, spec: LayerSpec, river: RiverFormat) -> None:
        super().__init__()
        self.input_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, spec, river)
        self.post_attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config, river)
        self.attention_out_norm: nn.Module = nn.Identity()
        self.mlp_out_norm: nn.Module = nn.Identity()
        if config.sandwich_norms:
            self.attention_out_norm = RMSNorm(config.hidden_size, config.norm_eps)
            self.mlp_out_norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(
        self,
        h: Tensor,
        use_river: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        past_lengths: Tensor,
        rotary: Rotary,
        query_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        attended, k_cache, v_cache = self.self_attn(
            self.input_norm(h), use_river, k_cache, v_cache, past_lengths, rotary, query_scale
        )
        h = h + self.attention_out_norm(attended)
        mlp_out = self.mlp(self.post_attention_norm(h), use_river)
        return h + self.mlp_out_norm(mlp_out), k_cache, v_cache

    def linears(self) -> dict[str, RiverLinear]:
        """The four linears under their short names."""
        return {
            "qkv": self.self_attn.qkv_proj,
            "o": self.self_attn.o_proj,
            "gate_up": self.mlp.gate_up_proj,
            "down": self.mlp.down_proj,
        }

    def assign(self, weights: LayerWeights, river: dict[str, RiverWeight]) -> None:
        """Take one layer's tensors, without a copy."""
        self.assign_backbone(weights)
        for name, linear in self.linears().items():
            linear.assign_river(river[name])

    def assign_backbone(self, weights: LayerWeights) -> None:
        """Take the norms, the biases and the backbone bank."""
        for name, linear in self.linears().items():
            linear.weight = weights.linears[name]
            linear.bias = weights.biases.get(name)
        for name, norm in weights.norms.items():
            module = self.get_submodule(NORM_PATHS.get(name, name))
            assert isinstance(module, RMSNorm)
            module.weight = norm


class RiverDecoder(nn.Module):
    """A decoder-only model with two banks a layer over one cache (design, section 2)."""

    embedding: Tensor
    lm_head: Tensor

    def __init__(
        self, config: ModelConfig, river: RiverFormat, max_seq_len: int, tied: bool | None = None
    ) -> None:
        """`tied` overrides the config: a traced program always has a head of its own."""
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config, spec, river) for spec in config.layers)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        vocab = torch.zeros(config.vocab_size, config.hidden_size)
        share = config.tie_embeddings if tied is None else tied
        self.register_buffer("embedding", vocab)
        self.register_buffer("lm_head", vocab if share else torch.zeros_like(vocab))
        tables = position_tables(config, max_seq_len)
        for name, table in tables.items():
            self.register_buffer(name, table)
        self.table_names = tuple(tables)

    def assign_shared(self, shared: SharedWeights, lm_head: Tensor | None = None) -> None:
        """Take embedding, final norm and LM head, as float32; `lm_head` replaces the head."""
        self.embedding = shared.embedding.float()
        tied = lm_head is None and shared.lm_head is shared.embedding
        head = shared.lm_head if lm_head is None else lm_head
        self.lm_head = self.embedding if tied else head.float()
        self.norm.weight = shared.final_norm

    def forward(
        self,
        input_ids: Tensor,  # [batch, seq]
        past_lengths: Tensor,  # [batch] int32
        logit_indices: Tensor,  # [num_logits]
        tau: Tensor,  # [L]
        pinned: Tensor,  # [L]
        use_directions: Tensor,  # []
        directions: Tensor,  # [L, hidden]
        gate_scope: Tensor,  # []
        caches: Sequence[Tensor],  # 2 L of [batch, num_kv_heads, T, head_dim]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One step of any number of tokens over a filled cache.

        Returns logits [batch, num_logits, vocab], exit_layer int32 [batch, seq] and the
        updated caches in the order given.
        """
        config = self.config
        h = torch.nn.functional.embedding(input_ids, self.embedding)
        if config.embedding_scale != 1.0:
            h = h * config.embedding_scale
        exited = torch.zeros_like(input_ids, dtype=torch.bool)
        exit_layer = torch.full_like(input_ids, config.num_layers, dtype=torch.int32)
        updated: list[Tensor] = []
        tables = {name: self.get_buffer(name) for name in self.table_names}
        q_scale = query_scale(tables, past_lengths, input_ids)
        for index, (spec, layer) in enumerate(zip(config.layers, self.layers, strict=True)):
            h_in = h
            use_river = exited & ~pinned[index]
            k_cache, v_cache = caches[2 * index], caches[2 * index + 1]
            rotary = layer_rotary(tables, spec)
            h, *written = layer(h_in, use_river, k_cache, v_cache, past_lengths, rotary, q_scale)
            updated += written
            exited, exit_layer = torch.ops.river_trt.gate(
                h_in,
                h,
                directions[index],
                use_directions,
                exited,
                exit_layer,
                tau[index],
                gate_scope,
                index + 1,
            )
        h = self.norm(h.index_select(1, logit_indices))
        logits = torch.nn.functional.linear(h, self.lm_head)
        if config.final_softcap is not None:
            logits = config.final_softcap * torch.tanh(logits / config.final_softcap)
        return logits, exit_layer, updated
