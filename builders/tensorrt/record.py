"""The record of a parsed network: see river_trt/layer_record.py."""

import re
from collections import Counter
from typing import Any

from builders.tensorrt.versions import plugin_name
from river_trt.layer_record import CacheSlot, LayerRecord, NetworkLayer

BITS = {"FLOAT": 32, "HALF": 16, "BF16": 16, "INT64": 64, "INT32": 32, "INT8": 8, "INT4": 4}
BITS |= {"BOOL": 8, "UINT8": 8, "FP8": 8}
ONNX_NAME = re.compile(r"\[ONNX Layer: ([^|\]]+)")
LINEAR = re.compile(r"layers\.\d+\..+_proj(/(backbone|river|mixed))?$|lm_head$")
PARTS = {"ATTENTION_OUTPUT": "attentions", "CONDITION": "conditionals"}


def record_network(
    trt: Any, network: Any, library: str, mode: str, compute_capability: str
) -> LayerRecord:
    """Read every layer; the network must have been parsed from a graph of this project."""
    plugins: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    weight_bytes: Counter[str] = Counter()
    layers, gates, linears = [], set(), set()
    producers: dict[str, Any] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind = str(layer.type.name)
        onnx_name = _onnx_name(layer)
        output = layer.get_output(0) if layer.num_outputs else None
        precision = str(output.dtype.name) if output is not None else ""
        size = _num_bytes(output) if kind == "CONSTANT" else 0
        if kind == "CONSTANT":
            weight_bytes[precision] += size
        if kind == "PLUGIN_V3":
            kind = plugin_name(trt, layer)
            plugins[kind] += 1
        if LINEAR.match(onnx_name) and kind != "CONSTANT":
            linears.add(onnx_name)
        parts[PARTS.get(kind, "")] += 1
        for j in range(layer.num_outputs):
            name = layer.get_output(j).name
            producers[name] = layer
            if re.fullmatch(r"exit_layer\.[1-9]\d*", name):
                gates.add(name)
        layers.append(NetworkLayer(layer.name, kind, precision, size))
    return LayerRecord(
        library=library,
        mode=mode,
        compute_capability=compute_capability,
        plugins=dict(plugins),
        gates=len(gates),
        linears=len(linears),
        attentions=parts["attentions"] or plugins["RiverAttention"],
        conditionals=parts["conditionals"],
        cache_slots=_cache_slots(network, producers),
        weight_bytes=dict(weight_bytes),
        layers=tuple(layers),
    )


def _cache_slots(network: Any, producers: dict[str, Any]) -> tuple[CacheSlot, ...]:
    slots = []
    for i in range(network.num_outputs):
        name = str(network.get_output(i).name)
        if "_cache_out." in name:
            layer = producers[name]
            inside = "(If)" in (layer.metadata or "")
            slots.append(CacheSlot(name.replace("_out", ""), str(layer.name), inside))
    return tuple(slots)


def _onnx_name(layer: Any) -> str:
    match = ONNX_NAME.match(layer.metadata or "")
    return match[1].strip() if match else ""


def _num_bytes(tensor: Any) -> int:
    elements = 1
    for size in tensor.shape:
        elements *= int(size)
    return elements * BITS[tensor.dtype.name] // 8
