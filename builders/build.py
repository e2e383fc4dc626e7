"""From a checkpoint to an engine directory, one layer at a time."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from builders.families import ModelConfig
from builders.forecast import Forecast
from builders.job import Banks, BuildJob
from builders.recipes import Recipe, load_recipe
from builders.registry import builder
from builders.source import ModelSource
from river_trt.engine_dir import replace_policy, write_engine_dir
from river_trt.errors import RiverError
from river_trt.manifest import Manifest
from river_trt.policy_file import PolicyFile
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy

DEFAULT_TAU = 0.97
DEFAULT_QUALITY = 0.05  # nats
PolicyKind = Literal["calibrated", "paper"]
# Their policy is part of the network or of config.json: one that is found later does not get there.
FIXED_POLICY = ("tensorrt-llm", "tensorrt-llm-checkpoint", "river-checkpoint")


@dataclass(frozen=True, slots=True, init=False)
class BuildOptions:
    """What a user asks of a build; what is left out is the target's recipe's.

    Beside the fields, every option that the chosen backend declares is a keyword: BuildOptions(
    "demo", out, kernels="native"). `build` refuses what the backend has not.
    """

    model: str  # Hugging Face directory, hub id, .gguf file, or `demo`
    out: Path
    recipe: str = "cpu"
    tau: float | None = None  # one tau for all layers
    pinned: tuple[int, ...] | None = None  # layers 1..L; None: the last layer
    # "none": full depth; "paper": similarity gate, one tau; a file written by `calibrate --save`
    policy: Path | str | None = None
    calibrate: bool = True  # find a policy, where no other option names one
    quality: float | None = None  # KL that it may cost, nats a token; None: DEFAULT_QUALITY
    calibration_text: Path | None = None
    force: bool = False
    banks: Banks = "both"
    changes: dict[str, Any] = field(default_factory=dict)  # of the recipe, by name

    def __init__(self, model: str, out: Path, recipe: str = "cpu", **asked: Any) -> None:
        own = {"model": model, "out": out, "recipe": recipe}
        defaults = {f.name: f.default for f in dataclasses.fields(self) if f.name != "changes"}
        own |= {name: asked.pop(name, defaults[name]) for name in defaults.keys() - own.keys()}
        # By name, as dataclasses.replace gives them, and as keywords, which come first.
        changes = dict(asked.pop("changes", {}))
        changes |= {name: value for name, value in asked.items() if value is not None}
        for name, value in (own | {"changes": changes}).items():
            object.__setattr__(self, name, value)


def build(
    options: BuildOptions,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Manifest:
    """Build the engine and return its manifest.

    announce: told in a sentence how long it will take, once the input has been checked.

    What can be wrong with the input is found before the output directory is touched, and a build
    that fails leaves nothing behind. Raises RiverError (CheckpointError for the model).
    """
    # The search reads engines that this module builds.
    from builders.calibration.at_build import BuildWatch

    recipe = load_recipe(options.recipe, options.changes)
    kind = policy_kind(options)
    saved = PolicyFile.read(options.policy) if isinstance(options.policy, Path) else None
    with write_engine_dir(options.out, options.force) as directory:
        source = ModelSource.open(options.model)
        config = source.config
        if saved is not None:
            saved.check_model(source.config_sha256, config.num_layers, config.hidden_size)
        check_dtype(config, recipe, options.changes)
        longest = engine_positions(config, recipe.max_seq_len, options.changes.get("max_seq_len"))
        recipe = dataclasses.replace(recipe, max_seq_len=longest)
        policy = initial_policy(config.num_layers, options.tau, options.pinned)
        if options.policy == "none":
            policy = ExitPolicy.full_depth(config.num_layers)
        fixed = recipe.backend in FIXED_POLICY
        searches = kind is not None and options.banks == "both" and not fixed
        watch = BuildWatch(source, directory, recipe.backend) if searches else None
        report = progress or _silent
        if announce is not None:
            forecast = Forecast.of(
                config, source.num_parameters, recipe.quantiser, watch is not None
            )
            report = _after(announce, str(forecast), report)
        job = BuildJob(
            source,
            recipe,
            policy,
            directory,
            options.calibration_text,
            report,
            options.banks,
            None if saved is None else saved.policy,
            watch,
        )
        manifest: Manifest = builder(recipe.backend)(job)
        if saved is not None:
            return replace_policy(directory, saved.policy, saved.calibration)
        if watch is None or kind is None:
            return manifest
        quality = DEFAULT_QUALITY if options.quality is None else options.quality
        found = watch.calibrate(manifest, kind, quality, report)
        if found is None:
            return manifest
        return found.store(directory, manifest)


def policy_kind(options: BuildOptions) -> PolicyKind | None:
    """What is to be searched for; None where the options name a policy, or want no search.

    Raises RiverError for options that contradict each other.
    """
    by_hand = options.tau is not None or options.pinned is not None
    if options.policy is not None and by_hand:
        raise RiverError("a saved policy has its own tau and pins; leave tau and pinned out")
    if isinstance(options.policy, str) and options.policy not in ("none", "paper"):
        raise RiverError(f"policy must be none, paper or a file, got {options.policy!r}")
    searched = options.policy in (None, "paper") and not by_hand and options.calibrate
    if options.policy == "paper" and not options.calibrate:
        raise RiverError("--policy paper is calibrated; leave --no-calibrate out, or give --tau")
    if options.quality is not None:
        if not (math.isfinite(options.quality) and options.quality > 0):
            raise RiverError(f"quality must be a KL above 0, got {options.quality:g}")
        if not searched:
            raise RiverError("--quality is what a calibrated policy may cost, and none is searched")
    if not searched:
        return None
    return "paper" if options.policy == "paper" else "calibrated"


def check_dtype(config: ModelConfig, recipe: Recipe, changes: Mapping[str, Any]) -> None:
    """RiverError for float16 in a family whose activations overflow it, unless asked for by name.

    Of the backends whose options have a dtype: those of GPUs that compute in 16 bits.
    """
    dtype = getattr(recipe.options, "dtype", None)
    if config.needs_bfloat16 and dtype == "float16" and "dtype" not in changes:
        raise RiverError(
            f"activations of {config.family} overflow float16; use --dtype bfloat16 "
            "(--dtype float16 does it all the same)"
        )


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


def _after(announce: Callable[[str], None], sentence: str, progress: Progress) -> Progress:
    """`progress` whose first word comes after the sentence: the work begins."""
    waiting = [sentence]

    def report(stage: str, done: int, total: int) -> None:
        if waiting:
            announce(waiting.pop())
        progress(stage, done, total)

    return report


def _silent(stage: str, done: int, total: int) -> None:
    pass
