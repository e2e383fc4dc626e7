"""C++ sources that travel with the package, compiled on first need and then kept.

A library is known by the hash of its sources and flags, so an upgrade of river-trt compiles anew.
Once it is there no compiler is needed: an image may be made with one and run without. A platform
wheel (hatch_build.py) carries it compiled.
Instruction sets are chosen when the library runs, never by this machine's flags.
"""

import errno
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import RiverError
from river_trt.progress import Progress, silent
from river_trt.user_cache import is_trusted, locked, private_folder, user_cache

PREBUILT = Path(__file__).parent / "_prebuilt"  # of a platform wheel
LEFTOVER = "tmp"  # begins the names of temporary folders
FULL_DISK = os.strerror(errno.ENOSPC)

FLAGS = ("-O3", "-fPIC", "-fvisibility=hidden", "-pthread")
# Files of one instruction set are called only where the processor has it.
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
AVX512_FLAGS = (
    *(*AVX2_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
    "-mprefer-vector-width=512",
)
X86_FILE_FLAGS: dict[str, tuple[str, ...]] = {
    "kernels_avx2.cc": AVX2_FLAGS,
    "kernels_avx512.cc": AVX512_FLAGS,
    "kernels_amx.cc": AVX512_FLAGS,  # tiles by the functions' own attributes: older compilers too
}


@dataclass(frozen=True, slots=True)
class CppLibrary:
    """What one shared library is compiled from."""

    name: str  # of the file: lib<name>-<hash>.so
    what: str  # for people: "the native CPU kernels"
    instead: str  # what a user without a compiler can do: "build the engine with ..."
    sources: dict[str, bytes]  # by file name; every .cc is a unit
    standard: str  # c++17
    flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """By which the library is known."""
        parts = (self.sources, self._flags(), _file_flags(), self.link_flags, platform.machine())
        return f"lib{self.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.so"

    def compile_once(self, progress: Progress = silent) -> Path:
        """The wheel's library, or the user cache's; compiles it (some seconds) where it must.

        progress hears of compiling only. Raises RiverError where no C++ compiler can.
        """
        if (PREBUILT / self.file_name).is_file():
            return PREBUILT / self.file_name
        try:
            library = private_folder() / self.file_name
            if not _is_whole(library):
                with locked(library.parent):
                    if not _is_whole(library):  # another process may have made it meanwhile
                        _remove_leftovers(library.parent)
                        self._compile(library, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RiverError(self._full_disk(user_cache())) from error
            raise RiverError(
                f"{self.what} cannot be stored in {user_cache()} ({error.strerror}): set "
                f"XDG_CACHE_HOME to a directory that can be written, or {self.instead}"
            ) from error
        return library

    def _compile(self, library: Path, progress: Progress) -> None:
        compiler, flags = self._compiler(), self._flags()
        stage = f"compiling {self.what}, once"
        with tempfile.TemporaryDirectory(prefix=LEFTOVER, dir=library.parent) as name:
            directory = Path(name)
            for file, content in self.sources.items():
                (directory / file).write_bytes(content)
            units = [file for file in self.sources if file.endswith(".cc")]
            own = _file_flags()
            jobs = [
                subprocess.Popen(  # noqa: S603
                    [compiler, *flags, *own.get(unit, ()), "-c", unit, "-o", f"{unit}.o"],
                    cwd=directory,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for unit in units
            ]
            errors = []
            for number, job in enumerate(jobs):
                progress(stage, number, len(jobs) + 1)
                errors.append((job.communicate()[1], job.returncode))
            progress(stage, len(jobs), len(jobs) + 1)
            objects = [f"{unit}.o" for unit in units]
            if not any(code for _, code in errors):
                link = subprocess.run(  # noqa: S603
                    [
                        *(compiler, "-shared", "-pthread", *objects),
                        *(*self.link_flags, "-o", "library.so"),
                    ],
                    cwd=directory,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                errors.append((link.stderr, link.returncode))
            for text, code in errors:
                if code:
                    raise RiverError(self._failure(compiler, text))
            built = directory / "library.so"
            built.chmod(0o755)  # whatever the umask is
            record = directory / "sha256"
            record.write_text(_hash(built))
            record.chmod(0o644)
            record.replace(_record_of(library))
            built.replace(library)  # whole or not at all
        progress(stage, len(jobs) + 1, len(jobs) + 1)

    def _flags(self) -> tuple[str, ...]:
        return (*FLAGS, f"-std={self.standard}", *self.flags)

    def _failure(self, compiler: str, text: str) -> str:
        if FULL_DISK in text:
            return self._full_disk(Path(tempfile.gettempdir()))
        line = next((part for part in text.splitlines() if "error" in part), text)
        return (
            f"{compiler} cannot compile {self.what} ({line.strip()[:200]}): "
            f"set CXX to another {self.standard.upper()} compiler, or {self.instead}"
        )

    def _full_disk(self, place: Path) -> str:
        return (
            f"the disk is full, so {self.what} cannot be compiled: free some space for "
            f"{user_cache()} and {place}, or {self.instead}"
        )

    def _compiler(self) -> str:
        given = os.environ.get("CXX")
        for name in (given,) if given else ("c++", "g++", "clang++"):
            if found := shutil.which(name):
                return found
        why = f"CXX names {given!r}, which is no command" if given else "none was found"
        raise RiverError(
            f"{self.what} need a C++ compiler and {why}: install one "
            f"(on Debian: apt-get install g++), or {self.instead}"
        )


def read_sources(*folders: Path) -> dict[str, bytes]:
    """Name and content of every file in the folders."""
    return {
        path.name: path.read_bytes()
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def _record_of(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_whole(library: Path) -> bool:
    """Made here by this user or by root, and since then neither cut short nor changed."""
    record = _record_of(library)
    if not is_trusted(library) or not is_trusted(record):
        return False
    return record.read_text(encoding="ascii", errors="replace") == _hash(library)


def _remove_leftovers(folder: Path) -> None:
    """Of compiles that were killed; the caller holds the lock, so none of them runs."""
    for leftover in folder.glob(f"{LEFTOVER}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _file_flags() -> dict[str, tuple[str, ...]]:
    return X86_FILE_FLAGS if platform.machine() in ("x86_64", "AMD64") else {}
