"""The few CUDA calls that a session makes, through cuda-python; every error is one sentence."""

import ctypes
from importlib import import_module
from typing import Any

import numpy as np

from river_trt.errors import EngineError, MissingDependencyError, RiverError
from river_trt.origin import this_build


class OutOfDeviceMemory(RiverError):
    """The GPU has not as much memory as was asked for."""


class Cuda:
    """`runtime` is cuda.bindings.runtime, or a stand-in for it in tests.

    Sizes are in bytes, pointers are ints, copies are asynchronous on the given stream.
    """

    def __init__(self, runtime: Any, gpu: int = 0) -> None:
        self._runtime = runtime
        self._gpu = gpu
        self._device: list[int] = []
        self._page_locked: list[int] = []

    @classmethod
    def open(cls, gpu: int = 0) -> "Cuda":
        """gpu: its number, from 0.

        Raises MissingDependencyError without cuda-python, EngineError without such a GPU.
        """
        try:
            runtime = import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise MissingDependencyError(
                f"running on a GPU needs cuda-python ({error}): {this_build().install('tensorrt')}"
            ) from error
        cuda = cls(runtime, gpu)
        try:
            (count,) = cuda._call("looking for a GPU", "cudaGetDeviceCount")
        except EngineError as error:
            raise EngineError(f"no NVIDIA GPU can be used on this machine: {error}") from error
        if gpu >= count:
            raise EngineError(f"there is no GPU {gpu}: this machine has {count}, counted from 0")
        cuda.select()
        return cuda

    def select(self) -> None:
        """Make this GPU the calling thread's, which may be another one than last time."""
        self._call("choosing the GPU", "cudaSetDevice", self._gpu)

    def compute_capability(self) -> str:
        """Of the GPU, as "9.0"."""
        numbers: list[int] = []
        for part in ("Major", "Minor"):
            attribute = getattr(self._runtime.cudaDeviceAttr, f"cudaDevAttrComputeCapability{part}")
            numbers += self._call("asking the GPU", "cudaDeviceGetAttribute", attribute, self._gpu)
        return ".".join(map(str, numbers))

    def free_memory(self) -> int:
        """Bytes of the GPU that nobody holds."""
        return int(self._call("asking the GPU's memory", "cudaMemGetInfo")[0])

    def allocate(self, size: int, what: str) -> int:
        """Device memory. Raises OutOfDeviceMemory naming `what` and how much is free."""
        (pointer,) = self._call(f"allocating {what}", "cudaMalloc", size, memory=(what, size))
        self._device.append(int(pointer))
        return int(pointer)

    def release(self) -> None:
        """Give back all memory that was allocated here."""
        while self._device:
            self._call("freeing memory", "cudaFree", self._device.pop())
        while self._page_locked:
            self._call("freeing memory", "cudaFreeHost", self._page_locked.pop())

    def page_locked(self, size: int) -> np.ndarray:
        """Page-locked host memory as uint8 [size], until `release`."""
        flags = self._runtime.cudaHostAllocDefault
        (pointer,) = self._call("allocating host memory", "cudaHostAlloc", size, flags)
        self._page_locked.append(int(pointer))
        return host_bytes(int(pointer), size)

    def stream(self) -> Any:
        """A new one, which does not wait for the default stream."""
        (stream,) = self._call(
            "creating a stream", "cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking
        )
        return stream

    def synchronise(self, stream: Any) -> None:
        """Wait for all that was enqueued; raises CUDA's error of any of it."""
        self._call("running the engine", "cudaStreamSynchronize", stream)

    def upload(self, device: int, host: np.ndarray, stream: Any) -> None:
        """Enqueue a copy of the array [any shape], all of it, to device memory."""
        self._copy("HostToDevice", device, host.ctypes.data, host.nbytes, stream)

    def download(self, host: np.ndarray, device: int, stream: Any) -> None:
        """Enqueue a copy of device memory into the array [any shape], all of it."""
        self._copy("DeviceToHost", host.ctypes.data, device, host.nbytes, stream)

    def copy_rows(
        self, target: int, source: int, pitch: int, width: int, rows: int, stream: Any
    ) -> None:
        """`width` bytes of each of `rows` rows that lie `pitch` bytes apart on both sides."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        arguments = (target, pitch, source, pitch, width, rows, kind, stream)
        self._call("moving a cache row", "cudaMemcpy2DAsync", *arguments)

    def clear(self, pointer: int, size: int, stream: Any) -> None:
        """Enqueue zeros over `size` bytes."""
        self._call("clearing memory", "cudaMemsetAsync", pointer, 0, size, stream)

    def begin_capture(self, stream: Any) -> None:
        """What this thread enqueues from here on is recorded, not run."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("capturing a CUDA graph", "cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """The graph that was captured, ready to launch."""
        (graph,) = self._call("capturing a CUDA graph", "cudaStreamEndCapture", stream)
        (executable,) = self._call("making a CUDA graph", "cudaGraphInstantiate", graph, 0)
        self._call("making a CUDA graph", "cudaGraphDestroy", graph)
        return executable

    def abandon_capture(self, stream: Any) -> None:
        """Leave the stream usable after a capture that failed; what was captured is lost."""
        self._runtime.cudaStreamEndCapture(stream)

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueue a graph that `end_capture` gave."""
        self._call("launching a CUDA graph", "cudaGraphLaunch", graph, stream)

    def _copy(self, kind: str, target: int, source: int, size: int, stream: Any) -> None:
        chosen = getattr(self._runtime.cudaMemcpyKind, f"cudaMemcpy{kind}")
        self._call("copying", "cudaMemcpyAsync", target, source, size, chosen, stream)

    def _call(
        self, doing: str, name: str, *arguments: Any, memory: tuple[str, int] | None = None
    ) -> tuple[Any, ...]:
        code, *results = getattr(self._runtime, name)(*arguments)
        errors = self._runtime.cudaError_t
        if code == errors.cudaSuccess:
            return tuple(results)
        if code == errors.cudaErrorMemoryAllocation and memory is not None:
            what, size = memory
            raise OutOfDeviceMemory(
                f"{what} needs {size / 2**30:.1f} GiB and the GPU has "
                f"{self.free_memory() / 2**30:.1f} GiB free; lower max_seq_len or max_batch_size, "
                "or free the GPU"
            )
        _, text = self._runtime.cudaGetErrorString(code)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        raise EngineError(f"CUDA error {int(code)} while {doing}: {reason}")


def host_bytes(pointer: int, size: int) -> np.ndarray:
    """Memory that is not numpy's as uint8 [size]."""
    block = (ctypes.c_uint8 * size).from_address(pointer)
    return np.ctypeslib.as_array(block)
