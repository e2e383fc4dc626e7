"""What of the machine's memory is free."""

from pathlib import Path


def available_memory() -> int | None:
    """Bytes that a process may still take, as Linux says; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0][1]) if found else None
