"""A linear of the dialect, typed: where its inputs stand in an operator is known here alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from builders.graph.program import Operation
from builders.onnx_schemas import DOMAIN

Bank = Literal["backbone", "river"]
Value = TypeVar("Value")  # what a graph calls a tensor: its name in ONNX, a node in torch.fx
INPUTS = ("x", "use_river", "weight", "qweight", "scales", "zero_points", "pre_scale", "bias")
RIVER = ("qweight", "scales", "zero_points")


@dataclass(frozen=True, slots=True, eq=False)
class LinearNode(Generic[Value]):
    """A linear of the dialect: its inputs, and what its buffers are."""

    path: str  # layers.0.self_attn.qkv_proj
    x: Value
    use_river: Value
    shape: tuple[int, ...]  # [N, K]
    group_size: int  # 0: it has no river
    has_zero_points: bool
    has_pre_scale: bool
    has_bias: bool

    @property
    def layer(self) -> int:
        """0-based."""
        return int(self.path.split(".")[1])

    @property
    def groups(self) -> int:
        """Of one row of the river, the last one perhaps part filled."""
        return -(-self.shape[1] // self.group_size)


@dataclass(frozen=True, slots=True, eq=False)
class Linear(LinearNode[str]):
    """One of an ONNX program. Its weights are called `<path>.<part>`."""

    name: str  # of the node
    y: str
    weight: str  # of the backbone: <path>.weight, or the head's table

    @classmethod
    def of(cls, operation: Operation, weight_shapes: Mapping[str, tuple[int, ...]]) -> "Linear":
        assert is_linear(operation), operation.op_type
        given = _inputs(operation)
        (y,) = operation.outputs
        qweight = given["qweight"]
        return cls(
            path=given["weight"].removesuffix(".weight"),
            x=given["x"],
            use_river=given["use_river"],
            shape=weight_shapes[given["weight"]],
            group_size=2 * weight_shapes[qweight][-1] if qweight else 0,
            has_zero_points=bool(given["zero_points"]),
            has_pre_scale=bool(given["pre_scale"]),
            has_bias=bool(given["bias"]),
            name=operation.name,
            y=y,
            weight=given["weight"],
        )


def is_linear(operation: Operation) -> bool:
    return (operation.domain, operation.op_type) == (DOMAIN, "Linear")


def input_of(operation: Operation, name: str) -> str:
    """The tensor that a linear reads as `name`, one of INPUTS; empty for one that it has not."""
    return _inputs(operation)[name]


def without_pre_scale(operation: Operation) -> Operation:
    """The same linear over an input that is scaled already."""
    inputs = _inputs(operation) | {"pre_scale": ""}
    return replace(operation, inputs=tuple(inputs.values()))


def one_bank(path: str, x: str, y: str, river: bool) -> Operation:
    """A linear over the table `path`; with `river` over a bank of 4 bits under its name."""
    parts = [f"{path}.{part}" for part in RIVER] if river else []
    return Operation("Linear", (x, "", path, *parts), (y,), {}, DOMAIN, path)


def _inputs(operation: Operation) -> dict[str, str]:
    absent = [""] * (len(INPUTS) - len(operation.inputs))
    return dict(zip(INPUTS, [*operation.inputs, *absent], strict=True))
