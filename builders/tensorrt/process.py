"""Runs the building process and turns how it ends into a result or one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import builders
from builders.tensorrt.request import BuildRequest
from builders.tensorrt.worker import last_error
from river_trt.errors import RiverError
from river_trt.progress import Progress
from river_trt.user_cache import private_folder

FAILURE_LOG = "last-failure.log"
WORKER = "builders.tensorrt.worker"


def run_build(request: BuildRequest, progress: Progress) -> None:
    """Build the engine that is asked for. Raises RiverError with TensorRT's own reason."""
    with tempfile.TemporaryDirectory(prefix="river-trt-tensorrt-") as folder:
        file = Path(folder, "request.json")
        file.write_text(request.to_json(), encoding="utf-8")
        root = str(Path(builders.__file__).parents[1])
        paths = (root, os.environ.get("PYTHONPATH", ""))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if request.backend == "tensorrt-rtx":
            _link_library(Path(folder), environment)
        command = [sys.executable, "-m", WORKER, str(file)]
        with request.log.open("a", encoding="utf-8") as log, _ended(command, environment, log) as p:
            assert p.stdout is not None
            error = None
            for line in p.stdout:
                message = json.loads(line)
                if isinstance(message, list):
                    progress(*message)
                else:
                    error = message["error"]
            code = p.wait()
    if code == 0:
        return
    if error is None:
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        error = f"TensorRT {how} while building: {last_error(request.log)}"
    raise RiverError(f"{error}; the whole log is {_keep(request.log)}")


def _keep(log: Path) -> Path:
    """A copy of the log of a build that failed: the engine directory is not there for long."""
    kept = private_folder("tensorrt") / FAILURE_LOG
    shutil.copyfile(log, kept)
    return kept


@contextmanager
def _ended(
    command: list[str], environment: dict[str, str], log: TextIO
) -> Iterator["subprocess.Popen[str]"]:
    """The process, which does not outlive the block."""
    process = subprocess.Popen(  # noqa: S603 (this Python and our own module)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _link_library(folder: Path, environment: dict[str, str]) -> None:
    """TensorRT-RTX's parser opens libtensorrt_rtx.so, a name that PyPI's wheel does not have."""
    spec = find_spec("tensorrt_rtx_libs")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for library in Path(place).glob("libtensorrt_rtx.so.*"):
            (folder / "libtensorrt_rtx.so").symlink_to(library)
            paths = [str(folder), environment.get("LD_LIBRARY_PATH", "")]
            environment["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
            return
