"""The gate, and the state that passes from layer to layer.

Only exit_layer is real state: a token has exited by layer l when exit_layer <= l, and tokens that
never exit hold L. The two flags save every region from reducing it again.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto

from builders.onnxruntime.scope import Scope

# Under the square root of a norm, where it only keeps a zero vector from dividing by zero.
EPSILON = 1e-30


@dataclass(frozen=True, slots=True)
class GateState:
    """Tensor names: what is known after a layer."""

    exit_layer: str  # int32 [batch, seq]
    all_exited: str  # bool []
    any_exited: str  # bool []

    ELEMENT_TYPES: ClassVar = (TensorProto.INT32, TensorProto.BOOL, TensorProto.BOOL)

    @classmethod
    def after(cls, layer: int, suffix: str = "") -> "GateState":
        names = (f"{part}.{layer}{suffix}" for part in ("exit_layer", "all_exited", "any_exited"))
        return cls(*names)

    @property
    def names(self) -> list[str]:
        return [self.exit_layer, self.all_exited, self.any_exited]


def emit_gate_inputs(graph: Scope, hidden_size: int) -> None:
    """What all gates share: the scope as flags, and a norm weight of ones."""
    token, batch = (graph.constant(f"scope_{i}", np.array(i, np.int32)) for i in (0, 2))
    graph.add("Equal", ["gate_scope", token], ["scope_is_token"])
    graph.add("Equal", ["gate_scope", batch], ["scope_is_batch"])
    graph.constant("gate_ones", np.ones(hidden_size, np.float32))


def emit_gate(
    scope: Scope, layer: int, h_in: str, h_out: str, exit_layer: str, suffix: str = ""
) -> GateState:
    """The state after `layer` (1-based).

    h_in --+
           Where(use_directions) -- cosine with h_out -- scope -- > tau -- exit_layer
    dir  --+                                                                 |  |
                                                                 max <= layer: all exited
                                                                 min <= layer: any exited
    """
    p = f"gate.{layer}/"
    state = GateState.after(layer, suffix)
    index = scope.constant(f"{p}index", np.array(layer - 1))
    scope.add("Gather", ["directions", index], [f"{p}direction"], axis=0)
    scope.add("Gather", ["tau", index], [f"{p}tau"], axis=0)
    reference = scope.add("Where", ["use_directions", f"{p}direction", h_in], [f"{p}reference"])
    decided = _in_scope(scope, p, _cosine(scope, p, reference, h_out))
    scope.add("Greater", [decided, f"{p}tau"], [f"{p}passed"])
    this = scope.constant(f"{p}layer", np.array(layer, np.int32))
    never = scope.constant(f"{p}never", np.array(np.iinfo(np.int32).max, np.int32))
    scope.add("Where", [f"{p}passed", this, never], [f"{p}candidate"])
    scope.add("Min", [exit_layer, f"{p}candidate"], [state.exit_layer])
    scope.add("ReduceMax", [state.exit_layer], [f"{p}latest"], keepdims=0)
    scope.add("LessOrEqual", [f"{p}latest", this], [state.all_exited])
    scope.add("ReduceMin", [state.exit_layer], [f"{p}earliest"], keepdims=0)
    scope.add("LessOrEqual", [f"{p}earliest", this], [state.any_exited])
    return state


def emit_same_state(scope: Scope, state: GateState, layer: int) -> GateState:
    """The state after a layer that all tokens ran on the river: nothing new."""
    same = GateState.after(layer, "/river")
    for now, later in zip(state.names, same.names, strict=True):
        scope.add("Identity", [now], [later])
    return same


def _cosine(scope: Scope, p: str, reference: str, h_out: str) -> str:
    """Mean product of the vectors, each over its root mean square; 0 for a zero vector."""
    for name, vector in (("reference", reference), ("h_out", h_out)):
        scope.add(
            "SimplifiedLayerNormalization",
            [vector, "gate_ones"],
            [f"{p}{name}_unit"],
            axis=-1,
            epsilon=EPSILON,
            stash_type=1,
        )
    last = scope.constant(f"{p}last_axis", np.array([-1]))
    scope.add("Mul", [f"{p}reference_unit", f"{p}h_out_unit"], [f"{p}products"])
    return scope.add("ReduceMean", [f"{p}products", last], [f"{p}token_score"], keepdims=0)


def _in_scope(scope: Scope, p: str, score: str) -> str:
    """The token's own score, its sequence's smallest, or the batch's smallest."""
    seq_axis = scope.constant(f"{p}seq_axis", np.array([1]))
    scope.add("ReduceMin", [score, seq_axis], [f"{p}sequence_score"], keepdims=1)
    scope.add("ReduceMin", [score], [f"{p}batch_score"], keepdims=1)
    scope.add("Where", ["scope_is_batch", f"{p}batch_score", f"{p}sequence_score"], [f"{p}joint"])
    return scope.add("Where", ["scope_is_token", score, f"{p}joint"], [f"{p}score"])
