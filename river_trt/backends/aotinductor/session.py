"""The Session of a package: caches on its device, written in place by the package's operators."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from river_trt.backends.aotinductor.checks import check_engine
from river_trt.backends.aotinductor.graphs import Outputs, Recording, record
from river_trt.backends.aotinductor.operators import load_operators
from river_trt.backends.aotinductor.weights import read_weights
from river_trt.backends.base import SessionOptions, Step, StepOutput
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.errors import EngineError, RiverError
from river_trt.manifest import REBUILD, Manifest
from river_trt.spec import ModelShape

WEIGHTS_FILE = "weights.safetensors"
MODEL_NAME = "model"  # in the package
# Runs the program on its inputs (river_trt.spec, flat) and returns logits and exit_layer.
Program = Callable[[list[torch.Tensor]], Outputs]


def open_session(directory: Path, manifest: Manifest, options: SessionOptions) -> "TorchSession":
    """Open the package and read its weights.

    Raises EngineError for another torch, a device that is absent or another one, or a package that
    torch cannot load; RiverError when the cache does not fit memory, or the operators are not
    there and cannot be compiled.
    """
    device = check_engine(manifest)
    load_operators(device.type)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    package = directory / manifest.engine_file
    weights = read_weights(directory / WEIGHTS_FILE, device)
    try:
        loader = torch._C._aoti.AOTIModelPackageLoader(str(package), MODEL_NAME, True, 1, -1)
        names = set(loader.get_constant_fqns())
        if names == weights.keys():
            # The package uses this memory as it is; the session keeps it alive.
            loader.load_constants(weights, False, True, True, False)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise EngineError(f"torch cannot load {package}: {reason}; {REBUILD}") from error
    if names != weights.keys():
        wrong = sorted(names ^ weights.keys())[0]
        where = "the package" if wrong in names else "the weights file"
        raise EngineError(f"only {where} has the tensor {wrong}; {REBUILD}")
    shape = manifest.model.shape
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    recorder = record if device.type == "cuda" else None
    return TorchSession(loader.boxed_run, weights, shape, options, device, dtype, recorder)


class TorchSession:
    """A program of torch and its caches: [rows, num_kv_heads, T, head_dim] each.

    With a recorder, steps of one token a row are recorded once for each range of rows and
    replayed; other steps run as they are.
    """

    def __init__(
        self,
        program: Program,
        weights: Any,  # kept while the program uses them
        shape: ModelShape,
        options: SessionOptions,
        device: torch.device,
        dtype: torch.dtype,  # of the caches
        recorder: Callable[[Callable[[], Outputs]], Recording] | None = None,
    ) -> None:
        self._program, self._weights = program, weights
        self._device, self._recorder = device, recorder
        self._cache_length = options.cache_length
        rows = options.max_batch_size + options.spare_rows
        size = (rows, shape.num_kv_heads, options.cache_length, shape.head_dim)
        count = 2 * shape.num_layers
        try:
            self.caches = [torch.zeros(size, dtype=dtype, device=device) for _ in range(count)]
        except RuntimeError as error:
            gib = count * dtype.itemsize * int(np.prod(size)) / 2**30
            raise RiverError(
                f"the KV cache needs {gib:.1f} GiB, more than this machine has; "
                "lower max_seq_len or max_batch_size"
            ) from error
        self._policy = PolicyBuffers(shape.num_layers, shape.hidden_size)  # as the device has it
        self._policy_inputs = {
            name: torch.tensor(value, device=device) for name, value in self._policy.arrays.items()
        }
        self._decodes: dict[tuple[int, int], _Decode] = {}

    def step(self, step: Step) -> StepOutput:
        first_row, rows = step.first_row, step.rows
        assert first_row + rows <= len(self.caches[0]) and step.slots <= self._cache_length
        for name in self._policy.write(step.policy, step.gate_scope):
            self._policy_inputs[name].copy_(torch.from_numpy(self._policy.arrays[name]))
        if step.seq == 1 and step.num_logits == 1:
            decode = self._decodes.get((first_row, rows))
            if decode is None:
                decode = self._decodes[first_row, rows] = _Decode(self._inputs(step))
            logits, exit_layer = decode.run(self._program, step, self._recorder)
        else:
            logits, exit_layer = self._program(self._inputs(step))
        return StepOutput(logits.cpu().numpy(), exit_layer.cpu().numpy())

    def move_row(self, source: int, target: int, length: int) -> None:
        for cache in self.caches:
            cache[target, :, :length] = cache[source, :, :length]

    def read_row(self, row: int, length: int) -> np.ndarray:
        slots = torch.stack([cache[row, :, :length] for cache in self.caches]).float()
        array: np.ndarray = slots.view(-1, 2, *slots.shape[1:]).cpu().numpy()
        return array

    def _inputs(self, step: Step) -> list[torch.Tensor]:
        caches = [cache[step.first_row : step.first_row + step.rows] for cache in self.caches]
        arrays = [torch.tensor(array, device=self._device) for array in step.inputs.values()]
        return [*arrays, *self._policy_inputs.values(), *caches]


class _Decode:
    """Steps of one token a row over a range of cache rows, through buffers of their own."""

    def __init__(self, inputs: list[torch.Tensor]) -> None:
        self.inputs = inputs
        self.recording: Recording | None = None

    def run(
        self,
        program: Program,
        step: Step,
        recorder: Callable[[Callable[[], Outputs]], Recording] | None,
    ) -> Outputs:
        for tensor, array in zip(self.inputs, step.inputs.values(), strict=False):
            tensor.copy_(torch.tensor(array))
        if recorder is None:
            return program(list(self.inputs))  # a program empties the list that it is given
        if self.recording is None:
            self.recording = recorder(lambda: program(list(self.inputs)))
        self.recording.replay()
        return self.recording.outputs
