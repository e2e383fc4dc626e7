"""What a server starts with: `--additional-config '{"river": {...}}'` over the checkpoint's own.

And what one request may ask: `SamplingParams.extra_args`, over HTTP `vllm_xargs`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from river_trt.errors import RiverError
from river_trt.river_checkpoint import SECTION, RiverCheckpoint

ACTIVATIONS = ("int8", "float32")
# A request's own: HTTP carries texts, numbers and lists of them.
TAU, PINNED, TRACE = "river_tau", "river_pinned", "river_trace"


@dataclass(frozen=True, slots=True)
class Policy:
    """tau of each layer, and the pinned layers from 1 (docs/exit-policy.md)."""

    tau: tuple[float, ...]
    pinned: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """policy: of every request that asks for none. river_activation: "int8" rounds the river's
    inputs to 8 bits a group, on a CPU and for packed banks on a GPU.
    """

    policy: Policy
    river_activation: str = "int8"

    @classmethod
    def read(cls, additional: Any, checkpoint: RiverCheckpoint) -> "Settings":
        """Raises RiverError for a key that is unknown and a value out of range."""
        asked = additional.get(SECTION, {}) if isinstance(additional, Mapping) else {}
        if not isinstance(asked, Mapping):
            raise RiverError(f"additional_config: {SECTION} must be an object, got {asked!r}")
        known = ("tau", "pinned", "river_activation")
        for name in asked:
            if name not in known:
                raise RiverError(
                    f"additional_config: {SECTION}.{name} is unknown; known are {', '.join(known)}"
                )
        own = Policy(checkpoint.tau, checkpoint.pinned)
        policy = changed(own, asked.get("tau"), asked.get("pinned"))
        activation = asked.get("river_activation", "int8")
        if activation not in ACTIVATIONS:
            raise RiverError(
                f"river_activation {activation!r} is not offered; choose one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        return cls(policy, activation)


def request_policy(own: Policy, extra_args: Mapping[str, Any] | None) -> Policy:
    """What a request asks for; RiverError for a value out of range."""
    if not extra_args:
        return own
    return changed(own, extra_args.get(TAU), extra_args.get(PINNED))


def changed(own: Policy, tau: Any, pinned: Any) -> Policy:
    """The policy with what was asked; None changes nothing."""
    layers = len(own.tau)
    return Policy(
        own.tau if tau is None else _read_tau(tau, layers),
        own.pinned if pinned is None else _read_pinned(pinned, layers),
    )


def _read_tau(tau: Any, layers: int) -> tuple[float, ...]:
    values = tuple(tau) if isinstance(tau, list | tuple) else (tau,) * layers
    if len(values) != layers:
        raise RiverError(f"tau must be one number or {layers}, one a layer, got {len(values)}")
    return tuple(_number(value) for value in values)


def _number(value: Any) -> float:
    """A number, or the text of one: JSON has no infinity."""
    try:
        number = float(value) if isinstance(value, Real | str) else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise RiverError(f'tau must be a number, or "inf" or "-inf", got {value!r:.60}')
    return number


def _read_pinned(pinned: Any, layers: int) -> tuple[int, ...]:
    values = tuple(pinned) if isinstance(pinned, list | tuple) else (pinned,)
    for value in values:
        if type(value) is not int or not 1 <= value <= layers:
            raise RiverError(f"pinned layer {value!r:.60} is outside 1..{layers}")
    return values
