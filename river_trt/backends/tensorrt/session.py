"""The Session of a TensorRT engine: one cache, one block of inputs, one of outputs, one stream."""

import weakref
from typing import Any

import numpy as np

from river_trt.backends.base import SessionOptions, Step, StepOutput
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.backends.tensorrt.memory import Block, CachePlan
from river_trt.backends.tensorrt.opening import OpenEngine
from river_trt.backends.tensorrt.plan import EngineSpec, StepShape, TensorSpec
from river_trt.backends.tensorrt.runner import Runner
from river_trt.errors import EngineError
from river_trt.manifest import Manifest
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS, cache_names

# A step of so few tokens is a decode step, worth a CUDA graph of its own.
CAPTURED_TOKENS = 16
# Left free beside streamed weights, in bytes: for scratch memory and what else runs.
STREAMING_RESERVE = 1 << 30
# Policy inputs that travel with each step; the directions are large and seldom change.
STAGED = tuple(name for name in POLICY_INPUTS if name != "directions")


class TensorRTSession:
    """Everything is allocated when it opens; a step copies in, runs, copies out, and waits."""

    def __init__(self, opened: OpenEngine, manifest: Manifest, options: SessionOptions) -> None:
        shape = manifest.model.shape
        self._trt, self._cuda, self._opened = opened.trt, opened.cuda, opened
        cuda = opened.cuda
        self.spec = EngineSpec.read(opened.engine, shape.num_layers)
        self.spec.check_decode_batch(options.max_batch_size)
        slots = self.spec.cache_slots(options.cache_length)
        rows = options.max_batch_size + options.spare_rows
        self.cache = CachePlan.of(self.spec, shape, rows, slots)
        steps = [profile.most for profile in self.spec.profiles]
        tensors = self.spec.tensors
        policy_inputs = STAGED if self.spec.gated else ()
        staged = [tensors[name] for name in (*STEP_INPUTS, *policy_inputs)]
        self._inputs = Block.of(staged, steps)
        self._outputs = Block.of([tensors["exit_layer"], tensors["logits"]], steps)
        self._stream = cuda.stream()
        self._host_in = cuda.page_locked(self._inputs.num_bytes)
        self._host_out = cuda.page_locked(self._outputs.num_bytes)
        self._device_in = cuda.allocate(self._inputs.num_bytes, "a step's inputs")
        self._device_out = cuda.allocate(self._outputs.num_bytes, "a step's outputs")
        self._device_cache = cuda.allocate(self.cache.num_bytes, "the KV cache")
        cuda.clear(self._device_cache, self.cache.num_bytes, self._stream)
        streams = stream_weights(opened.engine, cuda.free_memory())
        self._capturable = manifest.backend.mode == "plugin" and not streams
        self._scratch_bytes = max(1, int(opened.engine.device_memory_size_v2))
        self._scratch = cuda.allocate(self._scratch_bytes, "the engine's scratch memory")
        self._policy: PolicyBuffers | None = None
        self._device_directions = 0
        if self.spec.gated:
            places = {
                name: self._inputs.view(self._host_in, tensors[name], steps[0]) for name in STAGED
            }
            self._policy = PolicyBuffers(shape.num_layers, shape.hidden_size, places)
            size = tensors["directions"].num_bytes(steps[0])
            self._device_directions = cuda.allocate(size, "the gate's directions")
            cuda.clear(self._device_directions, size, self._stream)
        self._fixed = self._fixed_addresses(staged)
        self._runners: dict[object, Runner] = {}
        # With the session, but not when Python ends: CUDA may be gone by then.
        weakref.finalize(self, cuda.release).atexit = False

    def step(self, step: Step) -> StepOutput:
        self._cuda.select()
        shape = StepShape(step.rows, step.seq, step.num_logits)
        assert step.first_row + step.rows <= self.cache.rows and step.slots <= self.cache.slots
        runner = self._runner(shape)
        if self._policy is not None:
            changed = self._policy.write(step.policy, step.gate_scope)
            if "directions" in changed:
                self._upload_directions(self._policy.arrays["directions"])
        for name, values in step.inputs.items():
            self._inputs.view(self._host_in, self.spec.tensors[name], shape)[...] = values
        self._cuda.upload(self._device_in, self._host_in, self._stream)
        runner.run(step.first_row, self._addresses)
        logits = self.spec.tensors["logits"]
        used = self._outputs.offsets["logits"] + logits.num_bytes(shape)
        self._cuda.download(self._host_out[:used], self._device_out, self._stream)
        self._cuda.synchronise(self._stream)
        exit_layer = self.spec.tensors["exit_layer"]
        return StepOutput(
            self._outputs.view(self._host_out, logits, shape),
            self._outputs.view(self._host_out, exit_layer, shape),
        )

    def move_row(self, source: int, target: int, length: int) -> None:
        self._cuda.select()
        cache, base = self.cache, self._device_cache
        for tensor in range(2 * cache.num_layers):
            self._cuda.copy_rows(
                base + cache.offset(tensor, target),
                base + cache.offset(tensor, source),
                pitch=cache.head_bytes,
                width=length * cache.slot_bytes,
                rows=cache.num_kv_heads,
                stream=self._stream,
            )

    def read_row(self, row: int, length: int) -> np.ndarray:
        self._cuda.select()
        cache = self.cache
        dtype = self.spec.tensors["k_cache.0"].dtype
        whole = (2 * cache.num_layers, cache.num_kv_heads, cache.slots, cache.head_dim)
        host = np.empty(whole, dtype)
        for tensor in range(len(host)):
            place = self._device_cache + cache.offset(tensor, row)
            self._cuda.download(host[tensor], place, self._stream)
        self._cuda.synchronise(self._stream)
        slots = widen(host[:, :, :length], self.spec.tensors["k_cache.0"])
        return slots.reshape(-1, 2, *slots.shape[1:])

    def _runner(self, shape: StepShape) -> Runner:
        """The context of the step: of its shape where it is captured, else of its profile."""
        profile = self.spec.choose_profile(shape)
        captured = self._capturable and shape.seq <= CAPTURED_TOKENS
        key: object = shape if captured else profile.index
        runner = self._runners.get(key)
        if runner is None:
            runner = Runner(
                self._cuda,
                self._context(profile.index),
                self._stream,
                self._opened.messages,
                captured,
            )
            self._runners[key] = runner
        if runner.shape != shape:
            slots = self.cache.slots
            inputs = {
                tensor.name: tensor.resolve(shape, slots=slots)
                for tensor in self.spec.tensors.values()
                if tensor.is_input and -1 in tensor.shape
            }
            runner.reshape(shape, inputs)
        return runner

    def _context(self, profile: int) -> Any:
        """Contexts share one scratch memory: their steps follow each other on one stream."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._opened.engine.create_execution_context(strategy)
        context.error_recorder = self._opened.recorder
        context.set_device_memory(self._scratch, self._scratch_bytes)
        if not context.set_optimization_profile_async(profile, int(self._stream)):
            raise EngineError(f"TensorRT refused profile {profile}: {self._opened.messages.take()}")
        return context

    def _fixed_addresses(self, staged: list[TensorSpec]) -> dict[str, int]:
        addresses = {t.name: self._device_in + self._inputs.offsets[t.name] for t in staged}
        if self.spec.gated:
            addresses["directions"] = self._device_directions
        for name, offset in self._outputs.offsets.items():
            addresses[name] = self._device_out + offset
        return addresses

    def _addresses(self, first_row: int) -> dict[str, int]:
        """Of every tensor; a cache's input and output are the same memory."""
        addresses = dict(self._fixed)
        for suffix in ("", "_out"):
            for tensor, name in enumerate(cache_names(self.cache.num_layers, suffix)):
                addresses[name] = self._device_cache + self.cache.offset(tensor, first_row)
        return addresses

    def _upload_directions(self, directions: np.ndarray) -> None:
        self._cuda.upload(self._device_directions, directions, self._stream)
        self._cuda.synchronise(self._stream)  # the array may be written again before the copy is


def stream_weights(engine: Any, free_bytes: int) -> bool:
    """Give the weights of an engine built with weight streaming what is free but a reserve.

    True where some stay in host memory: such steps cannot be captured. TensorRT's own automatic
    budget is not asked for: its Python binding returns it in 32 bits.
    """
    size = int(engine.streamable_weights_size)
    if size == 0:
        return False
    engine.weight_streaming_budget_v2 = min(size, max(0, free_bytes - STREAMING_RESERVE))
    return bool(engine.weight_streaming_budget_v2 < size)


def widen(values: np.ndarray, tensor: TensorSpec) -> np.ndarray:
    """Cache values [any shape] as float32; bfloat16 is the upper half of one."""
    if tensor.is_bfloat16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
