"""From an engine directory to a deserialised engine, or one sentence that says why not."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from river_trt.backends.tensorrt.cuda import Cuda
from river_trt.backends.tensorrt.library import LIBRARIES, load_library, version_numbers
from river_trt.engine_dir import sha256
from river_trt.errors import EngineError
from river_trt.manifest import REBUILD, Manifest
from river_trt.plugin import built_library
from river_trt.plugin.cache import read_libraries


class Messages:
    """What TensorRT complained about since it was last asked."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, message: str) -> None:
        self._lines.append(" ".join(str(message).split()))

    def take(self) -> str:
        """The last message, or a stand-in; all are forgotten."""
        last = self._lines[-1] if self._lines else "it gave no reason"
        self._lines.clear()
        return last

    def __len__(self) -> int:
        return len(self._lines)


@dataclass(frozen=True, slots=True, eq=False)
class OpenEngine:
    """The engine, what it runs on, and what must live as long as it does."""

    trt: Any
    cuda: Cuda
    engine: Any
    runtime: Any
    logger: Any
    recorder: Any
    messages: Messages


def open_engine(directory: Path, manifest: Manifest, gpu: int = 0) -> OpenEngine:
    """Check everything around the engine, then read it onto the GPU.

    Raises MissingDependencyError for a library that is not installed, EngineError for an engine of
    another GPU or version, RiverError for a plugin library that is missing.
    """
    trt = load_library(manifest.backend.name)
    cuda = Cuda.open(gpu)
    check_machine(manifest, trt, cuda.compute_capability())
    if manifest.backend.mode == "plugin":
        load_plugins(trt, manifest.backend.name)
    return deserialise(trt, cuda, directory / manifest.engine_file, manifest)


def check_machine(manifest: Manifest, trt: Any, compute_capability: str) -> None:
    """EngineError for an engine of another TensorRT major or another GPU."""
    backend = manifest.backend
    product = LIBRARIES[backend.name].product
    if version_numbers(backend.version)[0] != version_numbers(trt.__version__)[0]:
        raise EngineError(
            f"the engine was built for {product} {backend.version} but {trt.__version__} is "
            f"installed; install that version, or {REBUILD}"
        )
    wanted = backend.compute_capability or ""
    same = wanted == compute_capability
    newer = wanted.endswith("+") and _numbers(compute_capability) >= _numbers(wanted[:-1])
    if not (same or newer):
        raise EngineError(
            f"the engine is for compute capability {wanted} (target {backend.target}) but this "
            f"GPU has {compute_capability}; {REBUILD} --target for this GPU"
        )


def load_plugins(trt: Any, backend: str) -> None:
    """Register the plugin library that fits. RiverError where there is none."""
    version = LIBRARIES[backend].plugin_abi or str(trt.__version__)
    library = built_library("tensorrt", version)
    check_plugin_abi(library, version)
    if trt.get_plugin_registry().load_library(str(library)) is None:
        raise EngineError(f"TensorRT cannot load the plugin library {library}")


def check_plugin_abi(library: Path, version: str) -> None:
    """EngineError for a library that was built for another major: TensorRT would crash in it."""
    digest = sha256(library)
    major = version.split(".")[0]
    for known in read_libraries():
        if known.sha256 == digest and known.info.abi != major:
            raise EngineError(
                f"the plugin library {library} is for TensorRT {known.info.abi}.x but {version} "
                "is installed; build one with `river-trt plugin build`"
            )


def deserialise(trt: Any, cuda: Cuda, path: Path, manifest: Manifest) -> OpenEngine:
    """Read the engine file onto the GPU. EngineError with TensorRT's reason."""
    messages = Messages()
    logger, recorder = make_logger(trt, messages), make_recorder(trt, messages)
    runtime = trt.Runtime(logger)
    runtime.error_recorder = recorder
    # Such an engine brings code that runs on the host: refused by the runtime unless allowed.
    if manifest.backend.version_compatible:
        runtime.engine_host_code_allowed = True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot load {path}, which was built by "
            f"{manifest.backend.version}: {messages.take()}; {REBUILD}"
        )
    engine.error_recorder = recorder
    return OpenEngine(trt, cuda, engine, runtime, logger, recorder, messages)


def make_logger(trt: Any, messages: Messages) -> Any:
    """An ILogger that keeps errors and drops the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of the given module
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                messages.add(message)

    return Logger()


def make_recorder(trt: Any, messages: Messages) -> Any:
    """An IErrorRecorder: what goes wrong while the engine runs, as `messages`."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.errors: list[tuple[Any, str]] = []

        def num_errors(self) -> int:
            return len(self.errors)

        def get_error_code(self, index: int) -> Any:
            return self.errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.errors.clear()

        def report_error(self, code: Any, description: str) -> bool:
            self.errors.append((code, description))
            messages.add(description)
            return True

    return Recorder()


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
