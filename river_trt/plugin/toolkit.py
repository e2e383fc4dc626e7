"""What a build needs from this machine: nvcc, CMake, a C++ compiler and a build tool."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import MissingDependencyError

MIN_CUDA = (12, 4)
MIN_CMAKE = (3, 25)


@dataclass(frozen=True, slots=True)
class Toolkit:
    """Programs of a build; the versions are part of the cache key."""

    nvcc: Path
    cuda_version: str  # of nvcc, as 13.0.88
    cmake: Path
    cmake_version: str
    cxx: Path
    cxx_version: str
    generator: str  # of CMake: Ninja or Unix Makefiles
    make: Path  # ninja or make


def find_nvcc() -> Path | None:
    """CUDACXX, CUDA_HOME, CUDA_PATH, the PATH, then /usr/local/cuda; None where there is none."""
    if "CUDACXX" in os.environ:
        return _program(os.environ["CUDACXX"])
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if name in os.environ:
            return _program(str(Path(os.environ[name], "bin", "nvcc")))
    return _program("nvcc") or _program("/usr/local/cuda/bin/nvcc")


def find_toolkit() -> Toolkit:
    """Raises MissingDependencyError naming the program that is missing or too old."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise MissingDependencyError(
            "no nvcc on this machine: the plugin is compiled with NVIDIA's CUDA toolkit "
            f"({_dotted(MIN_CUDA)} or newer); install it, or set CUDA_HOME to where it is"
        )
    cuda_version = _version(nvcc, r"release [\d.]+, V([\d.]+)")
    _require("nvcc", nvcc, cuda_version, MIN_CUDA)
    cmake = _program("cmake")
    if cmake is None:
        raise MissingDependencyError("no cmake on this machine; pip install cmake")
    cmake_version = _version(cmake, r"version ([\d.]+)")
    _require("cmake", cmake, cmake_version, MIN_CMAKE)
    cxx = _program(os.environ.get("CXX", "g++"))
    if cxx is None:
        raise MissingDependencyError(
            f"no C++ compiler {os.environ.get('CXX', 'g++')!r} on this machine; "
            "install g++ or set CXX"
        )
    ninja, make = _program("ninja"), _program("make")
    program = ninja or make
    if program is None:
        raise MissingDependencyError("neither ninja nor make on this machine; pip install ninja")
    cxx_version = _version(cxx, r"([\d]+(?:\.[\d]+)+)")
    generator = "Unix Makefiles" if ninja is None else "Ninja"
    return Toolkit(nvcc, cuda_version, cmake, cmake_version, cxx, cxx_version, generator, program)


def _program(name: str) -> Path | None:
    found = shutil.which(name)
    return None if found is None else Path(found)


def _version(program: Path, pattern: str) -> str:
    done = subprocess.run(  # noqa: S603 (found by shutil.which)
        [program, "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    match = re.search(pattern, done.stdout)
    if done.returncode != 0 or match is None:
        raise MissingDependencyError(f"`{program} --version` does not tell a version")
    return match[1]


def _require(name: str, path: Path, version: str, least: tuple[int, int]) -> None:
    if tuple(int(part) for part in version.split(".")[:2]) < least:
        raise MissingDependencyError(f"{name} {version} ({path}) is older than {_dotted(least)}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
