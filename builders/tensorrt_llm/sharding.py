"""Which heads and MLP columns of a layer each tensor-parallel rank holds.

9 heads in 3 groups of a key/value head each, 2 ranks:     3 key/value heads, 6 ranks:

rank 0  | q0 q1 q2 | q3 q4 q5 |  k0 k1                      rank 0  q0 q1  k0
rank 1  | q6 q7 q8 | .  .  .  |  k2 .                       rank 1  q2 .   k0   (k0 is held twice)

A dot is padding: a head of zeros, whose attention meets zero columns of o and adds nothing. So
every rank runs the same shapes, as TensorRT-LLM asks, and the sum over the ranks is exact.
"""

from dataclasses import dataclass

from builders.families.base import ModelConfig
from river_trt.errors import RiverError

MAX_RANKS = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """Entries start..stop of an axis, padded to `length`."""

    start: int
    stop: int
    length: int

    def times(self, unit: int) -> "Shard":
        """The shard of an axis on which every entry is `unit` wide."""
        return Shard(self.start * unit, self.stop * unit, self.length * unit)


@dataclass(frozen=True, slots=True)
class Sharding:
    """Shards of every rank; all ranks have equal lengths."""

    heads: tuple[Shard, ...]
    kv_heads: tuple[Shard, ...]
    intermediate: tuple[Shard, ...]
    vocab: tuple[Shard, ...]  # rows of the LM head

    @property
    def ranks(self) -> int:
        return len(self.heads)


def shard(config: ModelConfig, ranks: int, group_size: int) -> Sharding:
    """Spread a model over `ranks` GPUs.

    Raises RiverError where a rank would hold padding only, or where its part of o's input would
    begin inside a group of the river.
    """
    if not 1 <= ranks <= MAX_RANKS:
        raise RiverError(f"tensor parallelism must be in 1..{MAX_RANKS}, got {ranks}")
    sharding = Sharding(
        heads=_heads(config, ranks),
        kv_heads=_kv_heads(config, ranks),
        intermediate=_intermediate(config, ranks, group_size),
        vocab=_even(config.vocab_size, ranks, -(-config.vocab_size // ranks)),
    )
    for shard in sharding.heads:
        if shard.start * config.head_dim % group_size:
            raise RiverError(
                f"with {ranks} ranks a part of o begins at column "
                f"{shard.start * config.head_dim}, inside a group of {group_size} weights; give a "
                "smaller --group-size or fewer ranks"
            )
    return sharding


def _kv_heads(config: ModelConfig, ranks: int) -> tuple[Shard, ...]:
    total = config.num_kv_heads
    if ranks > total and ranks % total == 0:  # each key/value head on several ranks
        owners = [rank * total // ranks for rank in range(ranks)]
        return tuple(Shard(owner, owner + 1, 1) for owner in owners)
    shards = _even(total, ranks, -(-total // ranks))
    if shards[-1].start == shards[-1].stop:
        fits = [
            number
            for number in range(1, MAX_RANKS + 1)
            if number % total == 0 or (number - 1) * -(-total // number) < total
        ]
        raise RiverError(
            f"{ranks} ranks cannot share {total} key/value heads; give one of "
            f"{', '.join(map(str, fits))}"
        )
    return shards


def _heads(config: ModelConfig, ranks: int) -> tuple[Shard, ...]:
    """Queries go where their key/value head is."""
    group = config.num_heads // config.num_kv_heads
    kv_shards = _kv_heads(config, ranks)
    copies = ranks // config.num_kv_heads
    if ranks <= config.num_kv_heads or copies <= 1:
        return tuple(shard.times(group) for shard in kv_shards)
    parts = _even(group, copies, -(-group // copies))
    if parts[-1].start == parts[-1].stop:
        raise RiverError(f"{ranks} ranks cannot share {config.num_heads} attention heads")
    shards = []
    for rank, kv_span in enumerate(kv_shards):
        part, first = parts[rank % copies], kv_span.start * group
        shards.append(Shard(first + part.start, first + part.stop, part.length))
    return tuple(shards)


def _intermediate(config: ModelConfig, ranks: int, group_size: int) -> tuple[Shard, ...]:
    total = config.intermediate_size
    if ranks == 1:
        return (Shard(0, total, total),)
    groups = -(-total // group_size)
    shards = _even(total, ranks, -(-groups // ranks) * group_size)
    if shards[-1].start == shards[-1].stop:
        raise RiverError(
            f"{ranks} ranks cannot share an MLP of {total} columns in groups of {group_size}"
        )
    return shards


def _even(total: int, ranks: int, length: int) -> tuple[Shard, ...]:
    starts = [min(rank * length, total) for rank in range(ranks)]
    return tuple(Shard(start, min(start + length, total), length) for start in starts)
