"""Heads and columns over ranks: nothing lost, nothing twice unless meant, equal shapes."""

import dataclasses
from collections import Counter

import pytest

from builders.families.base import LayerSpec, ModelConfig, Rope
from builders.tensorrt_llm.sharding import shard
from river_trt.errors import RiverError


def config(heads=8, kv_heads=8, head_dim=64, intermediate=1536, vocab=1000) -> ModelConfig:
    return ModelConfig(
        family="llama",
        hidden_size=heads * head_dim,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocab,
        norm_eps=1e-5,
        tie_embeddings=False,
        max_position_embeddings=128,
        eos_token_ids=(),
        bos_token_id=None,
        layers=(LayerSpec(),),
        ropes=(Rope((1.0,) * (head_dim // 2)),),
        attention_scale=head_dim**-0.5,
    )


def members(shards) -> list[int]:
    return [index for part in shards for index in range(part.start, part.stop)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks"),
    [
        (8, 8, 1),
        (8, 8, 8),
        (32, 8, 4),
        (9, 3, 2),
        (9, 3, 3),
        (14, 2, 8),
        (14, 2, 4),
        (16, 1, 8),
        (9, 3, 6),
    ],
)
def test_every_head_is_on_one_rank_beside_its_key_and_value(heads, kv_heads, ranks):
    sharding = shard(config(heads, kv_heads), ranks, 64)
    assert members(sharding.heads) == list(range(heads))
    copies = Counter(members(sharding.kv_heads))
    assert set(copies) == set(range(kv_heads))
    assert set(copies.values()) == {max(1, ranks // kv_heads)}
    group = heads // kv_heads
    assert len({part.length for part in sharding.heads}) == 1
    assert len({part.length for part in sharding.kv_heads}) == 1
    assert sharding.heads[0].length % sharding.kv_heads[0].length == 0
    for queries, kv in zip(sharding.heads, sharding.kv_heads, strict=True):
        local = queries.length // kv.length
        for place, head in enumerate(range(queries.start, queries.stop)):
            assert kv.start + place // local == head // group, "a query beside another's key"


@pytest.mark.parametrize(
    ("intermediate", "ranks", "group"), [(1536, 2, 64), (96, 2, 32), (11008, 8, 64)]
)
def test_mlp_columns_begin_at_groups(intermediate, ranks, group):
    shards = shard(config(intermediate=intermediate), ranks, group).intermediate
    assert members(shards) == list(range(intermediate))
    assert all(part.start % group == 0 and part.length % group == 0 for part in shards)


def test_the_vocabulary_is_padded_to_equal_parts():
    shards = shard(config(vocab=1001), 8, 64).vocab
    assert members(shards) == list(range(1001)) and {part.length for part in shards} == {126}


@pytest.mark.parametrize(
    ("model", "ranks", "group", "message"),
    [
        (config(), 0, 64, "tensor parallelism must be in 1..8, got 0"),
        (config(), 9, 64, "tensor parallelism must be in 1..8, got 9"),
        (config(9, 3), 4, 64, "4 ranks cannot share 3 key/value heads; give one of 1, 2, 3, 6"),
        (config(9, 3), 8, 64, "8 ranks cannot share 3 key/value heads; give one of 1, 2, 3, 6"),
        (config(2, 2, 32), 2, 64, "a part of o begins at column 32, inside a group of 64 weights"),
        (config(2, 1, 64), 8, 64, "8 ranks cannot share 2 attention heads"),
        (
            config(intermediate=96),
            4,
            64,
            "4 ranks cannot share an MLP of 96 columns in groups",
        ),
    ],
)
def test_what_cannot_be_spread_is_one_sentence(model, ranks, group, message):
    with pytest.raises(RiverError, match=message):
        shard(model, ranks, group)


def test_one_rank_pads_nothing():
    odd = dataclasses.replace(config(), intermediate_size=100)
    shards = shard(odd, 1, 64).intermediate
    assert (shards[0].start, shards[0].stop, shards[0].length) == (0, 100, 100)
