"""Measures the variants of the packed bank's kernel on the card of this process, and tunes engines.

A case runs as an engine runs it: by flags over both banks, with its norm, activation or residual.
For each variant the launches of a CUDA graph go over copies of the banks that together exceed the
second cache, as a model's layers do.
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from river_trt.backends.torch import attention_tuning
from river_trt.backends.torch.timing import launch_microseconds, num_copies
from river_trt.backends.torch.tuner import (
    AttentionCase,
    C,
    LinearCase,
    TunedVariants,
    attention_cases,
    linear_cases,
)
from river_trt.errors import RiverError
from river_trt.progress import Progress, silent

TUNE_VARIABLE = "RIVER_TRT_TUNE"
SECONDS_AT_LOAD = 10.0  # no shape is begun after them; one takes a fraction of a second
LINEAR_ROWS = (1, 2, 4, 8)
ATTENTION_ROWS = (*LINEAR_ROWS, 16, 32)
DEVICE = "cuda"
EPS = 1e-5
# A variant serves both banks; most layers of a token that has left run the river.
RIVER_WEIGHT, BACKBONE_WEIGHT = 2.0, 1.0


def tunes_at_load() -> bool:
    """What $RIVER_TRT_TUNE says: 1, the default, or 0. RiverError for anything else."""
    value = os.environ.get(TUNE_VARIABLE, "1")
    if value not in ("0", "1"):
        raise RiverError(f"{TUNE_VARIABLE} must be 0 or 1, got {value!r}")
    return value == "1"


def tune_at_load(
    program: str, head_dim: int, max_batch_size: int, capacity: int, progress: Progress
) -> None:
    """Measure what the cache lacks of an engine's shapes, for SECONDS_AT_LOAD at most.

    Shapes that need more memory than is free now are left out, which progress hears of. RiverError
    where the choices cannot be kept.
    """
    deadline = time.monotonic() + SECONDS_AT_LOAD
    linear = [
        case
        for rows in buckets(LINEAR_ROWS, max_batch_size)
        for case in linear_cases(program, rows)
    ]
    attention = [
        case
        for rows in buckets(ATTENTION_ROWS, max_batch_size)
        for case in attention_cases(program, rows, head_dim, capacity)
    ]
    try:
        tune(_fitting(linear, bytes_of, progress), progress, deadline)
        fitting = _fitting(attention, attention_tuning.bytes_of, progress)
        tune_attention(fitting, progress, deadline)
    except OSError as error:
        raise RiverError(
            f"the kernels' variants that were measured cannot be kept ({error}): set "
            f"XDG_CACHE_HOME to a folder that can be written, or {TUNE_VARIABLE}=0 to measure none"
        ) from error


def buckets(sizes: Iterable[int], most: int) -> list[int]:
    """The sizes that steps of up to `most` rows are recorded for."""
    return [size for size in sizes if size < 2 * most]


def _fitting(cases: list[C], bytes_of: Callable[[C], int], progress: Progress) -> list[C]:
    """Those that there is memory for."""
    free = free_bytes()
    for case in cases:
        if bytes_of(case) > free:
            progress(f"no memory is free to measure variants of {case.key}", 0, 0)
    return [case for case in cases if bytes_of(case) <= free]


def free_bytes() -> int:
    """Of the GPU's memory."""
    free: int = torch.cuda.mem_get_info()[0]
    return free


def tune(
    cases: Iterable[LinearCase], progress: Progress = silent, deadline: float = float("inf")
) -> dict[LinearCase, str]:
    """Set the fastest variant of each case in this process; the cache's, where it has one.

    Needs the operators loaded and a CUDA device. Returns the variants' names.
    """
    choices = _linear().choose(cases, measure, progress, deadline)
    _random_linear.cache_clear()
    _set(choices)
    return {case: _linear().variants[variant] for case, variant in choices.items()}


def tune_attention(
    cases: Iterable[AttentionCase], progress: Progress = silent, deadline: float = float("inf")
) -> dict[AttentionCase, str]:
    """As tune, for attention."""
    choices = _attention().choose(cases, attention_tuning.measure, progress, deadline)
    attention_tuning.release()
    attention_tuning.set_variants(choices)
    return {case: _attention().variants[variant] for case, variant in choices.items()}


def use_tuned() -> None:
    """Set all that the cache holds for this card; measures nothing.

    Not an engine's own shapes alone: engines of one model, with a river and without, add up in one
    order then.
    """
    _set(_linear().known())
    attention_tuning.set_variants(_attention().known())


def _linear() -> TunedVariants[LinearCase]:
    ops = torch.ops.river_trt_cuda
    return TunedVariants(LinearCase, card(), ops.linear_version(), ops.linear_variants())


def _attention() -> TunedVariants[AttentionCase]:
    ops = torch.ops.river_trt_cuda
    return TunedVariants(AttentionCase, card(), ops.attention_version(), ops.attention_variants())


def card() -> str:
    """The name of this process's GPU."""
    name: str = torch.cuda.get_device_name()
    return name


def _set(choices: Mapping[LinearCase, int]) -> None:
    for case, variant in choices.items():
        torch.ops.river_trt_cuda.set_linear_variant(
            case.n, case.k, case.group_size, case.rows, case.int8_activations, variant
        )


def measure(case: LinearCase, variant: int) -> float:
    """Microseconds of a launch, weighted over the banks; inf where the variant does not fit."""
    linear = _random_linear(case)
    banks = [(True, RIVER_WEIGHT), (False, BACKBONE_WEIGHT)] if case.chooses else [(True, 1.0)]
    total = 0.0
    for river, weight in banks:
        try:
            linear.launch(0, river, variant)
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            return float("inf")

        def launch(copy: int, river: bool = river) -> None:
            linear.launch(copy, river, variant)

        total += weight * launch_microseconds(launch, linear.copies)
    return total / sum(weight for _, weight in banks)


def bytes_of(case: LinearCase) -> int:
    """Of the GPU's memory that measuring takes, at most."""
    values = case.n * case.k
    bank = values // 2 + 4 * values // case.group_size
    weight = 2 * values if case.chooses else 0
    return num_copies(bank) * (bank + weight) + 4 * values  # one in float32 on the way


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """A case with random numbers, over several copies of its banks."""

    case: LinearCase
    x: Tensor  # [rows, 1, K]
    river: list[Tensor]  # packed
    backbone: list[Tensor | None]  # [N, K], where the case has both
    flags: dict[bool, Tensor | None]  # [rows, 1] bool: all rows on the river, and none
    norm: Tensor | None  # [K]
    squares: Tensor | None  # [rows, 1], of x
    residual: Tensor | None  # [rows, 1, N]

    @property
    def copies(self) -> int:
        return len(self.river)

    def launch(self, copy: int, river: bool, variant: int) -> None:
        case = self.case
        torch.ops.river_trt_cuda.packed_linear(
            *(self.x, self.flags[river], self.backbone[copy], self.river[copy]),
            *(case.n, case.group_size, None, None, self.norm, EPS, case.silu_mul, self.residual),
            *(case.int8_activations, case.flags_early, self.squares, None, variant),
        )


@functools.lru_cache(maxsize=1)  # of a case's variants, which follow each other
def _random_linear(case: LinearCase) -> _Linear:
    rows, n, k = case.rows, case.n, case.k
    bank = _random_bank(case)
    copies = num_copies(bank.numel())
    weights: list[Tensor | None] = [None] * copies
    flags: dict[bool, Tensor | None] = {True: None, False: None}
    if case.chooses:
        weight = (torch.randn(n, k, device=DEVICE) * k**-0.5).bfloat16()
        weights = [weight, *(weight.clone() for _ in range(copies - 1))]
        flags = {on: torch.full((rows, 1), on, device=DEVICE) for on in (True, False)}
    norm = squares = residual = None
    if case.norm:
        norm = torch.ones(k, dtype=torch.bfloat16, device=DEVICE)
        squares = torch.full((rows, 1), float(k), device=DEVICE)
    elif not case.silu_mul:
        residual = torch.zeros(rows, 1, n, dtype=torch.bfloat16, device=DEVICE)
    x = torch.randn(rows, 1, k, device=DEVICE).bfloat16()
    banks = [bank, *(bank.clone() for _ in range(copies - 1))]
    return _Linear(case, x, banks, weights, flags, norm, squares, residual)


def _random_bank(case: LinearCase) -> Tensor:
    """A packed bank of the case's shape: any codes, one scale."""
    groups = -(-case.k // case.group_size)
    size = (case.n, groups, case.group_size // 2)
    codes = torch.randint(256, size, dtype=torch.uint8, device=DEVICE)
    scales = torch.full((case.n, groups), 0.01, dtype=torch.float16, device=DEVICE)
    packed: Tensor = torch.ops.river_trt_cuda.pack(codes, scales, None, case.k)
    return packed
