"""Write a Triton model repository around an engine directory."""

import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from river_trt.backends.tensorrt.library import LIBRARIES
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError
from river_trt.manifest import Manifest
from river_trt.plugin import built_library
from river_trt.triton.config_pbtxt import config_pbtxt
from river_trt.triton.dockerfile import backend_of, dockerfile, server_image
from river_trt.triton.fields import find_layout
from river_trt.triton.settings import ModelSettings
from river_trt.triton.wheel import put_wheel

EngineFiles = Literal["copy", "link", "reference"]
ENGINE_FOLDER = "engine"

MODEL_PY = '''\
"""Written by `river-trt triton export`."""

try:
    from river_trt.triton.python_model import TritonPythonModel
except ImportError as error:
    import sys

    raise ImportError(
        f"river-trt is missing for the server's Python ({sys.prefix}): {error}; "
        "start the server with `river-trt triton serve`, or install it there"
    ) from error

__all__ = ["TritonPythonModel"]
'''
RUN_SH = """\
#!/usr/bin/env bash
# Serves this repository on this machine with the tritonserver of the wheel nvidia-pytriton.
#
# For clients that you do not trust put a proxy in front that bounds a request's body: tritonserver
# itself does not, and its JSON parser dies (signal 11) of deep nesting. `triton serve` gives it a
# stack that takes bodies of 1 MiB of brackets, so nginx wants `client_max_body_size 1m;`. A
# tritonserver that you start by other means has 8 MiB of stack: `client_max_body_size 64k;`.
set -euo pipefail
exec river-trt triton serve --repo "$(dirname "${BASH_SOURCE[0]}")" "$@"
"""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """settings.engine is the engine directory to export.

    Raises RiverError for a name, a choice or GPUs that are not offered.
    """

    settings: ModelSettings
    out: Path
    name: str = "river_llm"
    engine_files: EngineFiles = "copy"
    gpus: tuple[int, ...] = (0,)  # for an engine of a GPU; one instance on each
    docker: bool = False  # write a Dockerfile, with the wheel and the plugin library that it takes
    wheel: Path | None = None  # of river-trt, for the image; None: built from this checkout

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.name):
            raise RiverError(f"name must be letters, digits, '_', '-' and '.', got {self.name!r}")
        if self.engine_files not in get_args(EngineFiles):
            choices = ", ".join(get_args(EngineFiles))
            raise RiverError(f"engine-files must be one of {choices}, got {self.engine_files!r}")
        if not self.gpus or min(self.gpus) < 0 or len({*self.gpus}) != len(self.gpus):
            raise RiverError(f"gpus must be different numbers of at least 0, got {self.gpus}")
        if self.docker and self.engine_files == "reference":
            raise RiverError("an image holds its engine: --docker needs --engine-files copy")


def export(options: ExportOptions) -> Path:
    """Write the repository and return the model's folder in it.

    An existing repository gets one more model, and a Dockerfile that holds both. Raises RiverError
    or EngineError before anything is written, or leaves nothing half-written.
    """
    engine = Path(options.settings.engine)
    manifest = read_engine_dir(engine, verify=options.settings.verify)
    if not manifest.model.has_tokenizer:
        raise RiverError(f"{engine} has no tokenizer, and Triton's layouts carry text")
    model = options.out / options.name
    if model.exists():
        raise RiverError(f"{model} exists already; choose another --name or --out")
    if options.docker:
        _check_image(options.out / "Dockerfile", manifest.backend.name)
    layout = find_layout(options.settings.layout)
    files = [Path("manifest.json"), *map(Path, manifest.files)]
    options.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{options.name}-", dir=options.out))
    try:
        version = work / "1"
        version.mkdir()
        place = str(engine.resolve())
        if options.engine_files != "reference":
            _take_engine(engine, files, version / ENGINE_FOLDER, options.engine_files)
            place = ENGINE_FOLDER
        replace(options.settings, engine=place).write(version)
        (version / "model.py").write_text(MODEL_PY, encoding="utf-8")
        gpus = () if manifest.backend.target == "cpu" else options.gpus
        text = config_pbtxt(options.name, layout, options.settings.max_batch_size, gpus)
        (work / "config.pbtxt").write_text(text, encoding="utf-8")
        work.chmod(0o755)
        image = Path(tempfile.mkdtemp(dir=work))
        if options.docker:
            _make_image_files(image, options, manifest)
        files_of_image = list(image.iterdir())
        for path in files_of_image:
            path.replace(options.out / path.name)
        image.rmdir()
        work.rename(model)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    _write_executable(options.out / "run.sh", RUN_SH)
    return model


def _take_engine(engine: Path, files: list[Path], target: Path, how: EngineFiles) -> None:
    """ "link" is one link to the directory: ONNX Runtime refuses weights with hard links."""
    if how == "link":
        target.symlink_to(engine.resolve(), target_is_directory=True)
        return
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(engine / name, target / name)


def _check_image(path: Path, backend: str) -> None:
    """One image serves one backend's engines."""
    other = backend_of(path.read_text(encoding="utf-8")) if path.is_file() else None
    if other not in (None, backend):
        raise RiverError(
            f"{path.parent} is for engines of {other}, and this one is of {backend}; "
            "choose another --out"
        )


def _make_image_files(folder: Path, options: ExportOptions, manifest: Manifest) -> None:
    """Wheel, plugin library where one is built, Dockerfile."""
    image = server_image(manifest)
    wheel = put_wheel(options.wheel, folder)
    plugin = None
    if image.needs_plugin and (library := _plugin_library(manifest)) is not None:
        plugin = library.name
        shutil.copyfile(library, folder / plugin)
    models = [path.parent.name for path in options.out.glob("[!.]*/config.pbtxt")]
    text = dockerfile(image, manifest.backend.name, sorted([*models, options.name]), wheel, plugin)
    (folder / "Dockerfile").write_text(text, encoding="utf-8")


def _plugin_library(manifest: Manifest) -> Path | None:
    """The library built here for the engine's TensorRT, if there is one."""
    name, version = manifest.backend.name, manifest.backend.version
    known = LIBRARIES.get(name)
    if known is None:  # TensorRT-LLM, which says its own version; it brings TensorRT 10
        version = "10"
    elif known.plugin_abi is not None:
        version = known.plugin_abi
    try:
        return built_library("tensorrt", version)
    except RiverError:
        return None


def _write_executable(path: Path, text: str) -> None:
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
