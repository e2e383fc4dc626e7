"""RiverLinear and RiverGate by their contract in plugins/tensorrt, and the module `tensorrt`.

Field names, and the names, types and order of the inputs, are compared with the C++ sources.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorrt_rtx as trt
import torch

from builders import dialect  # noqa: F401 (registers torch.ops.river_trt)

SOURCES = Path(__file__).parents[4] / "plugins" / "tensorrt"
ACTIVATION, INT32, HALF, FLOAT = "kActivation", "kInt32", "kHalf", "kFloat"
TYPES = {
    ACTIVATION: (trt.float16, trt.bfloat16),
    INT32: (trt.int32,),
    HALF: (trt.float16,),
    FLOAT: (trt.float32,),
}
Output = tuple[Any, tuple[int, ...], torch.Tensor]  # type, shape, value


@dataclass(frozen=True, slots=True)
class Plugin:
    kind: str
    name: str
    fields: dict[str, Any]

    def evaluate(self, tensors: Sequence[Any], values: Sequence[torch.Tensor]) -> list[Output]:
        signature = SIGNATURES[self.kind](self.fields)
        names = [name for name, _ in signature]
        assert len(names) == len(tensors), f"{self.name}: {len(tensors)} inputs, not {names}"
        activation = tensors[0].dtype
        for (name, rule), tensor in zip(signature, tensors, strict=True):
            allowed = (activation,) if rule == ACTIVATION else TYPES[rule]
            assert tensor.dtype in allowed, f"{self.name}: {name} is {tensor.dtype}"
        assert activation in TYPES[ACTIVATION]
        shapes = {name: tuple(tensor.shape) for name, tensor in zip(names, tensors, strict=True)}
        given = dict(zip(names, values, strict=True))
        outputs = EVALUATE[self.kind](self, shapes, given)
        return [
            (activation if rule == ACTIVATION else trt.int32, shape, value)
            for rule, shape, value in outputs
        ]


def linear_signature(fields: dict[str, Any]) -> list[tuple[str, str]]:
    banks = fields.get("banks", 0)
    parts = [
        ("x", ACTIVATION, True),
        ("use_river", INT32, banks == 0),
        ("weight", ACTIVATION, banks != 2),
        ("qweight", INT32, banks != 1),
        ("scales", HALF, banks != 1),
        ("zero_points", INT32, fields.get("zero_points", 0)),
        ("pre_scale", HALF, fields.get("pre_scale", 0)),
        ("bias", ACTIVATION, fields.get("bias", 0)),
        ("norm_weight", ACTIVATION, fields.get("norm", 0)),
        ("residual", ACTIVATION, fields.get("residual", 0)),
    ]
    return [(name, rule) for name, rule, wanted in parts if wanted]


def gate_signature(fields: dict[str, Any]) -> list[tuple[str, str]]:
    first, last = fields["layer"] == 1, fields["layer"] == fields["num_layers"]
    parts = [
        ("h_in", ACTIVATION, True),
        ("delta", ACTIVATION, True),
        ("residual", ACTIVATION, fields.get("residual", 0)),
        ("directions", FLOAT, fields.get("direction", 0)),
        ("use_directions", INT32, fields.get("direction", 0)),
        ("tau", FLOAT, True),
        ("pinned", INT32, not last),
        ("scope", INT32, True),
        ("exited", INT32, not first),
        ("exit_layer", INT32, not first),
    ]
    return [(name, rule) for name, rule, wanted in parts if wanted]


def evaluate_linear(plugin: Plugin, shapes, given) -> list[tuple[str, tuple[int, ...], Any]]:
    fields, where = plugin.fields, plugin.name
    batch, seq, k = shapes["x"]
    n, columns = shapes["weight"]
    assert columns == k and k % 8 == 0, f"{where}: weight {shapes['weight']} for {k} inputs"
    assert not (fields.get("silu_mul") and fields.get("residual")), where
    if "qweight" in shapes:
        groups = -(-k // fields["group_size"])
        expected = {
            "use_river": (batch, seq),
            "qweight": (n, groups * fields["group_size"] // 8),
            "scales": (n, groups),
            "zero_points": (-(-n * groups // 4),),
            "pre_scale": (k,),
        }
    else:
        assert not {"group_size", "zero_points", "pre_scale"} & fields.keys(), where
        expected = {}
    expected |= {"bias": (n,), "norm_weight": (k,), "residual": (batch, seq, n)}
    for name, shape in expected.items():
        if name in shapes:
            assert shapes[name] == shape, f"{where}: {name} is {shapes[name]}, not {shape}"
    x = given["x"]
    if "norm_weight" in given:
        x = torch.nn.functional.rms_norm(x, (k,), given["norm_weight"], fields["norm_eps"])
    if "qweight" in given:
        groups = given["scales"].shape[1]
        zero_points = given.get("zero_points")
        if zero_points is not None:
            zero_points = zero_points.view(torch.uint8)[: n * groups].view(n, groups)
        flags = given["use_river"]
        assert set(flags.unique().tolist()) <= {0, 1}
        y = torch.ops.river_trt.linear(
            x,
            flags.bool(),
            given["weight"],
            given["qweight"].view(torch.uint8).view(n, groups, -1),
            given["scales"],
            zero_points,
            given.get("pre_scale"),
            given.get("bias"),
        )
    else:
        y = torch.nn.functional.linear(x, given["weight"], given.get("bias"))
    if fields.get("silu_mul"):
        first, second = y.chunk(2, -1)
        y = torch.nn.functional.silu(first) * second
    if "residual" in given:
        y = y + given["residual"]
    return [(ACTIVATION, (batch, seq, y.shape[-1]), y)]


def evaluate_gate(plugin: Plugin, shapes, given) -> list[tuple[str, tuple[int, ...], Any]]:
    fields, layer = plugin.fields, plugin.fields["layer"]
    layers, h_shape = fields["num_layers"], shapes["h_in"]
    assert 1 <= layer <= layers and h_shape[2] % 8 == 0
    batch, seq, hidden = h_shape
    expected = {
        "delta": h_shape,
        "residual": h_shape,
        "directions": (layers, hidden),
        "use_directions": (1,),
        "tau": (layers,),
        "pinned": (layers,),
        "scope": (1,),
        "exited": (batch, seq),
        "exit_layer": (batch, seq),
    }
    for name, shape in shapes.items():
        if name != "h_in":
            assert shape == expected[name], f"{plugin.name}: {name} is {shape}"
    h_out = given["residual"] + given["delta"] if "residual" in given else given["delta"]
    tokens = given["h_in"].shape[:2]
    exited = given.get("exited", torch.zeros(tokens, dtype=torch.int32))
    exit_layer = given.get("exit_layer", torch.full(tokens, layers, dtype=torch.int32))
    directions = given.get("directions", torch.zeros(layers, hidden))
    exited, exit_layer = torch.ops.river_trt.gate(
        given["h_in"],
        h_out,
        directions[layer - 1],
        given.get("use_directions", torch.zeros(1)).bool().reshape(()),
        exited.bool(),
        exit_layer,
        given["tau"][layer - 1],
        given["scope"].reshape(()),
        layer,
    )
    flags = exited.to(torch.int32)
    outputs = [(ACTIVATION, h_shape, h_out)] if "residual" in given else []
    outputs += [(INT32, (batch, seq), flags), (INT32, (batch, seq), exit_layer)]
    if layer < layers:
        outputs.append((INT32, (batch, seq), flags * (1 - given["pinned"][layer])))
    return outputs


SIGNATURES = {"RiverLinear": linear_signature, "RiverGate": gate_signature}
EVALUATE = {"RiverLinear": evaluate_linear, "RiverGate": evaluate_gate}
FILES = {"RiverLinear": "linear_plugin.cpp", "RiverGate": "gate_plugin.cpp"}


def source_fields(kind: str) -> dict[str, str]:
    """Field names of the C++ plugin, with their kinds."""
    text = (SOURCES / FILES[kind]).read_text()
    text = text[text.index("::attributes()") : text.index("::check_attributes()")]
    return dict(re.findall(r'\{"(\w+)", (?:Attribute::Kind::)?(k\w+),', text))


def source_inputs(kind: str) -> list[tuple[str, str]]:
    """The C++ plugin's inputs in order: names and type rules."""
    text = (SOURCES / FILES[kind]).read_text()
    text = text[text.index("::signature() const\n{") : text.index("::check_shapes(")]
    lines = [line for line in text.splitlines() if "tensors.outputs" not in line]
    rule = r'(?:inputs\{\{|add\([^"]*)"(\w+)", TypeRule::(k\w+)'
    return re.findall(rule, "\n".join(lines))


class PluginField:
    def __init__(self, name: str, data: np.ndarray, type) -> None:  # noqa: A002
        assert isinstance(data, np.ndarray) and data.size == 1
        assert (data.dtype, type) in (
            (np.int32, trt.PluginFieldType.INT32),
            (np.float32, trt.PluginFieldType.FLOAT32),
        )
        self.name, self.data = name, data


class PluginFieldCollection(list):
    pass


@dataclass(frozen=True, slots=True)
class Creator:
    kind: str

    def create_plugin(self, name: str, collection, phase):
        assert phase == trt.TensorRTPhase.BUILD
        kinds = {np.dtype(np.int32): "kInt", np.dtype(np.float32): "kFloat"}
        known = source_fields(self.kind)
        for field in collection:
            if known.get(field.name) != kinds[field.data.dtype]:
                return None  # the plugin logs why
        fields = {field.name: field.data.item() for field in collection}
        assert len(fields) == len(collection), "a field given twice"
        return Plugin(self.kind, name, fields)


class Registry:
    def __init__(self) -> None:
        self.libraries: list[str] = []

    def get_creator(self, name: str, version: str, namespace: str = ""):
        found = (version, namespace) == ("1", "river_trt") and name in SIGNATURES
        return Creator(name) if found and self.libraries else None

    def load_library(self, path: str) -> object | None:
        """A handle; None, and no exception, for what cannot be loaded (as the real one)."""
        if "broken" in path:
            return None
        self.libraries.append(path)
        return object()


def tensorrt_module() -> ModuleType:
    """`tensorrt`: TensorRT-RTX with the double's plugin registry."""
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)  # torch asks for it
    registry = Registry()
    module.__dict__.update({name: getattr(trt, name) for name in dir(trt) if name[0] != "_"})
    module.__version__ = "10.14.1.48"
    module.PluginField, module.PluginFieldCollection = PluginField, PluginFieldCollection
    module.get_plugin_registry = lambda: registry
    return module
