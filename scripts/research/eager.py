"""An aotinductor engine's program run by torch itself, to measure the package against.

The same operators, weights and session; in place of the compiled package, torch.compile (which
compiles when it first meets a shape) or plain eager execution.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from builders.aotinductor.cpu import CpuDevice
from builders.aotinductor.program import DeviceProgram, rewrite
from builders.quantisers import make_quantiser
from builders.river_bank import river_format
from builders.source import ModelSource
from builders.tracing import trace
from river_trt.backends.aotinductor.checks import check_engine
from river_trt.backends.base import SessionOptions
from river_trt.backends.torch.fakes import register_fakes
from river_trt.backends.torch.graphs import Outputs
from river_trt.backends.torch.operators import load_operators
from river_trt.backends.torch.session import WEIGHTS_FILE, TorchSession
from river_trt.backends.torch.weights import read_weights
from river_trt.engine import Engine
from river_trt.engine_dir import read_directions, read_engine_dir
from river_trt.errors import EngineError
from river_trt.manifest import Manifest
from river_trt.stepping import Stepper
from river_trt.text import Tokenizer


def load_eager(
    directory: Path, model: str, options: SessionOptions, compiled: bool = True
) -> Engine:
    """The engine in `directory`, which was built from `model`, without its package.

    compiled: under torch.compile, else operator by operator. EngineError where the engine is not a
    CPU engine of this backend, or of another model.
    """
    manifest = read_engine_dir(directory, verify=False)
    if (manifest.backend.name, manifest.backend.target) != ("aotinductor", "cpu"):
        raise EngineError(f"{directory} is no aotinductor engine for the CPU")
    source = ModelSource.open(model)
    if source.config_sha256 != manifest.model.config_sha256:
        raise EngineError(f"{directory} was built from another model than {model}")
    device = check_engine(manifest)
    load_operators(device.type)
    register_fakes(device.type)
    weights = read_weights(directory / WEIGHTS_FILE, device)
    program = _program(source, manifest, weights["embedding"].dtype)
    run = runner(program, weights, compiled)
    shape = manifest.model.shape
    session = TorchSession(run, weights, shape, options, device, torch.float32)
    policy = manifest.policy.to_policy(read_directions(directory, manifest))
    tokenizer = Tokenizer.from_engine_dir(directory, manifest)
    stepper = Stepper(session, manifest, options)
    return Engine(manifest, policy, tokenizer, stepper, options)


def runner(
    program: DeviceProgram, weights: dict[str, torch.Tensor], compiled: bool = False
) -> Callable[[list[torch.Tensor]], Outputs]:
    """The program over these weights, as a session takes it."""
    module = program.module
    for name in program.planned:
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, weights[name])
    step = torch.compile(module, dynamic=True) if compiled else module

    @torch.inference_mode()
    def run(inputs: list[torch.Tensor]) -> Outputs:
        return list(step(*inputs))

    return run


def _program(
    source: ModelSource, manifest: Manifest, embedding_dtype: torch.dtype
) -> DeviceProgram:
    river, precision = manifest.river, manifest.precision
    quantiser = make_quantiser(river.quantiser, river.group_size, river.symmetric)
    layout = river_format(source.config, quantiser, river.group_size, river.symmetric)
    device = CpuDevice(
        banks="both",
        rounds=precision.river_activation == "int8",
        head_bits=precision.lm_head_bits,
        head_group_size=river.group_size,
        embedding_dtype=embedding_dtype,
    )
    return rewrite(trace(source.config, layout, manifest.model.shape.max_seq_len), device)
