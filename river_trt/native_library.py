"""The native CPU kernels: compiled from the shipped sources on first need, then kept.

A library is known by the hash of its sources and flags, so an upgrade of river-trt compiles anew.
Once it is there no compiler is needed: an image may be made with one and run without.
Instruction sets are chosen when the library runs, never by this machine's flags.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from river_trt.errors import RiverError
from river_trt.user_cache import user_cache

# Of the operators and the weight layout that engines name; engines of another one do not load.
ABI_VERSION = 2
DOMAIN = "river_trt.cpu"

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread")
# Files of one instruction set are called only where the processor has it.
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
X86_FILE_FLAGS: dict[str, tuple[str, ...]] = {
    "kernels_avx2.cc": AVX2_FLAGS,
    "kernels_avx512.cc": (
        *(*AVX2_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
        "-mprefer-vector-width=512",
    ),
}
REMEDY = (
    "install one (on Debian: apt-get install g++), or build the engine with --kernels onnxruntime"
)


@functools.cache
def native_library() -> Path:
    """The compiled library; compiles it (some seconds) unless that was done before.

    Raises RiverError where it must be compiled and no C++ compiler can.
    """
    from river_trt.plugin.sources import source_directory  # not for engines without native kernels

    folder = source_directory() / "cpu"
    sources = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    identity = repr((sources, FLAGS, _file_flags(), platform.machine()))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    library = user_cache() / f"libriver_cpu-{digest}.so"
    if not library.exists():
        _compile(_compiler(), sources, library)
    return library


def _compile(compiler: str, sources: dict[str, bytes], library: Path) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as name:
            directory = Path(name)
            for file, content in sources.items():
                (directory / file).write_bytes(content)
            units = [file for file in sources if file.endswith(".cc")]
            flags = _file_flags()
            jobs = [
                subprocess.Popen(  # noqa: S603
                    [compiler, *FLAGS, *flags.get(unit, ()), "-c", unit, "-o", f"{unit}.o"],
                    cwd=directory,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for unit in units
            ]
            errors = [(job.communicate()[1], job.returncode) for job in jobs]
            objects = [f"{unit}.o" for unit in units]
            if not any(code for _, code in errors):
                link = subprocess.run(  # noqa: S603
                    [compiler, "-shared", "-pthread", *objects, "-o", "library.so"],
                    cwd=directory,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                errors.append((link.stderr, link.returncode))
            for text, code in errors:
                if code:
                    line = next((part for part in text.splitlines() if "error" in part), text)
                    raise RiverError(
                        f"{compiler} cannot compile the native CPU kernels ({line.strip()[:200]}): "
                        "set CXX to another C++17 compiler, or build the engine with "
                        "--kernels onnxruntime"
                    )
            (directory / "library.so").replace(library)  # whole or not at all
    except OSError as error:
        raise RiverError(
            f"the native CPU kernels cannot be stored in {library.parent} ({error.strerror}): set "
            "XDG_CACHE_HOME to a directory that can be written, or build the engine with "
            "--kernels onnxruntime"
        ) from error


def _compiler() -> str:
    given = os.environ.get("CXX")
    for name in (given,) if given else ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    what = f"CXX names {given!r}, which is no command" if given else "none was found"
    raise RiverError(f"the native CPU kernels need a C++ compiler and {what}: {REMEDY}")


def _file_flags() -> dict[str, tuple[str, ...]]:
    return X86_FILE_FLAGS if platform.machine() in ("x86_64", "AMD64") else {}
