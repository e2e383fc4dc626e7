"""The CMake build that the tests of plugins/ share: made once, then only brought up to date."""

import fcntl
import functools
import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from river_trt.errors import MissingDependencyError
from river_trt.plugin.headers import find_tensorrt_headers, find_torch_headers
from river_trt.plugin.toolkit import find_toolkit

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "plugins"  # scripts/test.sh builds it before the tests


@functools.cache
def build(*targets: str) -> Path:
    """The build folder with these targets in it. Skips the test where there is no nvcc."""
    try:
        toolkit = find_toolkit()
        tensorrt, torch = find_tensorrt_headers(), find_torch_headers()
    except MissingDependencyError as error:
        pytest.skip(f"the plugin is not compiled here: {error}")
    BUILD.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"CUDACXX": str(toolkit.nvcc), "CXX": str(toolkit.cxx)}
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest's workers are processes
        if not (BUILD / "CMakeCache.txt").exists():
            run(
                [
                    *(toolkit.cmake, "-S", ROOT / "plugins", "-B", BUILD, "-G", toolkit.generator),
                    "-DRIVER_PARTS=tensorrt;torch;tests",
                    f"-DTENSORRT_ROOT={tensorrt.root}",
                    f"-DTORCH_ROOT={torch.root}",
                ],
                environment,
            )
        run([toolkit.cmake, "--build", BUILD, "--target", *targets], environment)
    return BUILD


def run(command: list[object], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def main() -> int:
    """Everything that the tests need, with the compilers' progress. scripts/test.sh calls this."""
    try:
        toolkit = find_toolkit()
    except MissingDependencyError as error:
        print(f"the plugin is not compiled: {error}")
        return 0
    print(f"compiling the plugin with nvcc {toolkit.cuda_version} into {BUILD} ...", flush=True)
    start = time.monotonic()
    build("all")
    print(f"compiled in {time.monotonic() - start:.0f} s")
    return 0


def skip_without_package(name: str) -> None:
    """Skip where a package that only these tests need is not installed."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: pip install {name}")


if __name__ == "__main__":
    sys.exit(main())
