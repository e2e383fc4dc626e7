"""Mapped files as memory of this process' own, at the addresses where they are mapped.

A library maps its weights. Whoever cuts such a file short ends every process that then reads the
missing part (SIGBUS), and whoever writes to it changes what they compute. Linux only: elsewhere
files stay mapped.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from river_trt.errors import RiverError

MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
PROTECTIONS = {"r": mmap.PROT_READ, "w": mmap.PROT_WRITE, "x": mmap.PROT_EXEC}
MAP_FIXED = 0x10
FAILED = ctypes.c_void_p(-1).value


@dataclass(frozen=True, slots=True)
class Mapping:
    """A range of memory that a file is mapped to; sizes in bytes."""

    start: int
    size: int
    protection: int
    offset: int  # in the file
    file: tuple[int, int]  # device and inode


def make_private(files: Collection[tuple[int, int]]) -> None:
    """Copy what is mapped of these files, device and inode, over the mappings.

    No other thread may write to them meanwhile. Raises RiverError where memory is short.
    """
    if not sys.platform.startswith("linux"):
        return
    for mapping in list(_mappings()):
        if mapping.file in files:
            _replace(mapping)


def forget(file: tuple[int, int], kept: Collection[tuple[int, int]]) -> None:
    """Take a file's mappings away where none of the places, first byte and end, is `kept`.

    Their addresses read as zeros from now on, without memory behind them: for weights that were
    copied by those who use them.
    """
    if not sys.platform.startswith("linux"):
        return
    fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    for mapping in list(_mappings()):
        end = mapping.offset + mapping.size
        if mapping.file != file or any(a < end and mapping.offset < b for a, b in kept):
            continue
        libc = _libc()
        if libc.mmap(mapping.start, mapping.size, mapping.protection, fixed, -1, 0) == FAILED:
            raise _short_of_memory(mapping)


def _mappings() -> Iterator[Mapping]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            addresses, flags, offset, device, inode, *_ = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            major, minor = (int(number, 16) for number in device.split(":"))
            protection = 0
            for letter, value in PROTECTIONS.items():
                protection |= value if letter in flags else 0
            file = os.makedev(major, minor), int(inode)
            yield Mapping(start, end - start, protection, int(offset, 16), file)


def _replace(mapping: Mapping) -> None:
    libc = _libc()
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    copy = libc.mmap(None, mapping.size, writable, private, -1, 0)
    if copy == FAILED:
        raise _short_of_memory(mapping)
    ctypes.memmove(copy, mapping.start, mapping.size)
    how = MREMAP_MAYMOVE | MREMAP_FIXED
    libc.mprotect(copy, mapping.size, mapping.protection)
    # One step: no moment without the pages.
    if libc.mremap(copy, mapping.size, mapping.size, how, mapping.start) == FAILED:
        libc.munmap(copy, mapping.size)
        raise _short_of_memory(mapping)


def _short_of_memory(mapping: Mapping) -> RiverError:
    reason = os.strerror(ctypes.get_errno())
    return RiverError(f"{mapping.size} bytes of the engine's weights cannot be kept: {reason}")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.restype, libc.mremap.restype = pointer, pointer
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    libc.mremap.argtypes = [pointer, size, size, number, pointer]
    libc.mprotect.argtypes = [pointer, size, number]
    libc.munmap.argtypes = [pointer, size]
    return libc
