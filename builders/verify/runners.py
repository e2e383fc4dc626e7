"""What is compared, as polygraphy runners: each takes token ids and a tau, and gives logits,
exit layers and, where it can, the hidden state after each layer."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

import river_trt
from builders.decoder import RiverDecoder
from builders.reference import teacher_forced
from river_trt.backends.base import Step
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.spec import ExitPolicy, cache_names

Outputs = dict[str, np.ndarray]
# (input_ids [1, tokens] int64, policy) to outputs by name.
Pass = Callable[[np.ndarray, ExitPolicy], Outputs]


class PassRunner(BaseRunner):  # type: ignore[misc]  # polygraphy has no types
    """A pass over a text as a polygraphy runner."""

    def __init__(self, name: str, run: Pass, num_layers: int) -> None:
        super().__init__(name)
        self._run, self._num_layers = run, num_layers

    def get_input_metadata_impl(self) -> Any:
        metadata = TensorMetadata()
        metadata.add("input_ids", np.dtype(np.int64), (1, -1))
        return metadata.add("tau", np.dtype(np.float32), (self._num_layers,))

    def activate_impl(self) -> None:
        """Nothing to open: what runs was opened before."""

    def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> Outputs:
        policy = ExitPolicy(feed_dict["tau"], np.zeros(self._num_layers, np.bool_))
        started = time.perf_counter()
        outputs = self._run(feed_dict["input_ids"], policy)
        self.inference_time = time.perf_counter() - started
        return outputs


def torch_pass(decoder: RiverDecoder, layers: bool) -> Pass:
    """The reference; hidden states through hooks on its layers."""

    def run(ids: np.ndarray, policy: ExitPolicy) -> Outputs:
        hidden: Outputs = {}
        hooks = []
        for number, layer in enumerate(decoder.layers if layers else [], start=1):

            def keep(
                module: torch.nn.Module, inputs: Any, outputs: Any, name: str = f"h.{number}"
            ) -> None:
                hidden[name] = outputs[0].numpy()

            hooks.append(layer.register_forward_hook(keep))
        try:
            logits, exit_layer = teacher_forced(decoder, ids, policy)
        finally:
            for hook in hooks:
                hook.remove()
        return {"logits": logits, "exit_layer": exit_layer} | hidden

    return run


def engine_pass(engine: river_trt.Engine) -> Pass:
    """An engine directory of any backend, loaded."""

    def run(ids: np.ndarray, policy: ExitPolicy) -> Outputs:
        logits, exit_layer = engine.forward(ids, policy)
        return {"logits": logits, "exit_layer": exit_layer}

    return run


def graph_pass(graph: Path, num_layers: int, cache_shape: tuple[int, ...], layers: bool) -> Pass:
    """TensorRT's portable graph, in float32, run by ONNX Runtime."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    # As it is: its optimiser would round the inputs of 4-bit products to 8 bits.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    hidden_size = next(i.shape[1] for i in session.get_inputs() if i.name == "directions")
    names = ["logits", "exit_layer"]
    names += [f"h.{number}" for number in range(1, num_layers + 1)] if layers else []

    def run(ids: np.ndarray, policy: ExitPolicy) -> Outputs:
        feeds = Step.whole(ids, policy).inputs | PolicyBuffers.of(policy, hidden_size).arrays
        feeds |= {name: np.zeros(cache_shape, np.float32) for name in cache_names(num_layers)}
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run
