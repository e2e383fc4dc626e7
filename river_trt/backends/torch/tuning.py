"""Measures the variants of the packed bank's kernel on the card of this process.

A case runs as an engine runs it: by flags over both banks, with its norm, activation or residual.
For each variant the launches of a CUDA graph go over copies of the banks that together exceed the
second cache, as a model's layers do.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from river_trt.backends.torch.tuner import LinearCase, TunedVariants

DEVICE = "cuda"
SPREAD_BYTES = 256 << 20  # of river banks, more than any card's cache
MIN_LAUNCHES = 8
REPLAYS = 5
EPS = 1e-5
# A variant serves both banks; most layers of a token that has left run the river.
RIVER_WEIGHT, BACKBONE_WEIGHT = 2.0, 1.0


def tune(cases: Iterable[LinearCase]) -> dict[LinearCase, str]:
    """Set the fastest variant of each case in this process; the cache's, where it has one.

    Needs the operators loaded and a CUDA device. Returns the variants' names.
    """
    choices = _tuned().choose(cases, measure)
    _random_linear.cache_clear()
    _set(choices)
    names = torch.ops.river_trt_cuda.linear_variants()
    return {case: names[variant] for case, variant in choices.items()}


def use_tuned() -> None:
    """Set all that the cache holds for this card; measures nothing.

    Not an engine's own shapes alone: engines of one model, with a river and without, add up in one
    order then.
    """
    _set(_tuned().known())


def _tuned() -> TunedVariants:
    ops = torch.ops.river_trt_cuda
    card = torch.cuda.get_device_name()
    return TunedVariants(card, ops.linear_version(), ops.linear_variants())


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

        def work(river: bool = river) -> None:
            for launched in range(max(MIN_LAUNCHES, linear.copies)):
                linear.launch(launched % linear.copies, river, variant)

        milliseconds = graph_milliseconds(work)
        total += weight * 1000.0 * milliseconds / max(MIN_LAUNCHES, linear.copies)
    return total / sum(weight for _, weight in banks)


def graph_milliseconds(work: Callable[[], None]) -> float:
    """Of a CUDA graph of the work: the best of a few replays."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times: list[float] = []
    for _ in range(REPLAYS + 1):
        begin, end = (_event() for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times[1:])


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


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
    copies = max(1, SPREAD_BYTES // bank.numel())
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
