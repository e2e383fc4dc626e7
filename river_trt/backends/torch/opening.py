"""Opening an engine of the backend torch."""

from pathlib import Path
from typing import Any

import torch

from river_trt.backends.base import SessionOptions
from river_trt.backends.torch.gpu import current, numbered_gpu
from river_trt.backends.torch.graphs import Outputs, Recorder
from river_trt.backends.torch.operators import ABI_VERSION, load_operators
from river_trt.backends.torch.program import Program
from river_trt.backends.torch.schemas import withdraw_operators
from river_trt.backends.torch.session import EXTRA_INPUTS, WEIGHTS_FILE, ChoosingSession
from river_trt.backends.torch.tuning import tune_at_load, tunes_at_load, use_tuned
from river_trt.backends.torch.weights import read_weights
from river_trt.errors import EngineError
from river_trt.gpu_memory import check_fits, gpu_memory
from river_trt.manifest import REBUILD, Manifest
from river_trt.origin import this_build
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS

PROGRAM_FILE = "program.json"
LEAST_TORCH = (2, 11)


def open_session(directory: Path, manifest: Manifest, options: SessionOptions) -> ChoosingSession:
    """Read the program and put the weights on the GPU.

    Raises EngineError for an older torch, a GPU that is absent, or a program that is not one of
    this version; RiverError when the operators' library is not built, the GPU's free memory is too
    little, or what was measured of the kernels' variants cannot be kept.
    """
    device = find_device(manifest, options.gpu)
    tunes = device.type == "cuda" and tunes_at_load()
    if device.type == "cuda":
        check_memory(manifest, options, device)
    withdraw_operators()
    load_operators("cuda")
    weights = read_weights(directory / WEIGHTS_FILE, device)
    shape = manifest.model.shape
    text = (directory / manifest.engine_file).read_text(encoding="utf-8")
    program = Program(text, weights)
    if device.type == "cuda":
        with current(device):
            torch.cuda.empty_cache()  # of the banks that were packed one after the other
            if tunes:  # before the caches take what memory is free
                sizes = (shape.head_dim, options.max_batch_size, options.cache_length)
                tune_at_load(text, *sizes, options.progress)
                torch.cuda.empty_cache()
            use_tuned()

    @torch.no_grad()
    def run(inputs: list[Any]) -> Outputs:
        return program(inputs)

    num_inputs = len(STEP_INPUTS) + len(POLICY_INPUTS) + 2 * shape.num_layers
    extra_inputs = program.inputs[num_inputs:]
    if len(program.inputs) < num_inputs or not set(extra_inputs) <= set(EXTRA_INPUTS):
        raise EngineError(f"the engine's program takes inputs of another version; {REBUILD}")
    with current(device):
        return ChoosingSession(
            *(run, weights, shape, options, device, torch.bfloat16, Recorder()),
            extra_inputs=extra_inputs,
        )


def check_memory(manifest: Manifest, options: SessionOptions, device: torch.device) -> None:
    """RiverError where the engine does not fit what is free on the GPU."""
    rows = options.max_batch_size + options.spare_rows + 1
    needed = gpu_memory(manifest, WEIGHTS_FILE, rows, options.cache_length)
    free, _ = torch.cuda.mem_get_info(device)
    check_fits(needed, free, rows, options.cache_length)


def find_device(manifest: Manifest, number: int) -> torch.device:
    """The GPU of that number; EngineError where it is none, or torch too old for the engine."""
    backend = manifest.backend
    if (backend.target, manifest.precision.kv_cache) != ("cuda", "bfloat16"):
        raise EngineError(
            f"manifest.json: target {backend.target!r} with a {manifest.precision.kv_cache} cache, "
            "and the backend torch runs only cuda with bfloat16; upgrade with "
            f"{this_build().upgrade()}"
        )
    if backend.kernels_abi != ABI_VERSION:
        raise EngineError(
            f"the engine was built for version {backend.kernels_abi} of the torch operators but "
            f"this river-trt has version {ABI_VERSION}; {REBUILD}"
        )
    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < LEAST_TORCH:
        raise EngineError(
            f"the engine needs torch {'.'.join(map(str, LEAST_TORCH))} or later, "
            f"but {torch.__version__} is installed"
        )
    return numbered_gpu(number)
