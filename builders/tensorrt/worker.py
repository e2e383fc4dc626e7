"""Builds one engine: `python -m builders.tensorrt.worker REQUEST.json`, a process of its own.

TensorRT's parser and builder end the process over some errors, so they are not let into the
caller's. Progress goes to stdout, a JSON list [stage, done, total] a line; an error is one JSON
object {"error": ...}; everything TensorRT says is in the log.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from builders.tensorrt import versions
from builders.tensorrt.monitor import file_logger, progress_monitor
from builders.tensorrt.options import Profile
from builders.tensorrt.record import record_network
from builders.tensorrt.request import BuildRequest
from river_trt.backends.tensorrt.library import LIBRARIES, load_library
from river_trt.errors import RiverError


def main(argv: list[str]) -> int:
    _own_stdout()
    request = BuildRequest.from_json(Path(argv[0]).read_text(encoding="utf-8"))
    try:
        build(load_library(request.backend), request)
    except RiverError as error:
        return _fail(str(error))
    except OSError as error:  # a full disk
        return _fail(f"cannot write {error.filename or request.engine}: {error.strerror}")
    return 0


def build(trt: Any, request: BuildRequest) -> None:
    """Parse, record, build, write. Raises RiverError where TensorRT refuses."""
    options = request.options
    versions.check_target(trt, request.backend, request.target, options.compute_capability)
    logger = file_logger(trt, request.log)
    builder = trt.Builder(logger)
    library = request.plugin_library
    if library is not None and trt.get_plugin_registry().load_library(str(library)) is None:
        raise RiverError(f"TensorRT cannot load the plugin library {library}")
    network = versions.create_network(trt, builder)
    _say(["parsing", 0, 1])
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(request.graph)):
        reasons = [" ".join(str(parser.get_error(i)).split()) for i in range(parser.num_errors)]
        raise RiverError(f"TensorRT cannot read the graph: {'; '.join(reasons) or 'no reason'}")
    versions.allow_decomposition(trt, network)
    _say(["parsing", 1, 1])
    product = f"{LIBRARIES[request.backend].product} {trt.__version__}"
    record = record_network(trt, network, product, options.network, options.compute_capability)
    request.record.write_text(record.to_json(), encoding="utf-8")

    config = _configure(trt, builder, network, request)
    cache = _read_timing_cache(trt, config, request)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RiverError(f"TensorRT cannot build the engine: {last_error(request.log)}")
    _write_engine(request.engine, engine)
    if cache is not None and request.timing_cache is not None:
        _write_timing_cache(request.timing_cache, config.get_timing_cache())


def _configure(trt: Any, builder: Any, network: Any, request: BuildRequest) -> Any:
    options = request.options
    config = builder.create_builder_config()
    config.progress_monitor = progress_monitor(
        trt, lambda done, total: _say(["building engine", done, total])
    )
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    versions.set_target(trt, config, options.compute_capability)
    versions.set_hardware_compatibility(
        trt, request.backend, config, options.hardware_compatibility
    )
    if request.plugin_library is not None:
        versions.alias_plugin_caches(trt, config)
    if options.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    for profile in options.profiles:
        made = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            if -1 in tuple(tensor.shape):
                shapes = profile_shapes(
                    tensor.name, tuple(tensor.shape), profile, request.max_seq_len
                )
                made.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(made)
    return config


def profile_shapes(
    name: str, shape: tuple[int, ...], profile: Profile, max_seq_len: int
) -> list[tuple[int, ...]]:
    """Least, best and largest shape of a network input; -1 stands for a size that varies.

    No step is longer than the cache, whatever the profile allows.
    """

    def limited(sizes: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(min(size, max_seq_len) for size in sizes)

    varying = {
        "input_ids": (profile.batch, limited(profile.seq)),
        "past_lengths": (profile.batch,),
        "logit_indices": (limited(profile.logits),),
    }.get(name, (profile.batch, limited((128, 2048, max_seq_len))))
    shapes = []
    for level in range(3):
        sizes = iter(varying)
        shapes.append(tuple(next(sizes)[level] if size == -1 else size for size in shape))
    return shapes


def last_error(log: Path) -> str:
    """The last error that TensorRT logged, in one line; the log has the rest."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if line.startswith(("ERROR", "INTERNAL_ERROR"))]
    return errors[-1].partition(": ")[2] if errors else "it gave no reason"


def _read_timing_cache(trt: Any, config: Any, request: BuildRequest) -> Any:
    """The cache of earlier builds for this version and GPU, or a new one; None: not used."""
    path = request.timing_cache
    if path is None or not versions.has(trt, "timing_cache"):
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _write_timing_cache(path: Path, cache: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(memoryview(cache.serialize()))
    temporary.replace(path)


def _write_engine(path: Path, engine: Any) -> None:
    with path.open("wb") as file:
        file.write(memoryview(engine))


def _own_stdout() -> None:
    """Keep stdout for our own lines: what TensorRT prints goes to stderr, which is the log."""
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(channel, "w", encoding="utf-8")


def _fail(reason: str) -> int:
    _say({"error": reason})
    return 1


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
