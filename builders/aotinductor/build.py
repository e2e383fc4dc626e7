"""A River engine for AOTInductor: trace, rewrite, compile, then fill the weights file."""

import platform
from typing import Literal

import torch

from builders.aotinductor.cpu import HEAD_BITS as CPU_HEAD_BITS
from builders.aotinductor.cpu import CpuDevice
from builders.aotinductor.cuda import HEAD_BITS as CUDA_HEAD_BITS
from builders.aotinductor.cuda import CudaDevice
from builders.aotinductor.options import AOTInductorOptions
from builders.aotinductor.package import compile_package
from builders.aotinductor.program import Device, rewrite
from builders.aotinductor.recording import write_program
from builders.aotinductor.weights_file import WeightsWriter
from builders.job import BuildJob
from builders.layouts.byte_counts import byte_counts
from builders.position_tables import position_tables
from builders.river_bank import river_format, stream_layers
from builders.tracing import trace
from builders.weights import SharedWeights
from river_trt.backends.aotinductor.checks import X86_LEVEL, compute_capability
from river_trt.backends.torch.fakes import register_fakes
from river_trt.backends.torch.opening import PROGRAM_FILE
from river_trt.backends.torch.operators import ABI_VERSION, load_operators
from river_trt.backends.torch.schemas import declare_operators
from river_trt.backends.torch.session import WEIGHTS_FILE
from river_trt.errors import RiverError
from river_trt.manifest import BackendInfo, Manifest, PrecisionInfo, RiverInputs

ENGINE_FILE = "model.pt2"
NAMES: dict[torch.dtype, Literal["float32", "bfloat16"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}


def build_engine(job: BuildJob) -> Manifest:
    """Fill the job's directory with a complete engine and return its manifest.

    Raises RiverError for the options, or a device that this machine does not have.
    """
    source, recipe, directory = job.source, job.recipe, job.directory
    config = source.config
    quantiser = job.quantiser()
    river = river_format(config, quantiser, recipe.group_size, recipe.symmetric)
    shared = source.shared()
    device = _device(job, shared)
    is_recorded = recipe.backend == "torch"
    if is_recorded:
        declare_operators()
    else:
        load_operators(device.name, job.progress)
        register_fakes(device.name)
    job.write_tokenizer()
    calibration = job.read_calibration(quantiser)

    job.progress("compiling", 0, 1)
    program = rewrite(trace(config, river, recipe.max_seq_len), device)
    engine_file = PROGRAM_FILE if is_recorded else ENGINE_FILE
    if is_recorded:
        write_program(program, directory / engine_file)
    else:
        package = directory / engine_file
        compile_package(program, config, device.name, device.activation, package)
    job.progress("compiling", 1, 1)

    with WeightsWriter(program.planned, directory / WEIGHTS_FILE) as weights:
        tables = position_tables(config, recipe.max_seq_len)
        weights.write_planned(
            {name: table.to(device.buffer_dtype(name)) for name, table in tables.items()}
        )
        weights.write_planned(device.shared_tensors(shared))
        banks = stream_layers(
            source,
            quantiser,
            shared,
            calibration.token_ids if calibration else None,
            job.watch,
            job.progress,
        )
        for index, layer in enumerate(banks):
            weights.write_planned(device.layer_tensors(index, layer))
            job.progress("quantising", index + 1, config.num_layers)

    capability = None  # a recorded program is for any GPU
    if not is_recorded:
        capability = X86_LEVEL if device.name == "cpu" else compute_capability()
    backend = BackendInfo(
        recipe.backend,
        torch.__version__,
        recipe.target,
        compute_capability=capability,
        kernels_abi=ABI_VERSION,
    )
    dtype = NAMES[device.activation]
    multiplied: RiverInputs = "int8" if device.rounds else NAMES[device.activation]
    precision = PrecisionInfo(dtype, device.head_bits, dtype, multiplied)
    sizes = {name: buffer.num_bytes for name, buffer in program.planned.items()}
    counts = byte_counts(sizes, config.num_layers, config.vocab_size, job.banks)
    return job.write_manifest(backend, precision, calibration, counts, engine_file)


def _device(job: BuildJob, shared: SharedWeights) -> Device:
    recipe = job.recipe
    if recipe.target == "cpu" and recipe.backend == "aotinductor":
        return _cpu(job, shared)
    if recipe.target == "cuda":
        return _cuda(job)
    if recipe.backend == "torch":
        raise RiverError(
            f"the backend torch builds for the target cuda, not {recipe.target!r}; "
            "leave --backend out, or give --target cuda"
        )
    raise RiverError(
        f"aotinductor builds for the targets cpu and cuda, not {recipe.target!r}: a package is "
        "compiled for the GPU of the machine that builds it"
    )


def _cpu(job: BuildJob, shared: SharedWeights) -> CpuDevice:
    recipe = job.recipe
    asked = recipe.options_as(AOTInductorOptions)
    if platform.machine() not in ("x86_64", "AMD64"):
        raise RiverError(
            f"aotinductor compiles CPU engines for {X86_LEVEL} alone, and this machine is "
            f"{platform.machine()}; build with --backend onnxruntime"
        )
    bits = asked.lm_head_bits or 32  # a 16-bit head of the checkpoint is widened, which is exact
    if bits not in CPU_HEAD_BITS:
        raise RiverError(
            f"aotinductor's CPU engines take an LM head of "
            f"{', '.join(map(str, CPU_HEAD_BITS))} bits, not {bits}"
        )
    return CpuDevice(
        banks=job.banks,
        rounds=asked.river_activation == "int8",
        head_bits=bits,
        head_group_size=recipe.group_size,
        embedding_dtype=shared.embedding.dtype,
    )


def _cuda(job: BuildJob) -> CudaDevice:
    recipe = job.recipe
    asked = recipe.options_as(AOTInductorOptions)
    if recipe.backend == "aotinductor" and not torch.cuda.is_available():
        raise RiverError(
            f"target {recipe.target}: torch {torch.__version__} sees no GPU on this machine, and a "
            "package is compiled on a GPU of the kind that runs it"
        )
    if recipe.backend == "aotinductor" and asked.river_activation is not None:
        raise RiverError(
            f"river activation {asked.river_activation!r} is not for aotinductor on a GPU, whose "
            "kernels multiply in 16 bits: leave it out, or build with --backend torch"
        )
    bits = asked.lm_head_bits or 16
    if bits not in CUDA_HEAD_BITS:
        raise RiverError(
            f"{recipe.backend}'s GPU engines take an LM head of "
            f"{', '.join(map(str, CUDA_HEAD_BITS))} bits, not {bits}"
        )
    return CudaDevice(
        banks=job.banks,
        tied=job.source.config.tie_embeddings,
        head_bits=bits,
        head_group_size=recipe.group_size,
        is_recorded=recipe.backend == "torch",
        # float32 is what the activations are, on a GPU bfloat16.
        rounds=recipe.backend == "torch" and asked.river_activation != "float32",
    )
