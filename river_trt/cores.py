"""How many cores this process can really have: what the system lets it run on, and for how long."""

import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")


def usable_cores() -> int:
    """Cores that this process may run on, but no more than its control group has time for.

    Two hardware threads of a core count as one: they share what the kernels need.
    """
    cores = physical_cores(_allowed())
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def physical_cores(numbers: set[int], topology: Path = TOPOLOGY) -> int:
    """Cores behind the hardware threads with these numbers; all, where the system does not say."""
    return len({_siblings(topology / f"cpu{n}", n) for n in numbers})


def cpu_quota(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> float | None:
    """Cores' worth of time that the control group and those above it give; None: no limit."""
    quotas = [
        quota
        for line in _read(membership).splitlines()
        for folder in _folders(line, groups)
        if (quota := _quota(folder)) is not None
    ]
    return min(quotas, default=None)


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: Path, number: int) -> str:
    return _read(cpu / "topology" / "thread_siblings_list").strip() or str(number)


def _folders(line: str, groups: Path) -> Iterator[Path]:
    """Of a line `number:controllers:path`, the group's and those above; a container sees its own
    as the root."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    root = groups / controllers
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for length in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:length])


def _quota(folder: Path) -> float | None:
    """Version 2 has both numbers in one file, version 1 in two."""
    found = _read(folder / "cpu.max").split()
    if not found:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        found = [_read(folder / name).strip() for name in names]
    if not all(part.isdecimal() for part in found):  # "max", "-1", or no such file
        return None
    quota, period = map(int, found)
    return quota / period if period else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
