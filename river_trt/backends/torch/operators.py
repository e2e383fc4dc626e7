"""The operators that an aotinductor engine calls, loaded into this process's torch.

cpu    river_trt_cpu::linear, attention, gate: the native CPU kernels, compiled on first need
cuda   river_trt_cuda::linear, attention, gate: `river-trt plugin build --part torch`
"""

from pathlib import Path

import torch

from river_trt.compiled_library import CppLibrary, read_sources
from river_trt.plugin.build import built_library
from river_trt.plugin.sources import source_directory
from river_trt.progress import Progress, silent

# Of the operators and the weight layout that engines name; engines of another one do not load.
ABI_VERSION = 1
# The sources of plugins/cpu that are for ONNX Runtime alone.
ONNXRUNTIME_SOURCES = ("ort_operators.cc", "ort_api.h")


def load_operators(device: str, progress: Progress = silent) -> Path:
    """Load the library with the operators of `cpu` or `cuda`; returns its file.

    Raises RiverError where it is not there and cannot be compiled.
    """
    if device == "cpu":
        library = _cpu_library().compile_once(progress)
    else:
        library = built_library("torch", torch.__version__)
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    return library


def _cpu_library() -> CppLibrary:
    folder = source_directory()
    sources = read_sources(folder / "cpu", folder / "torch_cpu")
    for name in ONNXRUNTIME_SOURCES:
        del sources[name]
    root = Path(torch.__path__[0])
    return CppLibrary(
        name="river_torch_cpu",
        what="the native CPU kernels for torch",
        instead="build the engine with --backend onnxruntime --kernels onnxruntime",
        sources=sources,
        standard="c++20",
        flags=(
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            f'-DRIVER_TORCH="{torch.__version__}"',  # part of what the library is known by
            *("-isystem", str(root / "include")),
            *("-isystem", str(root / "include/torch/csrc/api/include")),
        ),
        link_flags=(
            *(f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}"),
            *("-Wl,--no-as-needed", "-ltorch_cpu", "-lc10"),
        ),
    )
