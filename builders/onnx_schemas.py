"""ONNX schemas of the river dialect (domain river_trt) and the torch-to-ONNX translations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import defs
from onnxscript import values

DOMAIN = "river_trt"
VERSION = 1
_opset = values.Opset(DOMAIN, VERSION)

_Param = defs.OpSchema.FormalParameter
_OPTIONAL = defs.OpSchema.FormalParameterOption.Optional
_FLOATS = ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "activations")


def _schema(
    name: str,
    doc: str,
    inputs: Sequence[tuple[str, str] | tuple[str, str, Any]],
    outputs: Sequence[tuple[str, str]],
    attributes: dict[str, Any],
) -> defs.OpSchema:
    return defs.OpSchema(
        name,
        DOMAIN,
        VERSION,
        doc=doc,
        inputs=[
            _Param(spec[0], spec[1], param_option=spec[2]) if len(spec) == 3 else _Param(*spec)
            for spec in inputs
        ],
        outputs=[_Param(output, kind) for output, kind in outputs],
        type_constraints=[_FLOATS],
        attributes=[
            defs.OpSchema.Attribute(attribute, kind, required=True)
            for attribute, kind in attributes.items()
        ],
    )


SCHEMAS = (
    _schema(
        "Linear",
        "y = use_river ? river(x) : backbone(x), for each row.",
        [
            ("x", "T"),
            ("use_river", "tensor(bool)"),
            ("weight", "T"),
            ("qweight", "tensor(uint8)"),
            ("scales", "T"),
            ("zero_points", "tensor(uint8)", _OPTIONAL),
            ("pre_scale", "T", _OPTIONAL),
            ("bias", "T", _OPTIONAL),
        ],
        [("y", "T")],
        {},
    ),
    _schema(
        "Attention",
        "Rotary embedding, append to the cache, causal grouped-query attention over it or over a "
        "window (0: over all), scores with a soft cap (0: without).",
        [
            ("q", "T"),
            ("k", "T"),
            ("v", "T"),
            ("k_cache", "T"),
            ("v_cache", "T"),
            ("past_lengths", "tensor(int32)"),
            ("rotary_cos", "T", _OPTIONAL),
            ("rotary_sin", "T", _OPTIONAL),
        ],
        [("out", "T"), ("k_cache_out", "T"), ("v_cache_out", "T")],
        {
            "num_heads": defs.OpSchema.AttrType.INT,
            "num_kv_heads": defs.OpSchema.AttrType.INT,
            "scale": defs.OpSchema.AttrType.FLOAT,
            "window": defs.OpSchema.AttrType.INT,
            "softcap": defs.OpSchema.AttrType.FLOAT,
        },
    ),
    _schema(
        "Gate",
        "Score the block's output against a reference; a token exits when it passes tau.",
        [
            ("h_in", "T"),
            ("h_out", "T"),
            ("direction", "tensor(float)"),
            ("use_direction", "tensor(bool)"),
            ("exited", "tensor(bool)"),
            ("exit_layer", "tensor(int32)"),
            ("tau", "tensor(float)"),
            ("scope", "tensor(int32)"),
        ],
        [("exited_out", "tensor(bool)"), ("exit_layer_out", "tensor(int32)")],
        {"layer": defs.OpSchema.AttrType.INT},
    ),
)


def register_schemas() -> None:
    """Make onnx (checker, shape inference) know the dialect. Safe to call twice."""
    for schema in SCHEMAS:
        if not defs.has(schema.name, DOMAIN):
            defs.register_schema(schema)


def translation_table() -> dict[Any, Callable[..., Any]]:
    """What torch.onnx.export needs to know of the dialect's operators."""

    def linear(*inputs: Any) -> Any:
        return _opset.Linear(*inputs)

    def attention(*inputs: Any) -> Any:
        *tensors, num_heads, num_kv_heads, scale, window, softcap = inputs
        return _opset.Attention(
            *tensors,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            scale=scale,
            window=window,
            softcap=softcap,
        )

    def gate(*inputs: Any) -> Any:
        *tensors, layer = inputs
        return _opset.Gate(*tensors, layer=layer)

    ops = torch.ops.river_trt
    return {
        ops.linear.default: linear,
        ops.attention.default: attention,
        ops.gate.default: gate,
    }
