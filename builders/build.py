"""From a checkpoint to an engine directory, one layer at a time."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from builders.families import ModelConfig
from builders.job import Banks, BuildJob, HalfDtype
from builders.recipes import Recipe, load_recipe
from builders.source import ModelSource
from river_trt.engine_dir import replace_policy, write_engine_dir
from river_trt.errors import RiverError
from river_trt.manifest import Manifest
from river_trt.policy_file import PolicyFile
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy

DEFAULT_TAU = 0.97
# A backend's `build_engine(job)`; its libraries are imported when it is asked for.
BUILDERS = {
    "aotinductor": "builders.aotinductor.build",
    "onnxruntime": "builders.onnxruntime.build",
    "torch": "builders.aotinductor.build",
    "tensorrt": "builders.tensorrt.build",
    "tensorrt-rtx": "builders.tensorrt.build",
    "tensorrt-llm": "builders.tensorrt_llm.build",
    "tensorrt-llm-checkpoint": "builders.tensorrt_llm.convert",  # of `river-trt convert`
}
# Options that change the recipe, and where in it.
_RECIPE_OPTIONS = {
    "backend": "backend",
    "quantiser": "quantiser",
    "group_size": "group_size",
    "symmetric": "symmetric",
    "lm_head_bits": "lm_head_bits",
    "backbone_bits": "backbone_bits",
    "river_activation": "river_activation",
    "kernels": "kernels",
    "max_seq_len": "max_seq_len",
    "mode": "tensorrt.mode",
}
TENSORRT_LLM = ("tensorrt-llm", "tensorrt-llm-checkpoint")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a user asks of a build; None leaves it to the target's recipe."""

    model: str  # Hugging Face directory, hub id, .gguf file, or `demo`
    out: Path
    recipe: str = "cpu"
    backend: str | None = None
    quantiser: str | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    lm_head_bits: int | None = None
    backbone_bits: int | None = None
    river_activation: str | None = None
    kernels: str | None = None  # onnxruntime: its own operators; native: plugins/cpu
    mode: str | None = None  # TensorRT: plugin or portable
    max_seq_len: int | None = None
    tau: float | None = None  # one tau for all layers
    pinned: tuple[int, ...] | None = None  # layers 1..L; None: the last layer
    policy: Path | None = None  # written by `calibrate --save`; in place of tau and pinned
    calibration_text: Path | None = None
    force: bool = False
    banks: Banks = "both"
    tensor_parallel: int = 1  # ranks of a TensorRT-LLM checkpoint
    dtype: HalfDtype | None = None  # TensorRT, TensorRT-LLM: of activations and backbone


def build(options: BuildOptions, progress: Progress | None = None) -> Manifest:
    """Build the engine and return its manifest.

    What can be wrong with the input is found before the output directory is touched, and a build
    that fails leaves nothing behind. Raises RiverError (CheckpointError for the model).
    """
    given = {place: getattr(options, name) for name, place in _RECIPE_OPTIONS.items()}
    changes = {name: value for name, value in given.items() if value is not None}
    if options.dtype is not None and changes.get("backend") not in TENSORRT_LLM:
        changes |= {"tensorrt.dtype": options.dtype, "tensorrt.kv_cache": options.dtype}
    recipe = load_recipe(options.recipe, changes)
    if recipe.backend not in BUILDERS:
        raise RiverError(
            f"backend {recipe.backend!r} is not offered; choose one of {', '.join(BUILDERS)}"
        )
    if options.policy is not None and (options.tau is not None or options.pinned is not None):
        raise RiverError("a saved policy has its own tau and pins; leave tau and pinned out")
    saved = None if options.policy is None else PolicyFile.read(options.policy)
    with write_engine_dir(options.out, options.force) as directory:
        source = ModelSource.open(options.model)
        config = source.config
        if saved is not None:
            saved.check_model(source.config_sha256, config.num_layers, config.hidden_size)
        half = half_dtype(config, recipe, options.dtype)
        longest = engine_positions(config, recipe.max_seq_len, options.max_seq_len)
        recipe = dataclasses.replace(recipe, max_seq_len=longest)
        policy = initial_policy(config.num_layers, options.tau, options.pinned)
        job = BuildJob(
            source,
            recipe,
            policy,
            directory,
            options.calibration_text,
            progress or _silent,
            options.banks,
            None if saved is None else saved.policy,
            options.tensor_parallel,
            half,
        )
        manifest: Manifest = builder(recipe.backend)(job)
        if saved is None:
            return manifest
        return replace_policy(directory, saved.policy, saved.calibration)


def half_dtype(config: ModelConfig, recipe: Recipe, asked: HalfDtype | None) -> HalfDtype:
    """What a TensorRT-LLM checkpoint has 16-bit values in.

    RiverError for float16, on a GPU, in a family whose activations overflow it, unless the user
    asked for it by name.
    """
    if asked is not None:
        return asked
    on_gpu = recipe.backend in TENSORRT_LLM or (
        recipe.tensorrt is not None and recipe.tensorrt.dtype == "float16"
    )
    if config.needs_bfloat16 and on_gpu:
        raise RiverError(
            f"activations of {config.family} overflow float16; use --dtype bfloat16 "
            "(--dtype float16 does it all the same)"
        )
    return "float16"


def builder(backend: str) -> Callable[[BuildJob], Manifest]:
    """What fills a job's directory with an engine of that backend."""
    found: Callable[[BuildJob], Manifest] = import_module(BUILDERS[backend]).build_engine
    return found


def engine_positions(config: ModelConfig, recipes: int, asked: int | None) -> int:
    """Positions of the engine: the recipe's or those asked for, up to the model's.

    A LongRoPE model ends where its short factors do: transformers turns all tokens of a longer
    sequence by the long ones, and keys that are in the cache by then cannot follow. RiverError
    when more is asked for.
    """
    fixed = config.fixed_rope_positions
    if fixed is None:
        return min(recipes, config.max_position_embeddings)
    if asked is not None and asked > fixed:
        raise RiverError(
            f"max_seq_len {asked} is more than the {fixed} positions of LongRoPE's short factors; "
            "longer sequences turn all their tokens by the long ones, which is not supported"
        )
    return min(recipes, fixed)


def initial_policy(
    num_layers: int, tau: float | None, pinned: tuple[int, ...] | None
) -> ExitPolicy:
    """The policy of an engine that nobody calibrated: similarity gate, last layer pinned.

    The last layer is by far the most sensitive (docs/exit-policy.md).
    """
    mask = np.zeros(num_layers, np.bool_)
    for layer in (num_layers,) if pinned is None else pinned:
        if not 1 <= layer <= num_layers:
            raise RiverError(f"pinned layer {layer} is outside 1..{num_layers}")
        mask[layer - 1] = True
    value = DEFAULT_TAU if tau is None else tau
    return ExitPolicy(np.full(num_layers, value, np.float32), mask)


def _silent(stage: str, done: int, total: int) -> None:
    pass
