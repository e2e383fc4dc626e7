"""What the engine asks of a backend: one step over a KV cache that the backend owns.

A backend whose library has a loop of its own, with a scheduler and a cache behind it, takes whole
rows instead: DecodingLoop.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from river_trt.config import GenerationConfig
from river_trt.results import TokenEvent
from river_trt.spec import ExitPolicy

if TYPE_CHECKING:
    from river_trt.row import Row


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Fixed when the engine is loaded: the cache is allocated once for these sizes."""

    max_batch_size: int
    cache_length: int  # slots of a row
    threads: int | None = None  # None: the backend's default
    spare_rows: int = 0  # cache rows beyond max_batch_size, for rows on the move (cache_rows.py)


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """Views of the session's buffers: valid until its next step."""

    logits: np.ndarray  # [batch, num_logits, vocab] float32
    exit_layer: np.ndarray  # [batch, seq] int32, 1..L


class Session(Protocol):
    """An opened engine with a cache of max_batch_size + spare_rows rows, one caller at a time."""

    def step(
        self,
        input_ids: np.ndarray,  # [batch, seq] int64
        first_row: int,  # cache rows first_row .. first_row + batch - 1
        past_lengths: np.ndarray,  # [batch] int32, tokens of each row already in the cache
        logit_indices: np.ndarray,  # [num_logits] int64, positions in 0..seq-1
        policy: ExitPolicy,
        gate_scope: int,  # a value of spec.GATE_SCOPES
    ) -> StepOutput:
        """Run seq tokens of each row, append their K and V to the cache rows."""
        ...

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of cache row `source` over row `target`."""
        ...

    def read_row(self, row: int, length: int) -> np.ndarray:
        """A copy of cache row `row`: float32 [L, 2 (K, V), num_kv_heads, length, head_dim]."""
        ...


@runtime_checkable
class DecodingLoop(Protocol):
    """An opened engine whose library decides when which row steps, and samples."""

    def check(self, config: GenerationConfig) -> None:
        """RiverError for what this loop cannot do."""
        ...

    def run(self, rows: "list[Row]") -> Iterator[TokenEvent]:
        """All rows together, to the end of each: `Row.push` for each token, then its event."""
        ...
