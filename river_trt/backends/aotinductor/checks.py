"""Whether this process's torch and this machine's device can run an engine."""

import torch

from river_trt.backends.torch.gpu import numbered_gpu
from river_trt.backends.torch.operators import ABI_VERSION
from river_trt.errors import EngineError
from river_trt.manifest import REBUILD, BackendInfo, Manifest
from river_trt.origin import this_build

# A CPU package holds code for this level of x86-64, whatever machine compiled it.
X86_LEVEL = "x86-64-v3"
X86_CAPABILITIES = ("AVX2", "AVX512")  # torch's names of what has that level


def check_engine(manifest: Manifest, gpu: int = 0) -> torch.device:
    """The device that the engine runs on; gpu: its number, for an engine of one.

    EngineError, in one sentence, where it cannot.
    """
    backend, kv_cache = manifest.backend, manifest.precision.kv_cache
    caches = {"cpu": "float32", "cuda": "bfloat16"}
    if backend.target not in caches or kv_cache != caches[backend.target]:
        raise EngineError(
            f"manifest.json: target {backend.target!r} with a {kv_cache} cache, and this river-trt "
            f"runs only {' and '.join(f'{name} with {dtype}' for name, dtype in caches.items())} "
            f"with aotinductor; upgrade with {this_build().upgrade()}"
        )
    check_version(backend.version, torch.__version__)
    if backend.kernels_abi != ABI_VERSION:
        raise EngineError(
            f"the engine was built for version {backend.kernels_abi} of the torch operators but "
            f"this river-trt has version {ABI_VERSION}; {REBUILD}"
        )
    if backend.target == "cpu":
        check_cpu(backend)
        return torch.device("cpu")
    return check_gpu(backend, gpu)


def check_version(built_for: str, installed: str) -> None:
    """EngineError for another minor version of torch: its functions may be others."""
    if _minor(installed) != _minor(built_for):
        minor = ".".join(_minor(built_for))
        raise EngineError(
            f"the engine was compiled for torch {built_for} but {installed} is installed; "
            f"install that one (pip install 'torch=={minor}.*') or {REBUILD}"
        )


def check_cpu(backend: BackendInfo) -> None:
    """EngineError where this processor is not what the engine has code for."""
    found = torch.backends.cpu.get_cpu_capability()
    if backend.compute_capability != X86_LEVEL or found not in X86_CAPABILITIES:
        raise EngineError(
            f"the engine holds code for {backend.compute_capability} but this processor has "
            f"{found}; build it on this machine, or with --backend onnxruntime"
        )


def check_gpu(backend: BackendInfo, number: int) -> torch.device:
    """The GPU of that number; EngineError where it is not of the engine's compute capability."""
    wanted = backend.compute_capability
    device = numbered_gpu(number, f"the engine needs a GPU of compute capability {wanted}")
    found = compute_capability(device)
    if found != wanted:
        raise EngineError(
            f"the engine was compiled for a GPU of compute capability {wanted} but this one has "
            f"{found}; {REBUILD} on this machine"
        )
    return device


def compute_capability(device: torch.device | None = None) -> str:
    """Of a GPU, by default the current one: 9.0."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])
