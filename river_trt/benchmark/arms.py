"""The modes of an engine that a benchmark compares: exit policies with a name, and lossless."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from river_trt.config import DecodeScope, Mode
from river_trt.errors import RiverError


@dataclass(frozen=True, slots=True)
class Arm:
    """A mode to measure; tau, pinned, gate_scope, mode and policy as in GenerationConfig."""

    name: str
    tau: float | Sequence[float] | None = None
    pinned: Sequence[int] | None = None
    gate_scope: DecodeScope = "token"
    mode: Mode = "river"
    policy: str | None = None  # one of the engine's by name


FULL_DEPTH = Arm("full depth", tau=float("inf"))
ENGINE_POLICY = Arm("engine's")
ALL_RIVER = Arm("all river", tau=float("-inf"), pinned=())
TOGETHER = Arm("engine's, together", gate_scope="batch")  # the rows of a batch leave together
LOSSLESS = Arm("lossless", mode="lossless")
# Names of the command line to the modes that need no number.
MODES: dict[str, Arm] = {
    "full": FULL_DEPTH,
    "policy": ENGINE_POLICY,
    "river": ALL_RIVER,
    "together": TOGETHER,
    "lossless": LOSSLESS,
}
DEFAULT_MODES = ("full", "policy", "river")


def at_tau(tau: float | tuple[float, ...]) -> Arm:
    """The engine's gate and pins with these thresholds."""
    if isinstance(tau, float):
        return Arm(f"tau {tau:g}", tau)
    return Arm(f"tau {min(tau):g} to {max(tau):g}, by layer", tau)


def at_depth(depth: int, num_layers: int) -> Arm:
    """Every token leaves after layer `depth`; no pins. RiverError for a layer that is not there."""
    if not 1 <= depth <= num_layers:
        raise RiverError(f"depth {depth} is not one of the layers 1..{num_layers}")
    tau = np.full(num_layers, np.inf)
    tau[depth - 1] = -np.inf
    return Arm(f"depth {depth}", tuple(tau.tolist()), ())


def chosen_arms(
    modes: Sequence[str],
    taus: Sequence[float | tuple[float, ...]],
    depths: Sequence[int],
    policies: Sequence[str] = (),
) -> Callable[[int], list[Arm]]:
    """The arms asked for, of a model with so many layers. RiverError for an unknown mode."""
    for mode in modes:
        if mode not in MODES:
            raise RiverError(f"mode {mode!r} is not offered; choose among {', '.join(MODES)}")
    return lambda num_layers: [
        *(MODES[mode] for mode in modes),
        *(Arm(name, policy=name) for name in policies),
        *(at_tau(tau) for tau in taus),
        *(at_depth(depth, num_layers) for depth in depths),
    ]
