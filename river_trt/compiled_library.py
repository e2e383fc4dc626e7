"""C++ sources that travel with the package, compiled on first need and then kept.

A library is known by the hash of its sources and flags, so an upgrade of river-trt compiles anew.
Once it is there no compiler is needed: an image may be made with one and run without.
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
from river_trt.user_cache import is_trusted, locked, private_folder, user_cache

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

    def compile_once(self) -> Path:
        """The library in the user's cache; compiles it (some seconds) unless it is there.

        Raises RiverError where it must be compiled and no C++ compiler can.
        """
        flags = (*FLAGS, f"-std={self.standard}", *self.flags)
        identity = repr((self.sources, flags, _file_flags(), self.link_flags, platform.machine()))
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        try:
            library = private_folder() / f"lib{self.name}-{digest}.so"
            if not _is_whole(library):
                with locked(library.parent):
                    if not _is_whole(library):  # another process may have made it meanwhile
                        _remove_leftovers(library.parent)
                        self._compile(self._compiler(), flags, library)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RiverError(self._full_disk(user_cache())) from error
            raise RiverError(
                f"{self.what} cannot be stored in {user_cache()} ({error.strerror}): set "
                f"XDG_CACHE_HOME to a directory that can be written, or {self.instead}"
            ) from error
        return library

    def _compile(self, compiler: str, flags: tuple[str, ...], library: Path) -> None:
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
            errors = [(job.communicate()[1], job.returncode) for job in jobs]
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
