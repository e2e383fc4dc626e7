"""Attention of a packed batch: qkv of the chosen bank, one gpt_attention on the layer's slot, o.

x -- qkv(bank) --+-------------------------------------+-- gpt_attention(layer_idx) -- o(bank)
                 +-- split, norm q and k, scale q, concat --+   (families that have them)
"""

from dataclasses import dataclass

import numpy as np
from tensorrt_llm.functional import (
    AttentionMaskType,
    PositionEmbeddingType,
    Tensor,
    concat,
    constant,
    embedding,
    gpt_attention,
    shape,
    split,
    squeeze,
    unsqueeze,
)
from tensorrt_llm.layers import AttentionParams, KeyValueCacheParams, RmsNorm
from tensorrt_llm.module import Module

from builders.tensorrt_llm.config import RiverConfig
from builders.tensorrt_llm.layers import RiverLinear


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """One kind of layer's angles as gpt_attention reads them: constants that its layers share."""

    dim: int  # R, the values of a head that are rotated
    inv_freq: Tensor  # [R / 2] float32
    cos_sin: Tensor  # [1, positions * R] float32: pairs of cos and sin


def make_rotary(inv_freq: tuple[float, ...], positions: int) -> Rotary:
    """RoPE scaling of every kind is in the frequencies already."""
    frequencies = np.array(inv_freq, np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    pairs = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # [positions, R / 2, 2]
    table = pairs.astype(np.float32).reshape(1, -1)
    return Rotary(2 * len(inv_freq), constant(frequencies), constant(table))


class RiverAttention(Module):
    """Self-attention of one layer on one rank; it has padding heads where they do not divide."""

    def __init__(self, config: RiverConfig, layer: int) -> None:
        super().__init__()
        river, ranks = config.river, config.mapping.tp_size
        self.layer, self.head_size = layer, config.head_size
        self.num_heads = config.num_attention_heads // ranks
        self.num_kv_heads = config.num_key_value_heads // ranks
        self.all_kv_heads = config.num_key_value_heads
        self.tp_size, self.tp_rank = ranks, config.mapping.tp_rank
        q_size, kv_size = (n * config.head_size for n in (self.num_heads, self.num_kv_heads))
        self.sizes = [q_size, kv_size, kv_size]
        self.qkv = RiverLinear(config, layer, "qkv", config.hidden_size, q_size + 2 * kv_size)
        self.dense = RiverLinear(config, layer, "o", q_size, config.hidden_size)
        self.qk_norms = river.qk_norms
        if river.qk_norms:
            for name in ("q_layernorm", "k_layernorm"):
                norm = RmsNorm(
                    normalized_shape=config.head_size, eps=config.norm_epsilon, dtype=config.dtype
                )
                setattr(self, name, norm)
        # gpt_attention multiplies scores by 1 / (q_scaling sqrt(head_size)).
        self.q_scaling = 1.0 / (river.attention_scale * config.head_size**0.5)
        self.softcap = river.attention_softcap or 0.0
        self.positions = config.max_position_embeddings

    def forward(
        self,
        x: Tensor,  # [1, tokens, hidden]
        use_river: Tensor | None,
        input_norm: RmsNorm,
        rotary: Rotary | None,
        query_scale: Tensor | None,  # [tokens, 1]
        kv_cache_params: KeyValueCacheParams,
        attention_params: AttentionParams,
        residual: Tensor | None,
    ) -> Tensor:
        qkv = squeeze(self.qkv(x, use_river, norm=input_norm), 0)  # [tokens, q + k + v]
        if self.qk_norms or query_scale is not None:
            q, k, v = split(qkv, self.sizes, dim=1)
            if self.qk_norms:
                q = self._norm_heads(q, self.q_layernorm, self.num_heads)
                k = self._norm_heads(k, self.k_layernorm, self.num_kv_heads)
            if query_scale is not None:
                q = q * query_scale
            qkv = concat([q, k, v], dim=1)
        attended = self._attend(qkv, rotary, kv_cache_params, attention_params)
        return self.dense(unsqueeze(attended, 0), use_river, residual=residual)

    def _norm_heads(self, x: Tensor, norm: RmsNorm, heads: int) -> Tensor:
        """Norm each head of x [tokens, heads * head_size]."""
        tokens = shape(x, 0)
        normed = norm(x.view(concat([tokens, heads, self.head_size])))
        return normed.view(concat([tokens, heads * self.head_size]))

    def _attend(
        self,
        qkv: Tensor,  # [tokens, q + k + v]
        rotary: Rotary | None,
        cache: KeyValueCacheParams,
        params: AttentionParams,
    ) -> Tensor:
        """[tokens, heads * head_size]; writes the layer's K and V into its cache slot."""
        kind = PositionEmbeddingType
        out, _ = gpt_attention(
            qkv=qkv,
            past_key_value=None,
            sequence_length=params.sequence_length,
            host_past_key_value_lengths=cache.host_past_key_value_lengths,
            host_max_attention_window_sizes=cache.host_max_attention_window_sizes,
            host_sink_token_length=cache.host_sink_token_length,
            context_lengths=params.context_lengths,
            cache_indirection=cache.cache_indirection,
            host_request_types=params.host_request_types,
            layer_idx=self.layer,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            num_kv_heads_origin=self.all_kv_heads,
            hidden_size_per_head=self.head_size,
            q_scaling=self.q_scaling,
            attn_logit_softcapping_scale=self.softcap,
            rotary_embedding_dim=rotary.dim if rotary else 0,
            rotary_embedding_max_positions=self.positions,
            position_embedding_type=kind.rope_gpt_neox if rotary else kind.learned_absolute,
            rotary_inv_freq=rotary.inv_freq if rotary else None,
            rotary_cos_sin=rotary.cos_sin if rotary else None,
            max_context_length=params.max_context_length,
            mask_type=AttentionMaskType.causal,
            tp_size=self.tp_size,
            tp_rank=self.tp_rank,
            kv_cache_block_offsets=cache.kv_cache_block_offsets,
            host_kv_cache_block_offsets=cache.host_kv_cache_block_offsets,
            host_kv_cache_pool_pointers=cache.host_kv_cache_pool_pointers,
            host_kv_cache_pool_mapping=cache.host_kv_cache_pool_mapping,
            host_context_lengths=params.host_context_lengths,
            use_cache=True,
            host_runtime_perf_knobs=params.host_runtime_perf_knobs,
            host_context_progress=params.host_context_progress,
        )
        return out


def query_scale(config: RiverConfig, position_ids: Tensor) -> Tensor | None:
    """What the queries are multiplied by, [tokens, 1]; None if by 1 at every position."""
    beta, period = config.river.query_beta, config.river.query_period
    if beta == 0.0 or config.max_position_embeddings <= period:
        return None
    positions = np.arange(config.max_position_embeddings, dtype=np.float32)
    table = 1 + np.float32(beta) * np.log1p(np.floor(positions / period))
    scale = embedding(position_ids, constant(table[:, None].astype(np.float32)))
    return scale.cast(config.dtype)
