"""The program of a device written down as calls: what river_trt/backends/torch/program.py reads."""

import json
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import fx

from builders.aotinductor.program import DeviceProgram
from river_trt.backends.torch.program import DTYPES, FORMAT, GETITEM, OPERATORS, PREPARING

# Says nothing to the program: memory is the device's.
IGNORED_KWARGS = ("pin_memory", "layout", "device")
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_program(program: DeviceProgram, file: Path) -> None:
    """Write the calls; the weights are beside it, under the names of the program's buffers."""
    graph = program.module.graph
    names = {node: _name(node) for node in graph.nodes}
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    prepared = [node for node in nodes if str(node.target) in PREPARING]
    outputs = graph.output_node().args[0]
    assert isinstance(outputs, tuple)
    document = {
        "format": FORMAT,
        "inputs": [names[node] for node in graph.find_nodes(op="placeholder")],
        "prepare": [_call(node, names) for node in prepared],
        "calls": [_call(node, names) for node in nodes if node not in prepared],
        "outputs": [names[node] for node in outputs if isinstance(node, fx.Node)],
    }
    file.write_text(json.dumps(document, indent=0, allow_nan=False) + "\n", encoding="utf-8")


def _name(node: fx.Node) -> str:
    """A weight's and its linear's module path, an input's name; torch's name of any other value."""
    if node.op in ("get_attr", "placeholder"):
        return str(node.target)
    if str(node.target) in PREPARING:
        (qweight, *_) = node.args
        assert isinstance(qweight, fx.Node)
        return f"{_path(qweight)}.packed"
    for arg in node.args if "linear" in str(node.target) else ():
        if isinstance(arg, fx.Node) and (arg.op == "get_attr" or str(arg.target) in PREPARING):
            return _path(arg) or f"{arg.target}_product"
    return f"%{node.name}"


def _path(weight: fx.Node) -> str:
    """Of the module that has the weight."""
    return _name(weight).rpartition(".")[0]


def _call(node: fx.Node, names: dict[fx.Node, str]) -> dict[str, Any]:
    operator = GETITEM if node.target is getitem else str(node.target)
    assert operator in OPERATORS, f"{operator}: the runtime's list of operators lacks it"
    call = {
        "name": names[node],
        "op": operator,
        "args": [_argument(arg, names) for arg in node.args],
    }
    kwargs = {
        name: _argument(arg, names)
        for name, arg in node.kwargs.items()
        if name not in IGNORED_KWARGS
    }
    return call | ({"kwargs": kwargs} if kwargs else {})


def _argument(arg: Any, names: dict[fx.Node, str]) -> Any:
    if isinstance(arg, fx.Node):
        return {"of": names[arg]}
    if isinstance(arg, torch.dtype):
        return {"dtype": NAMES[arg]}
    if isinstance(arg, list | tuple):
        assert not any(isinstance(item, fx.Node) for item in arg), "lists hold constants alone"
        return [_argument(item, names) for item in arg]
    return arg
