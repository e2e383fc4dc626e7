"""What TensorRT-LLM's config.json says of a River model, beyond the keys it knows itself.

Written by convert.py and read in the container, so nothing but the standard library is imported.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from river_trt.errors import EngineError

ARCHITECTURE = "RiverForCausalLM"
DTYPES = ("float16", "bfloat16")  # of activations, backbone and KV cache
RECONVERT = "convert the model again with this version of river-trt"


@dataclass(frozen=True, slots=True)
class RiverSection:
    """The key `river` of config.json: features of the model, the river's format, the gate."""

    group_size: int
    symmetric: bool
    scaled: tuple[str, ...]  # the linears (qkv, o, gate_up, down) with a pre_scale
    biased: tuple[str, ...]  # the linears with a bias
    gate: str  # similarity or direction
    attention_scale: float
    ropes: tuple[tuple[float, ...], ...]  # inverse frequencies
    layer_ropes: tuple[int | None, ...]  # of each layer an index into `ropes`; None: no rotary
    query_beta: float  # queries at position p grow by 1 + beta ln(1 + floor(p / period))
    query_period: int
    qk_norms: bool
    sandwich_norms: bool
    embedding_scale: float
    attention_softcap: float | None
    final_softcap: float | None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RiverSection":
        """Raises EngineError for a key too many or too few."""
        names = {field.name for field in dataclasses.fields(cls)}
        if wrong := sorted(values.keys() ^ names):
            raise EngineError(
                f"config.json: the key river.{wrong[0]} is "
                f"{'missing' if wrong[0] in names else 'unknown'}; {RECONVERT}"
            )
        lists = ("scaled", "biased", "layer_ropes")
        changes: dict[str, Any] = {name: tuple(values[name]) for name in lists}
        changes["ropes"] = tuple(tuple(rope) for rope in values["ropes"])
        return cls(**(values | changes))
