"""Graphs for TensorRT of tiny models, and their steps on this CPU beside the torch reference."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from builders.calibration_text import read_calibration
from builders.decoder import RiverDecoder, RiverFormat
from builders.families import ModelConfig
from builders.job import Banks, BuildJob
from builders.quantisers.integer import quantise_integer
from builders.recipes import Recipe, load_recipe
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from builders.tensorrt import graph_file
from builders.tensorrt.options import TensorRTOptions
from builders.tensorrt.scope import DTYPES
from builders.tracing import to_onnx, trace
from river_trt.backends.base import Step
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.spec import ExitPolicy, GateScope, cache_names
from tests.builders.tensorrt.plugin_ops import PLUGINS

SLOTS = 64  # of the cache, and the longest text
Run = Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A graph that runs on the CPU, and the reference of the same model and river."""

    run: Run
    reference: RiverDecoder
    model: onnx.ModelProto
    flags: type  # of pinned and use_directions
    dtype: np.dtype

    @property
    def num_layers(self) -> int:
        return self.reference.config.num_layers

    def step(
        self,
        ids: np.ndarray,
        policy: ExitPolicy,
        scope: str = "token",
        past: np.ndarray | None = None,
        caches: list[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Logits of all positions, exit layers, caches."""
        config = self.reference.config
        empty = np.zeros((len(ids), config.num_kv_heads, SLOTS, config.head_dim), self.dtype)
        past = np.zeros(len(ids), np.int32) if past is None else past
        feeds = Step(ids, 0, past, np.arange(ids.shape[1]), policy).inputs
        feeds |= PolicyBuffers.of(policy, config.hidden_size, GateScope.named(scope)).arrays
        for name in ("pinned", "use_directions"):
            feeds[name] = feeds[name].astype(self.flags)
        names = cache_names(self.num_layers)
        feeds |= dict(zip(names, caches or [empty] * len(names), strict=True))
        known = {value.name for value in self.model.graph.input}  # one bank alone has no policy
        feeds = {name: value for name, value in feeds.items() if name in known}
        outputs = ["logits", "exit_layer", *cache_names(self.num_layers, "_out")]
        logits, exit_layer, *updated = self.run(outputs, feeds)
        return logits, exit_layer, updated

    def assert_equal(
        self, ids: np.ndarray, policy: ExitPolicy, scope: str = "token", tolerance: float = 2e-3
    ) -> np.ndarray:
        logits, exit_layer = teacher_forced(self.reference, ids, policy, scope)
        found, found_layer, _ = self.step(ids, policy, scope)
        np.testing.assert_array_equal(found_layer, exit_layer)
        np.testing.assert_allclose(found, logits, atol=tolerance, rtol=0)
        return exit_layer


def recipe_of(
    mode: str, quantiser: str = "rtn", symmetric: bool = False, lm_head_bits: int | None = None
) -> Recipe:
    changes = {
        "lm_head_bits": lm_head_bits,
        "quantiser": quantiser,
        "group_size": 32,
        "symmetric": symmetric,
    }
    return load_recipe("a100", changes | {"max_seq_len": SLOTS, "network": mode})


def write(
    model: Path,
    out: Path,
    mode: str,
    recipe: Recipe,
    dtype: str = "float32",
    attention: str = "plugin",
    banks: Banks = "both",
) -> Subject:
    """Write the graph of a saved model, in float32 unless told: closer to the reference."""
    out.mkdir()
    source = ModelSource.open(str(model))
    layers = source.config.num_layers
    job = BuildJob(source, recipe, ExitPolicy.full_depth(layers), out, None, _silent, banks)
    options = typed(recipe.options_as(TensorRTOptions), dtype, attention)
    with shared_traces():
        graph_file.write_graph(job, options, out)
    quantiser = job.quantiser()
    river = river_format(source.config, quantiser, recipe.group_size, recipe.symmetric)
    ids = read_calibration(out / "none", source.config, None).token_ids
    head = None
    if options.lm_head_bits is not None:
        quantised = quantise_integer(source.shared().lm_head, 4, recipe.group_size)
        if mode == "plugin":
            quantised = replace(quantised, scales=quantised.scales.half().float())
        head = quantised.dequantise(source.config.hidden_size)
    reference = load_decoder(source, quantiser, river, SLOTS, ids, head)
    graph = onnx.load(out / graph_file.GRAPH_FILE)
    if mode == "portable":
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        # Unchanged: its optimiser rounds the inputs of 4-bit products to 8 bits.
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        run: Run = ort.InferenceSession(out / graph_file.GRAPH_FILE, settings).run
        return Subject(run, reference, graph, np.bool_, DTYPES[dtype])
    for layer in reference.layers:
        for linear in layer.linears().values():  # the plugins' scales are float16
            linear.scales = linear.scales.half().float()
            if linear.pre_scale is not None:
                linear.pre_scale = linear.pre_scale.half().float()
    run = ReferenceEvaluator(graph, new_ops=PLUGINS).run
    return Subject(run, reference, graph, np.int32, DTYPES[dtype])


def _silent(stage: str, done: int, total: int) -> None:
    pass


@contextmanager
def shared_traces() -> Iterator[None]:
    """Both modes start from the same program, and tracing takes most of a graph's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_file, "trace", lambda *key: key)
        patch.setattr(graph_file, "to_onnx", lambda key, _: _traced(*key))
        yield


@functools.cache
def _traced(config: ModelConfig, river: RiverFormat, max_seq_len: int) -> onnx_ir.Model:
    return to_onnx(trace(config, river, max_seq_len), config.num_layers)


def typed(options: TensorRTOptions, dtype: str, attention: str) -> TensorRTOptions:
    """Any dtype in either mode: plugins take no float32, but their graph does."""
    changed = replace(options, attention=attention)
    for name in ("dtype", "kv_cache"):
        object.__setattr__(changed, name, dtype)
    return changed
