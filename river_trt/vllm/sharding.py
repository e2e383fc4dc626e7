"""Which part of a linear a tensor-parallel rank holds.

qkv, gate_up    rows: its heads, its columns of the MLP
o, down         columns, beginning where a group of the river begins; the ranks are summed
"""

from dataclasses import dataclass

from river_trt.errors import RiverError
from river_trt.river_checkpoint import RiverCheckpoint


@dataclass(frozen=True, slots=True)
class LinearShard:
    """Parts of [out, in]; None: all of it."""

    rows: tuple[slice, ...] | None
    columns: slice | None

    @property
    def is_summed(self) -> bool:
        """Whether the ranks' outputs add up to the linear's."""
        return self.columns is not None


def shard_linear(checkpoint: RiverCheckpoint, linear: str, rank: int, ranks: int) -> LinearShard:
    """linear: qkv, o, gate_up or down."""
    if ranks == 1:
        return LinearShard(None, None)
    if linear == "qkv":
        return LinearShard(_qkv_rows(checkpoint, rank, ranks), None)
    if linear == "gate_up":
        size = checkpoint.intermediate_size
        part = _part(size, rank, ranks)
        return LinearShard((part, slice(size + part.start, size + part.stop)), None)
    inputs = checkpoint.linear_shapes[linear][1]
    return LinearShard(None, _part(inputs, rank, ranks))


def heads_of(checkpoint: RiverCheckpoint, ranks: int) -> tuple[int, int]:
    """Attention heads and key/value heads of one rank."""
    return checkpoint.num_heads // ranks, max(1, checkpoint.num_kv_heads // ranks)


def check_ranks(checkpoint: RiverCheckpoint, ranks: int) -> None:
    """RiverError, in one sentence, where the model cannot be spread over so many GPUs."""
    heads, kv_heads = checkpoint.num_heads, checkpoint.num_kv_heads
    if heads % ranks:
        raise RiverError(f"{ranks} tensor-parallel ranks cannot share {heads} attention heads")
    if kv_heads % ranks and ranks % kv_heads:
        raise RiverError(f"{ranks} tensor-parallel ranks cannot share {kv_heads} key/value heads")
    if checkpoint.intermediate_size % ranks:
        raise RiverError(
            f"{ranks} tensor-parallel ranks cannot share an MLP of "
            f"{checkpoint.intermediate_size} columns"
        )
    size = checkpoint.group_size
    for linear in ("o", "down"):
        inputs = checkpoint.linear_shapes[linear][1]
        if ranks > 1 and inputs // ranks % size:
            raise RiverError(
                f"with {ranks} tensor-parallel ranks {linear} is cut inside a group of {size} "
                f"weights ({inputs // ranks} inputs a rank): convert with a smaller --group-size, "
                "or use fewer ranks"
            )


def _qkv_rows(checkpoint: RiverCheckpoint, rank: int, ranks: int) -> tuple[slice, ...]:
    size = checkpoint.head_dim
    heads, kv_heads = heads_of(checkpoint, ranks)
    copies = max(1, ranks // checkpoint.num_kv_heads)  # ranks that share a key/value head
    q = slice(rank * heads * size, (rank + 1) * heads * size)
    first = rank // copies * kv_heads * size
    k_start = checkpoint.num_heads * size
    v_start = k_start + checkpoint.num_kv_heads * size
    kv = (slice(start + first, start + first + kv_heads * size) for start in (k_start, v_start))
    return (q, *kv)


def _part(size: int, rank: int, ranks: int) -> slice:
    each = size // ranks
    return slice(rank * each, (rank + 1) * each)
