"""Compile and run the kernel test programs of plugins/tests/kernels on the CPU."""

import functools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from river_trt.plugin.toolkit import find_nvcc

PLUGINS = Path(__file__).parents[2] / "plugins"
KERNELS = PLUGINS / "kernels"
TESTS = PLUGINS / "tests" / "kernels"
LINEAR = (
    *("linear.cu", "linear_prefill.cu", "pack.cu"),
    *("decode.cu", "decode_half.cu", "decode_bfloat16.cu"),
)
# Program: the kernel sources that it runs. linear's also need gemm(), see host_gemm.cpp.
PROGRAMS = {
    "shim": (),
    "gate": ("gate.cu",),
    "attention": ("attention.cu",),
    "linear": LINEAR,
    "linear_prefill": LINEAR,
    "decode": LINEAR,
    "persistent": LINEAR,
}
SANITIZED = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# memcpy between 16-byte vectors and pairs of halves is the kernels' business, not the optimiser's.
FLAGS = (
    *("-std=c++20", "-O1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror"),
    *("-Wno-unknown-pragmas", "-DRIVER_CPU_SHIM"),
)


@functools.cache
def cuda_include() -> Path:
    """CUDA's headers; skips the test where there is no toolkit."""
    nvcc = find_nvcc()
    compiler = shutil.which("g++")
    if nvcc is None or compiler is None:
        pytest.skip("the kernels' CPU tests need g++ and the headers of a CUDA toolkit (nvcc)")
    dry = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "/dev/null", "-o", "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
    )
    top = next(line for line in dry.stderr.splitlines() if line.startswith("#$ TOP="))
    return Path(top.removeprefix("#$ TOP="), "include").resolve()


@dataclass(frozen=True, slots=True)
class Compiler:
    """g++ with the shim; objects and programs go to `folder`."""

    folder: Path
    flags: Sequence[str] = ()
    kernels: Path = KERNELS  # a copy of it may be compiled instead

    def object(self, source: Path) -> Path:
        out = self.folder / f"{source.stem}.o"
        if not out.exists():
            include = ("-I", self.kernels, "-I", TESTS, "-isystem", cuda_include())
            command = ["g++", *FLAGS, *self.flags, *include, "-x", "c++", "-c", source, "-o", out]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
        return out

    def program(self, name: str, ready: Sequence[Path] = ()) -> Path:
        """The test program `name`; `ready` are objects that replace what would be compiled.

        They come last: of an inline function that several objects hold, the first one's is taken.
        """
        ready_stems = {path.stem for path in ready}
        sources = [TESTS / f"test_{name}.cpp", *(self.kernels / s for s in PROGRAMS[name])]
        if PROGRAMS[name] == LINEAR:
            sources.append(TESTS / "host_gemm.cpp")
        compiled = [self.object(source) for source in sources if source.stem not in ready_stems]
        out = self.folder / f"run_{name}"
        command = ["g++", *self.flags, *compiled, *ready, "-o", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return out


def run_program(
    program: Path, order: int, quick: bool, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """order: 0 rising threads, 1 falling, else the seed of a shuffle."""
    command = [program, str(order), "quick" if quick else "full"]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
