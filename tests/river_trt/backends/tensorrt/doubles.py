"""Doubles of cuda.bindings.runtime and of TensorRT over host memory.

They record the order of calls, refuse what CUDA refuses (allocating or waiting under capture), and
compute a model whose text is known: the token after id is id + 1, and a token exits after layer 1
where tau[0] < 0.5. A captured graph really replays what was queued under capture.
"""

import ctypes
from collections import Counter
from types import SimpleNamespace

import numpy as np

from river_trt.spec import cache_names

L, KV_HEADS, HEAD_DIM, VOCAB, HIDDEN, SLOTS = 2, 2, 4, 50, 8, 64
FREE_BYTES = 1 << 30
NUMPY = {"FLOAT": "f4", "HALF": "f2", "BF16": "u2", "INT32": "i4", "INT64": "i8", "BOOL": "?"}


def array_at(address: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    block = (ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(block, dtype, count).reshape(shape)


class FakeCuda:
    """cuda.bindings.runtime: every call returns (code, *results)."""

    cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorMemoryAllocation=2)
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaHostAllocDefault, cudaStreamNonBlocking = 0, 1

    def __init__(self, capability: tuple[int, int] = (9, 0), free: int = FREE_BYTES) -> None:
        self.capability, self.left = capability, free
        self.calls: list[str] = []
        self.copied: list[tuple[int, int]] = []  # kind, size
        self.captured: list | None = None
        self._memory: list[np.ndarray] = []

    def __getattribute__(self, name: str):
        value = super().__getattribute__(name)
        if name.startswith("cuda") and callable(value):
            self.calls.append(name)
        return value

    def count(self) -> Counter:
        return Counter(self.calls)

    def cudaGetDeviceCount(self):
        return 0, 2

    def cudaSetDevice(self, device):
        assert device in (0, 1)
        self.device = device
        return (0,)

    def cudaDeviceGetAttribute(self, attribute, device):
        return 0, self.capability[attribute == "minor"]

    def cudaMemGetInfo(self):
        return 0, self.left, FREE_BYTES

    def cudaGetErrorString(self, code):
        return 0, b"a reason"

    def cudaMalloc(self, size):
        assert self.captured is None, "allocation under capture"
        if size > self.left:
            return 2, None
        self.left -= size
        self._memory.append(np.full(size, 0xCD, np.uint8))
        return 0, self._memory[-1].ctypes.data

    def cudaFree(self, pointer):
        return (0,)

    def cudaFreeHost(self, pointer):
        return (0,)

    def cudaHostAlloc(self, size, flags):
        self._memory.append(np.full(size, 0xCD, np.uint8))
        return 0, self._memory[-1].ctypes.data

    def cudaStreamCreateWithFlags(self, flags):
        return 0, 7

    def cudaStreamSynchronize(self, stream):
        assert self.captured is None, "waiting under capture"
        return (0,)

    def cudaMemsetAsync(self, pointer, value, size, stream):
        ctypes.memset(pointer, value, size)
        return (0,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        self.copied.append((kind, size))
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaMemcpy2DAsync(self, target, pitch, source, source_pitch, width, rows, kind, stream):
        for row in range(rows):
            ctypes.memmove(target + row * pitch, source + row * source_pitch, width)
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        return 0, graph

    def cudaGraphInstantiate(self, graph, flags):
        return 0, graph

    def cudaGraphDestroy(self, graph):
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        for work in graph:
            work()
        return (0,)


class FakeContext:
    def __init__(self, engine: "FakeEngine") -> None:
        self.engine = engine
        self.shapes, self.addresses = {}, {}
        self.profile = None
        self.error_recorder = None

    def set_device_memory(self, pointer, size):
        assert size == self.engine.device_memory_size_v2

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return True

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        if self.engine.failure:
            self.error_recorder.report_error(1, self.engine.failure)
            return False
        assert set(self.addresses) == set(self.engine.tensors), "a tensor without a place"
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        captured = self.engine.cuda.captured
        if captured is None:
            self.engine.compute(shapes, addresses)
        else:
            captured.append(lambda: self.engine.compute(shapes, addresses))
        return True


class FakeEngine:
    """Two profiles: decode of up to 4 rows, prefill of one row and up to 16 tokens."""

    device_memory_size_v2 = 4096
    num_optimization_profiles = 2
    streamable_weights_size = 0
    has_host_code = False  # built with VERSION_COMPATIBLE

    def __init__(self, cuda: FakeCuda, mode: str = "plugin", cache: str = "HALF") -> None:
        self.cuda, self.failure, self.contexts = cuda, "", []
        slots = -1 if mode == "plugin" else SLOTS
        flag = "INT32" if mode == "plugin" else "BOOL"
        caches = (-1, KV_HEADS, slots, HEAD_DIM)
        self.tensors: dict[str, tuple[str, tuple[int, ...], bool]] = {
            "input_ids": ("INT64", (-1, -1), True),
            "past_lengths": ("INT32", (-1,), True),
            "logit_indices": ("INT64", (-1,), True),
            "tau": ("FLOAT", (L,), True),
            "pinned": (flag, (L,), True),
            "use_directions": (flag, (), True),
            "directions": ("FLOAT", (L, HIDDEN), True),
            "gate_scope": ("INT32", (), True),
            **dict.fromkeys(cache_names(L), (cache, caches, True)),
            "logits": ("FLOAT", (-1, -1, VOCAB), False),
            "exit_layer": ("INT32", (-1, -1), False),
            **dict.fromkeys(cache_names(L, "_out"), (cache, caches, False)),
        }

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    def get_tensor_name(self, i):
        return list(self.tensors)[i]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.tensors[name][0])

    def get_tensor_shape(self, name):
        return self.tensors[name][1]

    def get_tensor_mode(self, name):
        return SimpleNamespace(name="INPUT" if self.tensors[name][2] else "OUTPUT")

    def is_shape_inference_io(self, name):
        return False

    def get_tensor_profile_shape(self, name, index):
        batch, seq, logits = ((4, 1, 1), (1, 16, 16))[index]
        most = {
            "input_ids": (batch, seq),
            "past_lengths": (batch,),
            "logit_indices": (logits,),
        }.get(name, (batch, KV_HEADS, SLOTS, HEAD_DIM))
        least = tuple(1 if size == -1 else size for size in self.tensors[name][1])
        return [least, least, most]

    def create_execution_context(self, strategy):
        assert strategy == "user managed"
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def create_engine_inspector(self):
        text = '{"Layers": ["fused kernel", {"Name": "layers.0.gate", "LayerType": "PluginV3"}]}'
        return SimpleNamespace(get_engine_information=lambda form: text)

    def compute(self, shapes, addresses):
        def read(name, shape=None):
            kind, fixed, _ = self.tensors[name]
            return array_at(addresses[name], NUMPY[kind], shape or shapes.get(name, fixed))

        ids, past = read("input_ids"), read("past_lengths")
        indices, tau = read("logit_indices"), read("tau")
        batch, seq = ids.shape
        chosen = ids[:, indices]
        steps = np.arange(VOCAB) - (chosen[..., None] + 1)
        read("logits", (*chosen.shape, VOCAB))[...] = -np.abs(steps).astype(np.float32)
        read("exit_layer", (batch, seq))[...] = 1 if tau[0] < 0.5 else L
        for name in cache_names(L):
            cache = read(name)
            out = name.replace(".", "_out.")
            assert addresses[out] == addresses[name], "the caches are updated in place"
            for row in range(batch):
                assert not (cache[row, :, : past[row]] == 0).any(), "history is missing"
                cache[row, :, past[row] : past[row] + seq] = ids[row, :, None]


class Base:
    def __init__(self) -> None: ...


def fake_trt(engine: FakeEngine | None, version: str = "10.16.1", complaint: str = ""):
    """The module `tensorrt`; `engine` None: deserialising fails with the complaint."""
    loaded: list[str] = []

    class Runtime:
        def __init__(self, logger) -> None:
            self.logger = logger

        engine_host_code_allowed = False

        def deserialize_cuda_engine(self, data: bytes):
            if engine is None or (engine.has_host_code and not self.engine_host_code_allowed):
                self.logger.log(1, complaint)
                return None
            return engine

    registry = SimpleNamespace(load_library=lambda path: loaded.append(path) or 1)
    logger = type("ILogger", (Base,), {"Severity": SimpleNamespace(ERROR=1)})
    return SimpleNamespace(
        __version__=version,
        ILogger=logger,
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        IErrorRecorder=Base,
        Runtime=Runtime,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        get_plugin_registry=lambda: registry,
        loaded=loaded,
    )
