"""Quantisers of the river bank, found by name; a library is imported when it is asked for."""

from collections.abc import Callable

from builders.quantisers.base import Quantiser, RiverWeight
from river_trt.errors import RiverError

__all__ = ["GROUP_SIZES", "QUANTISERS", "Quantiser", "RiverWeight", "make_quantiser"]

GROUP_SIZES = (32, 64, 128)


def _rtn(group_size: int, symmetric: bool) -> Quantiser:
    from builders.quantisers.rtn import Rtn

    return Rtn(group_size, symmetric)


def _hqq(group_size: int, symmetric: bool) -> Quantiser:
    from builders.quantisers.hqq import Hqq

    return Hqq(group_size, symmetric)


def _awq(group_size: int, symmetric: bool) -> Quantiser:
    from builders.quantisers.awq import Awq

    return Awq(group_size, symmetric)


def _tuned(group_size: int, symmetric: bool) -> Quantiser:
    from builders.quantisers.tuned import Tuned

    return Tuned(group_size, symmetric)


QUANTISERS: dict[str, Callable[[int, bool], Quantiser]] = {
    "rtn": _rtn,
    "hqq": _hqq,
    "awq": _awq,
    "tuned": _tuned,
}


def make_quantiser(name: str, group_size: int, symmetric: bool) -> Quantiser:
    """A quantiser by name; RiverError for an unknown name or a group size that is not offered."""
    if name not in QUANTISERS:
        raise RiverError(f"unknown quantiser {name!r}; there are {', '.join(QUANTISERS)}")
    if group_size not in GROUP_SIZES:
        offered = ", ".join(map(str, GROUP_SIZES))
        raise RiverError(f"group size {group_size} is not offered; choose one of {offered}")
    return QUANTISERS[name](group_size, symmetric)
