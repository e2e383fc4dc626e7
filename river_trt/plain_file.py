"""Opening what is said to be a plain file: no FIFO, device or folder, and no endless one.

A name comes from a directory that anyone can have made. A FIFO would block the reader for ever, a
device can do anything when it is opened, and a sparse file of a terabyte takes hours to read.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path

from river_trt.errors import RiverError

# A disk may hold less than a file's size (compression, runs of zeros), but not this much less.
SPARSE_SIZE, SPARSE_FACTOR = 1 << 30, 64


class NotPlainError(OSError):
    """The name leads to something else than a plain file."""


def open_plain(path: Path) -> int:
    """A descriptor for reading; its size is `os.fstat`'s.

    Raises NotPlainError for what is no plain file, OSError for what cannot be opened, a name that
    no file can have among it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: that may have an effect
            raise _not_plain(path)
        # Without blocking: the name may lead elsewhere by now.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_plain(path)
        if status.st_size > max(SPARSE_SIZE, 512 * status.st_blocks * SPARSE_FACTOR):
            raise NotPlainError(errno.EFBIG, f"is a sparse file of {status.st_size} bytes")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_plain(path: Path, most: int) -> bytes:
    """The whole file. Raises as `open_plain`, and NotPlainError for more than `most` bytes."""
    with os.fdopen(open_plain(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise NotPlainError(errno.EFBIG, f"has more than {most} bytes")
    return data


def read_text(path: Path, most: int) -> str:
    """A file of UTF-8 text that a user named. Raises RiverError, naming it."""
    try:
        return read_plain(path, most).decode("utf-8")
    except OSError as error:
        raise RiverError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RiverError(f"{path} is not UTF-8 text") from error


def sha256_of(descriptor: int) -> str:
    """Of all that is open there; the descriptor's position is left as it was."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    at = 0
    while count := os.preadv(descriptor, [buffer], at):
        digest.update(memoryview(buffer)[:count])
        at += count
    return digest.hexdigest()


def _not_plain(path: Path) -> NotPlainError:
    return NotPlainError(errno.EINVAL, "is no plain file")
