"""Measures the variants of the packed bank's kernel on the card of this process.

For each case the launches of a CUDA graph go over copies of a bank that together exceed the second
cache, as a model's layers do.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from river_trt.backends.torch.tuner import LinearCase, TunedVariants

SPREAD_BYTES = 256 << 20  # more than any card's cache
MIN_LAUNCHES = 8
REPLAYS = 5


def tune(cases: Iterable[LinearCase]) -> dict[LinearCase, str]:
    """Set the fastest variant of each case in this process; the cache's, where it has one.

    Needs the operators loaded and a CUDA device. Returns the variants' names.
    """
    choices = _tuned().choose(cases, measure)
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
    """Microseconds of a launch; inf where the variant does not fit the device."""
    bank = random_bank(case)
    copies = max(1, SPREAD_BYTES // bank.numel())
    banks = [bank, *(bank.clone() for _ in range(copies - 1))]
    x = torch.randn(case.rows, 1, case.k, device="cuda").bfloat16()

    def launch(bank: Tensor) -> None:
        torch.ops.river_trt_cuda.packed_linear(
            *(x, None, None, bank, case.n, case.group_size, None, None, None, 0.0, False, None),
            *(case.int8_activations, False, None, None, variant),
        )

    def work() -> None:
        for launched in range(max(MIN_LAUNCHES, copies)):
            launch(banks[launched % copies])

    try:
        launch(bank)
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        return float("inf")
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
    return 1000.0 * min(times[1:]) / max(MIN_LAUNCHES, copies)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def random_bank(case: LinearCase) -> Tensor:
    """A packed bank of the case's shape on the GPU: any codes, one scale."""
    groups = -(-case.k // case.group_size)
    size = (case.n, groups, case.group_size // 2)
    codes = torch.randint(256, size, dtype=torch.uint8, device="cuda")
    scales = torch.full((case.n, groups), 0.01, dtype=torch.float16, device="cuda")
    packed: Tensor = torch.ops.river_trt_cuda.pack(codes, scales, None, case.k)
    return packed
