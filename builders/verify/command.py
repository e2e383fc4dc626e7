"""`river-trt verify`: make the reference, open what can be run here, and compare."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import river_trt
from builders.job import BuildJob
from builders.recipes import Recipe, load_recipe
from builders.reference import load_reference
from builders.registry import builder
from builders.source import ModelSource
from builders.tensorrt.graph_file import GRAPH_FILE, write_graph
from builders.tensorrt.options import Profile, TensorRTOptions
from builders.verify.compare import Comparison, compare
from builders.verify.runners import Pass, PassRunner, engine_pass, graph_pass, torch_pass
from river_trt.backends.tensorrt.cuda import Cuda
from river_trt.backends.tensorrt.library import LIBRARIES, load_library
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError
from river_trt.manifest import Manifest, PrecisionInfo
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy
from river_trt.text import TOKENIZER_FILE

REFERENCE, GRAPH = "torch", "TensorRT's portable graph, by onnxruntime"
# Of the logits against the reference in float32, by what a backend computes in; int8: a river that
# rounds its inputs.
TOLERANCES = {"float32": 2e-3, "float16": 5e-2, "bfloat16": 0.5, "int8": 1.0}
FULL_HEAD_BITS = 16
BUILT_IN = (None, "the built-in text")


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What a user asks for."""

    model: str
    engines: tuple[Path, ...] = ()  # engine directories of any backend
    quantiser: str = "rtn"  # of the river where no engine is given
    tokens: int = 24
    layers: bool = False  # compare the hidden state after each layer too


@dataclass(frozen=True, slots=True)
class VerifyResult:
    comparisons: tuple[Comparison, ...]
    not_run: dict[str, str]  # backend to the reason

    @property
    def passed(self) -> bool:
        return all(comparison.passed for comparison in self.comparisons)


def verify(options: VerifyOptions, progress: Progress) -> VerifyResult:
    """Compare every backend that runs here with the torch reference on the same inputs.

    Raises RiverError for an engine of another model or with another river than the first one's.
    """
    if options.tokens < 1:
        raise RiverError(f"tokens must be at least 1, got {options.tokens}")
    source = ModelSource.open(options.model)
    engines = {path: read_engine_dir(path) for path in options.engines}
    recipe = _recipe(options, source, engines)
    not_run: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="river-trt-verify-") as folder:
        work = Path(folder)
        tokenizer = work / "tokenizer"
        tokenizer.mkdir()
        source.checkpoint.write_tokenizer(tokenizer)
        progress("reference", 0, 1)
        decoder = load_reference(source, tokenizer / TOKENIZER_FILE, recipe, recipe.max_seq_len)
        progress("reference", 1, 1)
        passes = {
            GRAPH: (_graph(source, recipe, work / "graph", options.layers, progress), "float32")
        }
        if not any(manifest.backend.name == "onnxruntime" for manifest in engines.values()):
            built = _job(source, recipe, work / "onnxruntime", progress)
            source.checkpoint.write_tokenizer(built.directory)
            builder("onnxruntime")(built)
            passes["onnxruntime"] = (_open(built.directory), "float32")
        for path, manifest in engines.items():
            name = f"{manifest.backend.name}, {path}"
            try:
                passes[name] = (_open(path), _coarsest(manifest.precision))
            except RiverError as error:
                not_run[name] = str(error)
        not_run |= _absent({manifest.backend.name for manifest in engines.values()})
        layers = source.config.num_layers
        reference = PassRunner(REFERENCE, torch_pass(decoder, options.layers), layers)
        runners = {
            PassRunner(name, run, layers): TOLERANCES[dtype]
            for name, (run, dtype) in passes.items()
        }
        progress("comparing", 0, 1)
        comparisons = compare(reference, runners, _cases(source, options.tokens))
        progress("comparing", 1, 1)
    return VerifyResult(tuple(comparisons), not_run)


def _recipe(options: VerifyOptions, source: ModelSource, engines: dict[Path, Manifest]) -> Recipe:
    """The CPU's recipe with the river of the engines, in float32."""
    changes: dict[str, Any] = {"quantiser": options.quantiser}
    described = None
    for path, manifest in engines.items():
        if manifest.model.config_sha256 != source.config_sha256:
            raise RiverError(f"{path} was built from another model than {options.model}")
        if manifest.precision.lm_head_bits < FULL_HEAD_BITS:
            raise RiverError(
                f"the LM head of {path} has {manifest.precision.lm_head_bits} bits; engines are "
                "compared with the checkpoint's own head"
            )
        if manifest.river.calibration not in BUILT_IN:
            raise RiverError(
                f"the river of {path} saw {manifest.river.calibration}; only one of the built-in "
                "text can be made again"
            )
        info = manifest.river
        if described not in (None, info):
            raise RiverError(f"the river of {path} is not that of the other engines")
        described = info
        changes = {
            "quantiser": info.quantiser,
            "group_size": info.group_size,
            "symmetric": info.symmetric,
        }
    changes |= {"exact": True, "river_activation": "float32", "max_seq_len": options.tokens}
    return load_recipe("cpu", changes)


def _coarsest(precision: PrecisionInfo) -> str:
    """What an engine computes in where it is least precise."""
    return "int8" if precision.river_activation == "int8" else precision.backbone


def _job(source: ModelSource, recipe: Recipe, directory: Path, progress: Progress) -> BuildJob:
    directory.mkdir()
    policy = ExitPolicy.full_depth(source.config.num_layers)
    return BuildJob(source, recipe, policy, directory, None, progress)


def _graph(
    source: ModelSource, recipe: Recipe, directory: Path, layers: bool, progress: Progress
) -> Pass:
    """The graph that TensorRT would build from, but in float32 and run by ONNX Runtime."""
    any_gpu = TensorRTOptions(
        compute_capability="8.0",
        profiles=(Profile("any", (1, 1, 1), (1, 1, 1)),),
        dtype="float32",
        kv_cache="float32",
        network="portable",
    )
    job = _job(source, recipe, directory, progress)
    source.checkpoint.write_tokenizer(directory)
    write_graph(job, any_gpu, directory, layer_outputs=layers)
    config = source.config
    cache = (1, config.num_kv_heads, recipe.max_seq_len, config.head_dim)
    return graph_pass(directory / GRAPH_FILE, config.num_layers, cache, layers)


def _open(directory: Path) -> Pass:
    return engine_pass(river_trt.load(directory, max_batch_size=1))


def _absent(given: set[str]) -> dict[str, str]:
    """Why the TensorRT backends without an engine did not run."""
    reasons = {}
    for backend in LIBRARIES.keys() - given:
        try:
            load_library(backend)
            Cuda.open()
            reasons[backend] = "no engine of it was given; build one and give --engine"
        except RiverError as error:
            reasons[backend] = str(error)
    return reasons


def _cases(source: ModelSource, tokens: int) -> list[dict[str, np.ndarray]]:
    """Full depth, and forced exits after the first and the middle layer."""
    layers = source.config.num_layers
    ids = np.random.default_rng(0).integers(0, source.config.vocab_size, (1, tokens))
    cases: list[dict[str, np.ndarray]] = []
    for layer in sorted({layers, 1, max(1, layers // 2)}):
        tau = np.full(layers, np.inf, np.float32)
        if layer < layers:
            tau[layer - 1] = -np.inf
        cases.append({"input_ids": ids, "tau": tau})
    return cases
