"""Write a Triton model repository around an engine directory."""

import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from river_trt import __version__
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError
from river_trt.triton.config_pbtxt import config_pbtxt
from river_trt.triton.fields import find_layout
from river_trt.triton.settings import ModelSettings

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
set -euo pipefail
exec river-trt triton serve --repo "$(dirname "${BASH_SOURCE[0]}")" "$@"
"""
DOCKERFILE = """\
# docker build -t river-trt-server . && docker run --rm -p 8000-8002:8000-8002 --shm-size=1g \\
#     river-trt-server            (add --gpus all for an engine of a GPU)
# An image whose Python is 3.11 or newer: 24.11 and later. Not run by river-trt's own tests.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.06-py3
FROM ${TRITON_IMAGE}
RUN pip install --no-cache-dir "river-trt==RIVER_TRT_VERSION"
COPY . /models
CMD ["tritonserver", "--model-repository=/models", "--exit-on-error=false"]
"""
DOCKERIGNORE = "Dockerfile\n.dockerignore\nrun.sh\n"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """settings.engine is the engine directory to export."""

    settings: ModelSettings
    out: Path
    name: str = "river_llm"
    engine_files: EngineFiles = "copy"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.name):
            raise RiverError(f"name must be letters, digits, '_', '-' and '.', got {self.name!r}")
        if self.engine_files not in get_args(EngineFiles):
            choices = ", ".join(get_args(EngineFiles))
            raise RiverError(f"engine-files must be one of {choices}, got {self.engine_files!r}")


def export(options: ExportOptions) -> Path:
    """Write the repository and return the model's folder in it.

    An existing repository gets one more model; run.sh and Dockerfile are written once. Raises
    RiverError or EngineError before anything is written, or leaves nothing half-written.
    """
    engine = Path(options.settings.engine)
    manifest = read_engine_dir(engine, verify=options.settings.verify)
    if not manifest.model.has_tokenizer:
        raise RiverError(f"{engine} has no tokenizer, and Triton's layouts carry text")
    model = options.out / options.name
    if model.exists():
        raise RiverError(f"{model} exists already; choose another --name or --out")
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
        text = config_pbtxt(
            options.name, layout, options.settings.max_batch_size, manifest.backend.target
        )
        (work / "config.pbtxt").write_text(text, encoding="utf-8")
        work.chmod(0o755)
        work.rename(model)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    _write_helpers(options.out)
    return model


def _take_engine(engine: Path, files: list[Path], target: Path, how: EngineFiles) -> None:
    """ "link" is one link to the directory: ONNX Runtime refuses weights with hard links."""
    if how == "link":
        target.symlink_to(engine.resolve(), target_is_directory=True)
        return
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(engine / name, target / name)


def _write_helpers(out: Path) -> None:
    for name, text, mode in (
        ("run.sh", RUN_SH, 0o755),
        ("Dockerfile", DOCKERFILE.replace("RIVER_TRT_VERSION", __version__), 0o644),
        (".dockerignore", DOCKERIGNORE, 0o644),
    ):
        if not (out / name).exists():
            (out / name).write_text(text, encoding="utf-8")
            (out / name).chmod(mode)
