"""Attention on the layer's cache slot in standard operators."""

from collections.abc import Iterable

import ml_dtypes
import numpy as np
from onnx import TensorProto

from builders.graph.program import Operation
from builders.tensorrt.scope import TypedScope

INT64 = int(TensorProto.INT64)


def emit_positions(graph: TypedScope, attentions: Iterable[Operation]) -> None:
    """Once a step: write_indices [batch], positions [batch, seq], a mask for each window.

    past_lengths -- Cast --+-- write_indices
                           +-- + 0..seq-1 -- positions -- slots <= positions -- mask (additive)
    """
    attentions = list(attentions)
    zero, one = (graph.constant(f"int64/{i}", np.array(i)) for i in (0, 1))
    graph.cast("past_lengths", "write_indices", INT64)
    column = graph.constant("column_axis", np.array([1]))
    starts = graph.emit("Unsqueeze", ["write_indices", column], "starts")
    steps = graph.emit("Range", [zero, _size(graph, "input_ids", 1), one], "steps")
    graph.emit("Add", [starts, steps], "positions")
    middle = graph.constant("middle_axes", np.array([1, 3]))
    now = graph.emit("Unsqueeze", ["positions", middle], "now")  # [batch, 1, seq, 1]
    slots = graph.emit("Range", [zero, _size(graph, attentions[0].inputs[3], 2), one], "slots")
    seen = graph.emit("LessOrEqual", [slots, now], "seen")
    for window in sorted({op.attributes["window"] for op in attentions}):
        visible = seen
        if window:
            width = graph.constant(f"window/{window}", np.array(window))
            first = graph.emit("Sub", [now, width], f"first/{window}")
            inside = graph.emit("Greater", [slots, first], f"inside/{window}")
            visible = graph.emit("And", [seen, inside], f"visible/{window}")
        lowest = _lowest(graph)
        nothing = graph.typed("no_bias", 0.0)
        graph.emit("Where", [visible, nothing, lowest], mask_name(window))


def mask_name(window: int) -> str:
    """Added to the scores, [batch, 1, seq, T]. TensorRT's optimiser fails over boolean masks."""
    return f"mask/{window}"


def emit_attention(graph: TypedScope, attention: Operation, head_dim: int) -> None:
    """q -- heads -- (RotaryEmbedding) ----------------------+
    k -- heads -- (RotaryEmbedding) -- TensorScatter(slot) --+-- Attention(mask) -- joined
    v -- heads ----------------------- TensorScatter(slot) --+
    """
    q, k, v, k_cache, v_cache, _, *tables = attention.inputs
    out, k_out, v_out = attention.outputs
    given = attention.attributes
    p = attention.name.rpartition("/")[0] + "/"
    split = graph.constant(f"heads/{head_dim}", np.array([0, 0, -1, head_dim]))

    def heads(tensor: str, name: str) -> str:
        apart = graph.emit("Reshape", [tensor, split], f"{p}{name}/apart")
        return graph.emit("Transpose", [apart], f"{p}{name}", perm=[0, 2, 1, 3])

    queries, keys, values = heads(q, "q"), heads(k, "k"), heads(v, "v")
    if any(tables):
        queries, keys = (_rotate(graph, t, tables) for t in (queries, keys))
    for cache, update, updated in ((k_cache, keys, k_out), (v_cache, values, v_out)):
        name = f"{p}update.{cache}"
        graph.emit("TensorScatter", [cache, update, "write_indices"], updated, axis=2, name=name)
    mask = mask_name(given["window"])
    if given["softcap"]:
        attended = _capped(graph, p, queries, k_out, v_out, mask, given, head_dim)
    else:
        inputs = [queries, k_out, v_out, mask]
        attended = graph.emit("Attention", inputs, f"{p}attended", scale=float(given["scale"]))
    rows = graph.emit("Transpose", [attended], f"{p}rows", perm=[0, 2, 1, 3])
    joined = graph.constant("joined_heads", np.array([0, 0, -1]))
    graph.emit("Reshape", [rows, joined], out, name=attention.name)


def _rotate(graph: TypedScope, heads: str, tables: list[str]) -> str:
    """heads [batch, heads, seq, D] turned by their positions; past the table's width they pass."""
    for table in tables:
        graph.read(table)
    rotary_dim = 2 * graph.program.weight_shapes[tables[0]][1]
    return graph.emit(
        "RotaryEmbedding",
        [heads, *tables, "positions"],
        f"{heads}/rotated",
        rotary_embedding_dim=rotary_dim,
    )


def _capped(
    graph: TypedScope, p: str, q: str, k: str, v: str, mask: str, given: dict[str, float], dim: int
) -> str:
    """Attention with soft-capped scores, spelled out: TensorRT's own has no soft cap.

    q by groups of heads that share a key -- MatMul K -- cap tanh(score / cap) -- + mask -- Softmax
    -- MatMul V -- heads
    """
    kv_heads, cap = int(given["num_kv_heads"]), float(given["softcap"])
    num_heads = int(given["num_heads"])
    by_group = graph.constant(
        f"{p}by_group", np.array([0, kv_heads, num_heads // kv_heads, -1, dim])
    )
    flat = graph.constant(f"{p}flat", np.array([0, num_heads, -1, dim]))
    second = graph.constant(f"{p}second", np.array([2]))
    queries = graph.emit("Reshape", [q, by_group], f"{p}queries")
    keys, values = (graph.emit("Unsqueeze", [t, second], f"{p}shared.{t}") for t in (k, v))
    across = graph.emit("Transpose", [keys], f"{p}across", perm=[0, 1, 2, 4, 3])
    scores = graph.emit("MatMul", [queries, across], f"{p}scores")
    inner = graph.typed(f"{p}inner", float(given["scale"]) / cap)
    bent = graph.emit("Tanh", [graph.emit("Mul", [scores, inner], f"{p}small")], f"{p}bent")
    capped = graph.emit("Mul", [bent, graph.typed(f"{p}cap", cap)], f"{p}capped")
    bias = graph.emit("Unsqueeze", [mask, second], f"{p}bias")
    masked = graph.emit("Add", [capped, bias], f"{p}masked")
    weights = graph.emit("Softmax", [masked], f"{p}weights", axis=-1)
    mixed = graph.emit("MatMul", [weights, values], f"{p}mixed")
    return graph.emit("Reshape", [mixed, flat], f"{p}attended")


def _size(graph: TypedScope, tensor: str, axis: int) -> str:
    """One dimension as int64 []."""
    shape = graph.emit("Shape", [tensor], f"{tensor}/size_{axis}", start=axis, end=axis + 1)
    return graph.emit("Squeeze", [shape], f"{tensor}/length_{axis}")


def _lowest(graph: TypedScope) -> str:
    limits = ml_dtypes.finfo(graph.dtype)  # type: ignore[no-untyped-call]
    return graph.typed("hidden", float(limits.min))
