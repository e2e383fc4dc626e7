"""gpt_attention over packed requests: contexts first, then one token a generation request."""

from typing import Any

import tensorrt_rtx as trt
import torch

from builders.dialect import rotate

# Tensors without which the plugin cannot be added to a network with a paged cache.
NEEDED = (
    "sequence_length",
    "host_past_key_value_lengths",
    "host_max_attention_window_sizes",
    "host_sink_token_length",
    "context_lengths",
    "cache_indirection",
    "host_request_types",
    "kv_cache_block_offsets",
    "host_kv_cache_block_offsets",
    "host_kv_cache_pool_pointers",
    "host_kv_cache_pool_mapping",
    "host_context_lengths",
    "host_runtime_perf_knobs",
)


def check_attention(call: dict[str, Any]) -> None:
    """What the plugin and its Python function assert."""
    for name in NEEDED:
        assert call[name] is not None, f"gpt_attention got no {name}"
    heads, kv_heads, size = (
        call[name] for name in ("num_heads", "num_kv_heads", "hidden_size_per_head")
    )
    assert heads % kv_heads == 0
    assert call["num_kv_heads_origin"] == kv_heads * call["tp_size"]
    qkv = call["qkv"]
    assert qkv.rank() == 2 and qkv.shape[1] == (heads + 2 * kv_heads) * size, qkv.shape
    assert qkv.dtype in (trt.float16, trt.bfloat16)
    assert isinstance(call["max_context_length"], int) and call["use_cache"]
    rotary, dim = (
        call["position_embedding_type"].name == "rope_gpt_neox",
        call["rotary_embedding_dim"],
    )
    assert rotary == (dim > 0) == (call["rotary_inv_freq"] is not None)
    if rotary:
        positions = call["rotary_embedding_max_positions"]
        assert call["rotary_inv_freq"].shape == (dim // 2,)
        assert call["rotary_cos_sin"].shape == (1, positions * dim)
        for name in ("rotary_inv_freq", "rotary_cos_sin"):
            assert call[name].dtype == trt.float32


def attend(caches: dict[int, Any], call: dict[str, Any]) -> torch.Tensor:
    """[tokens, heads * head_size]; appends K and V of these tokens to slot layer_idx."""
    heads, kv_heads, size = (
        call[name] for name in ("num_heads", "num_kv_heads", "hidden_size_per_head")
    )
    qkv = call["qkv"].value
    layer = call["layer_idx"]
    slot = caches.setdefault(layer, {"step": None, "rows": {}})
    step = call["host_request_types"].value  # one tensor a step
    assert slot["step"] is not step, f"two attentions on layer_idx {layer} in one step"
    slot["step"] = step
    scale = 1.0 / (call["q_scaling"] * size**0.5)
    window = int(call["host_max_attention_window_sizes"].value[layer])
    outputs, first = [], 0
    types = call["host_request_types"].value.tolist()
    for sequence, is_generation in enumerate(types):
        past = int(call["host_past_key_value_lengths"].value[sequence])
        count = 1 if is_generation else int(call["host_context_lengths"].value[sequence])
        if not is_generation:  # there it counts this chunk too
            past -= count
        rows = qkv[first : first + count].view(count, -1, size).transpose(0, 1)  # [heads, count, D]
        first += count
        q, k, v = rows.split((heads, kv_heads, kv_heads))
        positions = torch.arange(past, past + count)
        if call["rotary_cos_sin"] is not None:
            q, k = (_rotated(part, positions, call) for part in (q, k))
        # Which request it is: the double numbers them by their place in cache_indirection.
        key = int(call["cache_indirection"].value[sequence, 0, 0])
        if past:
            old_k, old_v = slot["rows"][key]
            assert old_k.shape[1] == past, "a token's K is missing from its slot"
            k, v = torch.cat([old_k, k], 1), torch.cat([old_v, v], 1)
        slot["rows"][key] = (k, v)
        slots, now = torch.arange(past + count), positions[:, None]
        visible = (slots <= now) & (slots > now - window)
        shared = heads // kv_heads
        scores = q @ k.repeat_interleave(shared, 0).transpose(-1, -2) * scale
        if cap := call["attn_logit_softcapping_scale"]:
            scores = cap * torch.tanh(scores / cap)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        outputs.append((weights @ v.repeat_interleave(shared, 0)).transpose(0, 1).flatten(1))
    assert first == len(qkv)
    return torch.cat(outputs)


def _rotated(x: torch.Tensor, positions: torch.Tensor, call: dict[str, Any]) -> torch.Tensor:
    dim = call["rotary_embedding_dim"]
    table = call["rotary_cos_sin"].value.view(-1, dim // 2, 2)[positions]
    return rotate(x, table[..., 0], table[..., 1])
