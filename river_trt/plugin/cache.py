"""Built libraries in the user's cache, one folder a key, found again by what they were built from.

<cache>/<key>/lib….so    written and renamed first
<cache>/<key>/info.json  written and renamed last: a folder without it is no library
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from river_trt.json_text import parse_json
from river_trt.user_cache import is_trusted, locked, private_folder, user_cache

INFO_FILE = "info.json"
LEFTOVER = ".tmp-"  # begins the names of temporary files


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    """What a cached library was built from."""

    part: str
    sources: str  # SHA-256 of the sources
    headers: str  # version of TensorRT or torch
    abi: str  # versions of the same abi can load it
    cuda: str
    cxx: str
    cmake_options: tuple[str, ...]
    architectures: tuple[str, ...]

    @property
    def key(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Library:
    """A compiled library of the cache."""

    path: Path
    info: LibraryInfo
    sha256: str


def cache_directory() -> Path:
    """Where plugin libraries are kept, a folder each."""
    return user_cache() / "plugin"


def read_libraries() -> list[Library]:
    """Every whole library of the cache, the newest first."""
    files = list(cache_directory().glob(f"*/{INFO_FILE}"))
    libraries = [_read(path) for path in sorted(files, key=_written, reverse=True)]
    return [library for library in libraries if library is not None]


def read_library(key: str) -> Library | None:
    """None where it is not there, or not whole."""
    path = cache_directory() / key / INFO_FILE
    return _read(path) if path.is_file() else None


def store_library(built: Path, info: LibraryInfo) -> Library:
    """Copy a built library into the cache; a reader sees it whole or not at all."""
    folder = private_folder("plugin", info.key)
    path = folder / built.name
    with locked(folder):
        for leftover in folder.glob(f"{LEFTOVER}*"):  # of a build that was killed
            leftover.unlink(missing_ok=True)
        replace_file(built, path)
        library = Library(path, info, _hash(path))
        entry = {"info": dataclasses.asdict(info), "library": built.name, "sha256": library.sha256}
        temporary = folder / f"{LEFTOVER}{INFO_FILE}"
        temporary.write_text(json.dumps(entry, indent=1), encoding="utf-8")
        temporary.chmod(0o644)  # whatever the umask is
        temporary.replace(folder / INFO_FILE)
    return library


def replace_file(source: Path, target: Path) -> None:
    """Copy by way of a temporary file beside the target: never half of it under its name."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{LEFTOVER}{target.name}.")
    os.close(handle)
    try:
        shutil.copyfile(source, name)
        Path(name).chmod(0o755)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path) -> Library | None:
    try:
        entry = parse_json(path.read_text(encoding="utf-8"))
        fields = entry["info"]
        for name in ("cmake_options", "architectures"):
            fields[name] = tuple(fields[name])
        library = Library(path.parent / entry["library"], LibraryInfo(**fields), entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: it is built again
    # A folder that others can write to may hold another library, with its right hash.
    if not all(is_trusted(part) for part in (path, library.path)):
        return None
    if library.path.is_file() and _hash(library.path) == library.sha256:
        return library
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _written(path: Path) -> float:
    return path.stat().st_mtime
