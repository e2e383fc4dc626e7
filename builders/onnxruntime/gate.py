"""The gate, and the state that passes from layer to layer.

A token has exited by layer l when its exit_layer <= l. The two flags save every region from
reducing that again.

    gate      exit_layer = min(exit_layer before, l or NEVER)     flags = flags before, or reduced
    river     exit_layer = NEVER, flags = true                    constants: no kernel runs

A river branch runs when all tokens have exited, so from there on nobody asks which ones have, and
the smallest exit_layer of all layers is the one that counts.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto, helper

from builders.graph.scope import Scope

NEVER = np.iinfo(np.int32).max

# Under the square root of a norm, where it only keeps a zero vector from dividing by zero.
EPSILON = 1e-30


@dataclass(frozen=True, slots=True)
class GateState:
    """Tensor names: what is known after a layer."""

    exit_layer: str  # int32 [batch, seq], or [1, 1] of a layer on the river
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
    """What all gates share: can any token exit, the scope as flags, a norm weight of ones."""
    graph.add("ReduceMin", ["tau"], ["least_tau"], keepdims=0)
    graph.add(
        "Less", ["least_tau", graph.constant("inf", np.array(np.inf, np.float32))], ["gating"]
    )
    token, batch = (graph.constant(f"scope_{i}", np.array(i, np.int32)) for i in (0, 2))
    graph.add("Equal", ["gate_scope", token], ["scope_is_token"])
    graph.add("Equal", ["gate_scope", batch], ["scope_is_batch"])
    graph.constant("gate_ones", np.ones(hidden_size, np.float32))


def emit_gate(
    scope: Scope, layer: int, h_in: str, h_out: str, before: GateState, suffix: str = ""
) -> GateState:
    """The state after `layer` (1-based).

    h_in --+
           Where(use_directions) -- cosine with h_out -- scope -- > tau -- exit_layer
    dir  --+                                                                 |  |
                                                                 max <= layer: all exited
                                                                 min <= layer: any exited
    """
    p = f"gate.{layer}/"
    after = GateState.after(layer, suffix)
    index = scope.constant(f"{p}index", np.array(layer - 1))
    scope.add("Gather", ["directions", index], [f"{p}direction"], axis=0)
    scope.add("Gather", ["tau", index], [f"{p}tau"], axis=0)
    reference = scope.add("Where", ["use_directions", f"{p}direction", h_in], [f"{p}reference"])
    decided = _in_scope(scope, p, _cosine(scope, p, reference, h_out))
    scope.add("Greater", [decided, f"{p}tau"], [f"{p}passed"])
    this = scope.constant(f"{p}layer", np.array(layer, np.int32))
    never = scope.constant(f"{p}never", np.array(NEVER, np.int32))
    scope.add("Where", [f"{p}passed", this, never], [f"{p}candidate"])
    scope.add("Min", [before.exit_layer, f"{p}candidate"], [after.exit_layer])
    for reduce, bound, flag_before, flag in (
        ("ReduceMax", "latest", before.all_exited, after.all_exited),
        ("ReduceMin", "earliest", before.any_exited, after.any_exited),
    ):
        scope.add(reduce, [after.exit_layer], [f"{p}{bound}"], keepdims=0)
        scope.add("LessOrEqual", [f"{p}{bound}", this], [f"{p}{bound}_exited"])
        scope.add("Or", [flag_before, f"{p}{bound}_exited"], [flag])
    return after


def emit_gate_if_any(
    scope: Scope, layer: int, h_in: str, h_out: str, before: GateState, suffix: str
) -> GateState:
    """The gate, skipped where tau is inf after every layer: full depth does not pay for it."""
    after = GateState.after(layer, suffix)
    gated, idle = scope.branch(), scope.branch()
    branches = {
        "then_branch": (gated, emit_gate(gated, layer, h_in, h_out, before, f"{suffix}/gated")),
        "else_branch": (idle, emit_first_state(idle, layer, f"{suffix}/idle")),
    }
    graphs = {
        name: branch.to_graph(name, dict(zip(state.names, GateState.ELEMENT_TYPES, strict=True)))
        for name, (branch, state) in branches.items()
    }
    scope.add("If", ["gating"], after.names, name=f"gate.{layer}/if_gating", **graphs)
    return after


def emit_first_state(graph: Scope, layer: int = 0, suffix: str = "") -> GateState:
    """The state while nobody has exited."""
    state = GateState.after(layer, suffix)
    graph.constant(state.exit_layer, np.full((1, 1), NEVER, np.int32))
    graph.constant(state.all_exited, np.array(False))
    graph.constant(state.any_exited, np.array(False))
    return state


def emit_river_state(scope: Scope, layer: int) -> GateState:
    """The state after a layer that all tokens ran on the river: they have all exited before."""
    state = GateState.after(layer, "/river")
    scope.constant(state.exit_layer, np.full((1, 1), NEVER, np.int32))
    scope.constant(state.all_exited, np.array(True))
    scope.constant(state.any_exited, np.array(True))
    return state


def emit_exit_layer(graph: Scope, num_layers: int, gated: list[str]) -> None:
    """The output exit_layer int32 [batch, seq]: the first of the layers' own, else L."""
    graph.add("Shape", ["input_ids"], ["token_shape"])
    last = helper.make_tensor("value", TensorProto.INT32, [1], [num_layers])
    graph.add("ConstantOfShape", ["token_shape"], ["exit_layer/none"], value=last)
    graph.add("Min", ["exit_layer/none", *gated], ["exit_layer"])


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
