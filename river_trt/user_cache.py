"""Where this user's compiled libraries are kept: a place that nobody else can write to.

Libraries from there are loaded into the process, so whoever can put one there can run code as this
user.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from river_trt.errors import RiverError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def user_cache() -> Path:
    """$XDG_CACHE_HOME/river-trt, or ~/.cache/river-trt; it need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "river-trt"


def private_folder(*below: str) -> Path:
    """The cache or a folder below it, made where it is missing, whatever the umask is.

    Raises RiverError where it, or a folder above it within the cache, is another user's; OSError
    where it cannot be made.
    """
    folder = user_cache()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for part in ("", *below):
        folder = folder / part
        try:
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)  # a umask may have taken rights away
        except FileExistsError:
            _check_folder(folder)
    return folder


def is_trusted(path: Path) -> bool:
    """A plain file of this user, or of root, that nobody else can write to or replace."""
    try:
        status, folder = os.lstat(path), os.lstat(path.parent)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and _is_ours(status) and _is_ours(folder)


def write_fault(text: str) -> Path:
    """Keep the traceback of a fault. Raises OSError or RiverError where that cannot be."""
    path = private_folder("faults") / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however it ends."""
    with os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_folder(folder: Path) -> None:
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise RiverError(
            f"{folder} is no folder: remove it, or set XDG_CACHE_HOME to another place"
        )
    if status.st_uid == os.geteuid() and status.st_mode & OTHERS_WRITE:
        folder.chmod(0o700)  # made under a wide umask: what others put there is not ours, and seen
    elif not _is_ours(status):
        raise RiverError(
            f"{folder} is another user's, so compiled libraries in it are not trusted: "
            "remove it, or set XDG_CACHE_HOME to another place"
        )


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & OTHERS_WRITE
