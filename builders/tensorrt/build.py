"""An engine for TensorRT or TensorRT-RTX: trace, write the graph and its weights, build."""

import tempfile
from pathlib import Path
from typing import Any

from builders.families import ModelConfig
from builders.job import BuildJob
from builders.layouts.byte_counts import byte_counts
from builders.tensorrt import versions
from builders.tensorrt.graph_file import GRAPH_FILE, write_graph
from builders.tensorrt.options import TensorRTOptions
from builders.tensorrt.plugin_library import plugin_library
from builders.tensorrt.process import run_build
from builders.tensorrt.request import BuildRequest
from builders.tensorrt.scope import DTYPES
from river_trt.backends.tensorrt.cuda import Cuda
from river_trt.backends.tensorrt.library import load_library
from river_trt.errors import CheckpointError, RiverError
from river_trt.layer_record import RECORD_FILE
from river_trt.manifest import BackendInfo, Manifest, PrecisionInfo
from river_trt.user_cache import private_folder

ENGINE_FILE = "engine.trt"
LOG_FILE = "build.log"
MULTIPLE = 8  # of what the plugins read: hidden, intermediate and head sizes
MAX_HEAD_DIM = 256


def build_engine(job: BuildJob) -> Manifest:
    """Fill the job's directory with a complete engine and return its manifest.

    Raises RiverError for what the library or this machine cannot build, before any weight is
    read; CheckpointError for a model that the plugins cannot run.
    """
    recipe, directory, config = job.recipe, job.directory, job.source.config
    options = recipe.options_as(TensorRTOptions)
    trt = load_library(recipe.backend)
    _check(job, trt, options)
    library = None
    if options.network == "plugin":
        library = plugin_library(trt, recipe.backend, job.progress)
    job.write_tokenizer()

    with tempfile.TemporaryDirectory(dir=directory, prefix=".graph-") as folder:
        written = write_graph(job, options, Path(folder))
        request = BuildRequest(
            backend=recipe.backend,
            target=recipe.target,
            graph=Path(folder, GRAPH_FILE),
            engine=directory / ENGINE_FILE,
            record=directory / RECORD_FILE,
            log=directory / LOG_FILE,
            max_seq_len=recipe.max_seq_len,
            options=options,
            plugin_library=library,
            timing_cache=_timing_cache(trt, options),
        )
        run_build(request, job.progress)
    compatible = "+" if options.hardware_compatibility == "ampere_plus" else ""
    backend = BackendInfo(
        recipe.backend,
        str(trt.__version__),
        recipe.target,
        compute_capability=options.compute_capability + compatible,
        mode=options.network,
        version_compatible=options.version_compatible,
    )
    head_bits = options.lm_head_bits or 8 * DTYPES[options.dtype].itemsize
    precision = PrecisionInfo(options.dtype, head_bits, options.kv_cache, options.dtype)
    counts = byte_counts(written.layout.sizes, config.num_layers, config.vocab_size)
    return job.write_manifest(backend, precision, written.calibration, counts, ENGINE_FILE)


def _check(job: BuildJob, trt: Any, options: TensorRTOptions) -> None:
    recipe, config = job.recipe, job.source.config
    versions.check_target(trt, recipe.backend, recipe.target, options.compute_capability)
    if options.lm_head_bits not in (None, 4, 8 * DTYPES[options.dtype].itemsize):
        raise RiverError(
            f"lm_head_bits {options.lm_head_bits} is not offered by {recipe.backend}: a head has 4 "
            f"bits or the type of the backbone, {options.dtype}"
        )
    if options.fixed_cache:
        what = "the portable network" if options.network == "portable" else "native attention"
        versions.require(trt, recipe.backend, versions.PORTABLE_NEEDS, what)
    if options.network == "portable":
        _check_pairs(job)
    else:
        versions.require(trt, recipe.backend, ("aliased_plugin_io",), "the plugin network")
        _check_sizes(job.source.checkpoint.name, config)
    if versions.buildable_targets(trt) is None:
        _check_device(recipe.target, options.compute_capability)


def _check_device(target: str, compute_capability: str) -> None:
    """TensorRT builds for the GPU that it runs on."""
    found = Cuda.open().compute_capability()
    if found != compute_capability:
        raise RiverError(
            f"TensorRT builds for the GPU of this machine, which has compute capability {found}, "
            f"and target {target} has {compute_capability}; build on that GPU"
        )


def _check_sizes(name: str, config: ModelConfig) -> None:
    """The plugins' limits, which TensorRT would only state when it builds."""
    sizes = {"hidden_size": config.hidden_size, "head_dim": config.head_dim}
    sizes["intermediate_size"] = config.intermediate_size
    for what, size in sizes.items():
        if size % MULTIPLE:
            raise CheckpointError(
                f"{name} has {what} {size}, but the plugins take multiples of {MULTIPLE} only; "
                "use --network portable"
            )
    if config.head_dim > MAX_HEAD_DIM:
        raise CheckpointError(
            f"{name} has head_dim {config.head_dim}, but the plugins take at most {MAX_HEAD_DIM}; "
            "use --network portable"
        )


def _check_pairs(job: BuildJob) -> None:
    """INT4 weights are stored as [K, N], two values of a row a byte."""
    sizes = {name: n for name, (n, _) in job.source.config.linear_shapes.items()}
    if job.recipe.options_as(TensorRTOptions).lm_head_bits == 4:
        sizes["lm_head"] = job.source.config.vocab_size
    for what, size in sizes.items():
        if size % 2:
            raise CheckpointError(
                f"{job.source.checkpoint.name}: {what} has {size} rows, but the portable network "
                "takes even numbers of 4-bit rows only"
            )


def _timing_cache(trt: Any, options: TensorRTOptions) -> Path | None:
    """One file a version and GPU: another's timings do not apply."""
    if not (options.timing_cache and versions.has(trt, "timing_cache")):
        return None
    capability = options.compute_capability.replace(".", "")
    return private_folder("tensorrt") / f"{trt.__version__}-sm{capability}.timing"
