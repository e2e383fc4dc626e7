"""The network under construction: a real TensorRT-RTX network, and beside it values in torch.

Every operation of the double adds a TensorRT layer, so that TensorRT infers types and shapes, and
computes the same on small inputs, so that the whole network's result can be compared. TensorRT-RTX
has no add_plugin*: a plugin's outputs become inputs of its network.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorrt_rtx as trt
import torch

KINDS = {
    trt.float16: torch.float32,  # values are computed in float32, whatever the network's type
    trt.bfloat16: torch.float32,
    trt.float32: torch.float32,
    trt.int32: torch.int32,
    trt.int64: torch.int64,
    trt.bool: torch.bool,
}


class Logger(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity, message) -> None:
        # Without a driver the builder complains once; no network of ours can cause it.
        if severity <= trt.ILogger.Severity.ERROR and "Cuda" not in message:
            self.errors.append(message)


LOGGER = Logger()
BUILDER = trt.Builder(LOGGER)


@dataclass(frozen=True, slots=True)
class PluginConfig:
    gpt_attention_plugin: str | None = "float16"
    remove_input_padding: bool = True
    paged_kv_cache: bool = True


@dataclass(frozen=True, slots=True)
class Event:
    """A plugin layer, in the order of construction."""

    kind: str
    name: str
    fields: dict[str, Any]
    inputs: tuple[str, ...]  # names of TensorRT tensors
    outputs: tuple[str, ...]


@dataclass
class Network:
    """What default_net() returns."""

    plugin_config: PluginConfig = field(default_factory=PluginConfig)
    caches: dict[int, Any] = field(default_factory=dict)  # of gpt_attention, by layer_idx
    exchange: Callable[[torch.Tensor], list[torch.Tensor]] | None = None  # with the other ranks
    events: list[Event] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)  # Tensor by name
    values: dict[str, torch.Tensor] = field(default_factory=dict)  # by name of a TensorRT tensor
    constants: list[np.ndarray] = field(default_factory=list)  # TensorRT keeps pointers only

    def __post_init__(self) -> None:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.definition = BUILDER.create_network(flags)
        self.trt_network = TrtNetwork(self)

    def placeholder(self, kind: str, dtype, shape, value: torch.Tensor):
        """An input of TensorRT's network in place of what a plugin computes."""
        tensor = self.definition.add_input(f"{kind}.{len(self.values)}", dtype, tuple(shape))
        self.values[tensor.name] = value
        return tensor


class TrtNetwork:
    """default_trtnet(): the TensorRT network, with the one method that TensorRT-RTX lacks."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network.definition, name)

    def add_plugin_v3(self, inputs, shape_inputs, plugin):
        assert shape_inputs == []
        network = self._network
        outputs = plugin.evaluate(inputs, [network.values[tensor.name] for tensor in inputs])
        placed = [network.placeholder(plugin.kind, *output) for output in outputs]
        network.events.append(
            Event(
                plugin.kind,
                plugin.name,
                plugin.fields,
                tuple(tensor.name for tensor in inputs),
                tuple(tensor.name for tensor in placed),
            )
        )
        return PluginLayer(placed)


@dataclass(frozen=True, slots=True)
class PluginLayer:
    outputs: list[Any]

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_output(self, index: int):
        return self.outputs[index]


_CURRENT = threading.local()  # ranks are threads


@contextmanager
def net_guard(network: Network) -> Iterator[Network]:
    _CURRENT.network = network
    try:
        yield network
    finally:
        del _CURRENT.network


def default_net() -> Network:
    return _CURRENT.network


def default_trtnet() -> TrtNetwork:
    return default_net().trt_network
