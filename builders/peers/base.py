"""What a peer answers, and where peers keep what they build."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class PeerRun:
    token_ids: list[int]  # [new_tokens], greedy; the first one comes from the prefill
    seconds: float  # of the new_tokens - 1 decode steps
    first_token_seconds: float


class Runtime(Protocol):
    """A loaded peer. Batch 1, greedy; an end token does not stop it."""

    @property
    def details(self) -> dict[str, Any]:
        """What it is, as JSON: versions, files."""
        ...

    def decode(self, prompt: Sequence[int], new_tokens: int) -> PeerRun: ...


def once(target: Path, write: Callable[[Path], None]) -> Path:
    """Write a directory that is not there yet: beside its place, then renamed."""
    if not target.is_dir():
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(target)
    return target
