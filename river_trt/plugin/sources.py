"""The C++ and CUDA sources that this installation carries, and their hash."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from river_trt.errors import RiverError

PACKAGE = Path(__file__).parents[1]
WHEEL_FOLDER = "_plugin_sources"  # where pyproject.toml puts plugins/ in a wheel


def source_directory() -> Path:
    """plugins/ beside an editable or checked-out package, else the copy inside the wheel.

    Raises RiverError where neither is there.
    """
    for candidate in (PACKAGE.parent / "plugins", PACKAGE / WHEEL_FOLDER):
        if (candidate / "CMakeLists.txt").is_file():
            return candidate
    raise RiverError(
        f"the plugin's sources are in neither {PACKAGE.parent / 'plugins'} nor "
        f"{PACKAGE / WHEEL_FOLDER}; install river-trt again"
    )


def source_files(directory: Path, folders: Sequence[str]) -> list[Path]:
    """CMakeLists.txt and every file under `folders`, sorted by path."""
    files = [directory / "CMakeLists.txt"]
    for folder in folders:
        files += (path for path in (directory / folder).rglob("*") if path.is_file())
    return sorted(files)


def hash_sources(directory: Path, folders: Sequence[str]) -> str:
    """SHA-256 over names and contents, as hex."""
    digest = hashlib.sha256()
    for path in source_files(directory, folders):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(directory).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
