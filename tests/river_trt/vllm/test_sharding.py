"""What tensor-parallel ranks hold: together the whole linear, each from the start of a group."""

import dataclasses

import pytest
import torch

from river_trt.errors import RiverError
from river_trt.river_checkpoint import FORMAT, LayerInfo, RiverCheckpoint, RopeInfo
from river_trt.vllm.sharding import check_ranks, heads_of, shard_linear

CHECKPOINT = RiverCheckpoint(
    format=FORMAT,
    family="llama",
    hidden_size=64,
    num_heads=8,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=256,
    vocab_size=112,
    norm_eps=1e-5,
    norm_offset=0.0,
    tie_embeddings=True,
    activation="silu",
    biased=(),
    qk_norms=False,
    sandwich_norms=False,
    embedding_scale=1.0,
    attention_scale=0.25,
    attention_softcap=None,
    final_softcap=None,
    query_beta=0.0,
    query_period=1,
    ropes=(RopeInfo((1.0,) * 8, 1.0),),
    layers=(LayerInfo(0, None), LayerInfo(0, None)),
    group_size=32,
    symmetric=False,
    scaled=(),
    directed=False,
    tau=(0.97, float("inf")),
    pinned=(2,),
)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_attention_over_the_ranks_is_attention(ranks):
    """Each rank's heads, through its columns of o, add up to what one rank computes."""
    torch.manual_seed(0)
    shapes = CHECKPOINT.linear_shapes
    qkv, o = torch.randn(shapes["qkv"]), torch.randn(shapes["o"])
    x = torch.randn(5, CHECKPOINT.hidden_size)

    def attend(rank: int, total: int) -> torch.Tensor:
        heads, kv_heads = heads_of(CHECKPOINT, total)
        size = CHECKPOINT.head_dim
        rows = shard_linear(CHECKPOINT, "qkv", rank, total).rows
        part = qkv if rows is None else torch.cat([qkv[each] for each in rows])
        q, k, v = (x @ part.T).split([heads * size, kv_heads * size, kv_heads * size], 1)
        q, k, v = (each.unflatten(1, (-1, size)).transpose(0, 1)[None] for each in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        columns = shard_linear(CHECKPOINT, "o", rank, total).columns
        return out[0].transpose(0, 1).flatten(1) @ (o if columns is None else o[:, columns]).T

    found = sum(attend(rank, ranks) for rank in range(ranks))
    torch.testing.assert_close(found, attend(0, 1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_mlp_over_the_ranks_is_the_mlp(ranks):
    torch.manual_seed(0)
    shapes = CHECKPOINT.linear_shapes
    gate_up, down = torch.randn(shapes["gate_up"]), torch.randn(shapes["down"])
    x = torch.randn(5, CHECKPOINT.hidden_size)

    def mlp(rank: int, total: int) -> torch.Tensor:
        rows = shard_linear(CHECKPOINT, "gate_up", rank, total).rows
        part = gate_up if rows is None else torch.cat([gate_up[each] for each in rows])
        gate, up = (x @ part.T).chunk(2, 1)
        columns = shard_linear(CHECKPOINT, "down", rank, total).columns
        return (torch.relu(gate) * up) @ (down if columns is None else down[:, columns]).T

    found = sum(mlp(rank, ranks) for rank in range(ranks))
    torch.testing.assert_close(found, mlp(0, 1), atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "ranks", "sentence"),
    [
        ({}, 3, "cannot share 8 attention heads"),
        ({"num_heads": 12, "num_kv_heads": 3}, 2, "cannot share 3 key/value heads"),
        ({"intermediate_size": 255}, 2, "cannot share an MLP of 255 columns"),
        ({"intermediate_size": 96}, 2, "down is cut inside a group of 32 weights"),
        ({"head_dim": 8}, 4, "o is cut inside a group of 32 weights"),
    ],
)
def test_what_does_not_divide_is_refused_in_a_sentence(change, ranks, sentence):
    checkpoint = dataclasses.replace(CHECKPOINT, **change)
    check_ranks(checkpoint, 1)
    with pytest.raises(RiverError, match=sentence):
        check_ranks(checkpoint, ranks)
