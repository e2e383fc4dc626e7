"""The gate and the flags that pass from layer to layer, in standard operators."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from builders.graph.regions import LayerRegions
from builders.tensorrt.scope import TypedScope

LEAST_NORM = 1e-30  # keeps a zero vector from dividing by zero; its cosine is 0
INT32 = int(TensorProto.INT32)


@dataclass(frozen=True, slots=True)
class Flags:
    """Tensor names: what is known after a layer, and the banks of the next one."""

    exited: str  # bool [batch, seq]
    exit_layer: str  # int32 [batch, seq]
    river_rows: str = ""  # bool [batch, seq, 1]: this token runs the next layer's river
    all_river: str = ""  # bool []
    mixed: str = ""  # bool []: some tokens run the river and some do not


def emit_first_flags(graph: TypedScope, num_layers: int) -> Flags:
    """Before layer 1; and what all gates share."""
    shape = graph.emit("Shape", ["input_ids"], "token_shape")
    none = graph.constant("not_exited", np.array(False))
    last = graph.constant("last_layer", np.array(num_layers, np.int32))
    for scope_name, value in (("token", 0), ("batch", 2)):
        known = graph.constant(f"scope/{value}", np.array(value, np.int32))
        graph.emit("Equal", ["gate_scope", known], f"scope_is_{scope_name}")
    graph.emit("Not", ["pinned"], "unpinned")
    return Flags(
        graph.emit("Expand", [none, shape], "exited.0"),
        graph.emit("Expand", [last, shape], "exit_layer.0"),
    )


def emit_gate(
    graph: TypedScope, number: int, num_layers: int, layer: LayerRegions, before: Flags
) -> Flags:
    """The flags after layer `number`.

    h_in --+
           Where(use_directions) -- cosine with h_out -- scope -- > tau -- exited, exit_layer
    dir  --+                                                                  |
                                                  and not pinned: river_rows, all_river, mixed
    """
    p = f"layers.{number - 1}.gate/"
    index = graph.constant(f"{p}index", np.array(number - 1))
    tau = graph.emit("Gather", ["tau", index], f"{p}tau", axis=0)
    direction = graph.emit("Gather", ["directions", index], f"{p}direction", axis=0)
    h_in, h_out = (graph.widen(t, f"{p}{t}") for t in (layer.h_in, layer.h_out))
    reference = graph.emit("Where", ["use_directions", direction, h_in], f"{p}reference")
    score = _in_scope(graph, p, _cosine(graph, p, reference, h_out))
    passed = graph.emit("Greater", [score, tau], f"{p}passed")
    staying = graph.emit("Not", [before.exited], f"{p}staying")
    first = graph.emit("And", [passed, staying], f"{p}first_exit")
    this = graph.constant(f"{p}layer", np.array(number, np.int32))
    exited = graph.emit("Or", [before.exited, passed], f"exited.{number}")
    exit_layer = graph.emit("Where", [first, this, before.exit_layer], f"exit_layer.{number}")
    if number == num_layers:
        return Flags(exited, exit_layer)
    following = graph.constant(f"{p}next", np.array([number]))
    unpinned = graph.emit("Gather", ["unpinned", following], f"{p}unpinned", axis=0)
    use_river = graph.emit("And", [exited, unpinned], f"use_river.{number + 1}")
    last = graph.constant(f"{p}last_axis", np.array([-1]))
    all_river, any_river = (_reduced(graph, p, use_river, kind) for kind in ("Min", "Max"))
    return Flags(
        exited,
        exit_layer,
        graph.emit("Unsqueeze", [use_river, last], f"{p}river_rows"),
        all_river,
        graph.emit("Xor", [all_river, any_river], f"{p}mixed"),
    )


def _reduced(graph: TypedScope, p: str, flags: str, kind: str) -> str:
    """All (Min) or any (Max) of the flags, bool []. TensorRT reduces numbers only."""
    number = graph.cast(flags, f"{p}{kind}/flags", INT32)
    axes = graph.constant(f"{p}axes", np.array([0, 1]))
    reduced = graph.emit(f"Reduce{kind}", [number, axes], f"{p}{kind}", keepdims=0)
    zero = graph.constant(f"{p}zero", np.array(0, np.int32))
    return graph.emit("Greater", [reduced, zero], f"{p}{kind}/river")


def _cosine(graph: TypedScope, p: str, a: str, b: str) -> str:
    last = graph.constant(f"{p}last_axis", np.array([-1]))

    def dot(x: str, y: str, name: str) -> str:
        product = graph.emit("Mul", [x, y], f"{p}{name}/product")
        return graph.emit("ReduceSum", [product, last], f"{p}{name}", keepdims=0)

    squares = graph.emit("Mul", [dot(a, a, "aa"), dot(b, b, "bb")], f"{p}squares")
    norms = graph.emit("Sqrt", [squares], f"{p}norms")
    least = graph.constant(f"{p}least", np.array(LEAST_NORM, np.float32))
    return graph.emit(
        "Div", [dot(a, b, "ab"), graph.emit("Max", [norms, least], f"{p}safe")], f"{p}token_score"
    )


def _in_scope(graph: TypedScope, p: str, score: str) -> str:
    """The token's own score, its sequence's smallest, or the batch's smallest."""
    seq = graph.constant(f"{p}seq_axis", np.array([1]))
    both = graph.constant(f"{p}axes", np.array([0, 1]))
    sequence = graph.emit("ReduceMin", [score, seq], f"{p}sequence_score", keepdims=1)
    batch = graph.emit("ReduceMin", [score, both], f"{p}batch_score", keepdims=1)
    joint = graph.emit("Where", ["scope_is_batch", batch, sequence], f"{p}joint")
    return graph.emit("Where", ["scope_is_token", score, joint], f"{p}score")
