"""Measures the variants of attention on the card of this process.

Which is fastest depends on how full the caches are, and a recorded step holds for any fill: the
mean over a few fills of the engine's capacity decides. The launches of a CUDA graph go over copies
of the caches that together exceed the second cache, as a model's layers do.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from river_trt.backends.torch.timing import launch_microseconds, num_copies
from river_trt.backends.torch.tuner import AttentionCase

DEVICE = "cuda"
FILLS = (1 / 8, 1 / 2, 7 / 8)  # of the capacity
WORKSPACE_BYTES = 64 << 20


def set_variants(choices: Mapping[AttentionCase, int]) -> None:
    """From now on launches of these shapes take these variants, in this process."""
    for case, variant in choices.items():
        torch.ops.river_trt_cuda.set_attention_variant(
            *(case.batch, 1, case.num_heads, case.num_kv_heads, case.head_dim),
            *(case.capacity, case.window, variant),
        )


def bytes_of(case: AttentionCase) -> int:
    """Of the GPU's memory that measuring takes, at most."""
    return _copies(case) * _copy_bytes(case) + WORKSPACE_BYTES


def measure(case: AttentionCase, variant: int) -> float:
    """Microseconds of a launch, the mean over the fills; inf where the variant does not fit."""
    attention = _random_attention(case)
    total = 0.0
    for past in attention.past_lengths:
        try:
            attention.launch(0, past, variant)
        except RuntimeError as error:
            if "variant" not in str(error) and "splits" not in str(error):
                raise
            return float("inf")

        def launch(copy: int, past: Tensor = past) -> None:
            attention.launch(copy, past, variant)

        total += launch_microseconds(launch, len(attention.k_caches))
    return total / len(attention.past_lengths)


def release() -> None:
    """The memory of what was measured last."""
    _random_attention.cache_clear()


@dataclass(frozen=True, slots=True, eq=False)
class _Attention:
    """A case with random numbers, over several copies of its caches."""

    case: AttentionCase
    qkv: Tensor  # [batch, 1, (heads + 2 KV heads) * D]
    k_caches: list[Tensor]  # [batch, KV heads, capacity, D]
    v_caches: list[Tensor]
    past_lengths: list[Tensor]  # [batch] int32, one for each fill
    angles: Tensor  # [capacity, D / 2] float32
    workspace: Tensor

    def launch(self, copy: int, past: Tensor, variant: int) -> None:
        case = self.case
        sizes = [heads * case.head_dim for heads in _heads(case)]
        q, k, v = torch.split(self.qkv, sizes, dim=-1)
        torch.ops.river_trt_cuda.attention(
            *(q, k, v, self.k_caches[copy], self.v_caches[copy], past, self.angles, self.angles),
            *(case.num_heads, case.num_kv_heads, case.head_dim**-0.5, case.window, 0.0),
            *(self.workspace, None, variant),
        )


@functools.lru_cache(maxsize=1)  # of a case's variants, which follow each other
def _random_attention(case: AttentionCase) -> _Attention:
    size = (case.batch, case.num_kv_heads, case.capacity, case.head_dim)

    def caches() -> list[Tensor]:
        first = torch.zeros(size, dtype=torch.bfloat16, device=DEVICE).normal_()
        return [first, *(first.clone() for _ in range(_copies(case) - 1))]

    columns = sum(_heads(case)) * case.head_dim
    past = [min(int(fill * case.capacity), case.capacity - 1) for fill in FILLS]
    return _Attention(
        case,
        torch.randn(case.batch, 1, columns, device=DEVICE).bfloat16(),
        *(caches(), caches()),
        [torch.full((case.batch,), n, dtype=torch.int32, device=DEVICE) for n in past],
        torch.ones(case.capacity, case.head_dim // 2, device=DEVICE),
        torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=DEVICE),
    )


def _heads(case: AttentionCase) -> tuple[int, int, int]:
    return case.num_heads, case.num_kv_heads, case.num_kv_heads


def _copy_bytes(case: AttentionCase) -> int:
    return 4 * case.batch * case.num_kv_heads * case.capacity * case.head_dim  # K and V


def _copies(case: AttentionCase) -> int:
    return num_copies(_copy_bytes(case))
