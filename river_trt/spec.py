"""The contract between the builders and the runtime: what a model is and how a step is called."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from river_trt.errors import EngineError, RiverError

GateKind = Literal["similarity", "direction"]


class GateScope(IntEnum):
    """What decides together whether it exits; the value of the engine input `gate_scope`."""

    TOKEN = 0  # each token by itself
    SEQUENCE = 1  # the tokens of a row: the least score decides for all
    BATCH = 2  # all tokens of the step

    @classmethod
    def named(cls, name: str) -> "GateScope":
        """The scope that users call "token", "sequence" or "batch"; RiverError for another."""
        known = {scope.name.lower(): scope for scope in cls}
        if name not in known:
            raise RiverError(f"gate_scope must be one of {', '.join(known)}, got {name!r}")
        return known[name]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the runtime must know of a model: sizes only, no weights."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int  # slots the rotary tables cover: the longest cache a runtime may allocate

    @property
    def default_cache_length(self) -> int:
        """Slots of a row where nobody says how many."""
        return min(self.max_seq_len, 4096)


# Names of an engine's tensors. L = num_layers, T = cache length.
#   input_ids       int64   [batch, seq]
#   past_lengths    int32   [batch]        tokens of each row already in the cache
#   logit_indices   int64   [num_logits]   positions in 0..seq-1 whose logits are wanted
#   tau             float32 [L]
#   pinned          bool    [L]
#   use_directions  bool    []             gate reference: False = block input, True = directions[l]
#   directions      float32 [L, hidden]
#   gate_scope      int32   []             GateScope
#   k_cache.{l}     float32 [batch, num_kv_heads, T, head_dim]   (and v_cache.{l})
# outputs
#   logits          float32 [batch, num_logits, vocab]
#   exit_layer      int32   [batch, seq]   1..L
#   k_cache_out.{l}, v_cache_out.{l}       bound to the same memory as the inputs
POLICY_INPUTS = ("tau", "pinned", "use_directions", "directions", "gate_scope")
STEP_INPUTS = ("input_ids", "past_lengths", "logit_indices")


def cache_names(num_layers: int, suffix: str = "") -> list[str]:
    """Names of the cache tensors in layer order: k, v of layer 0, k, v of layer 1, ..."""
    return [f"{kv}_cache{suffix}.{layer}" for layer in range(num_layers) for kv in ("k", "v")]


@dataclass(frozen=True, slots=True, eq=False)
class ExitPolicy:
    """When a token leaves the backbone (design, section 2: tau and pinned are run-time inputs).

    tau: float32 [L]; +inf forbids an exit after that layer, -inf forces one.
    pinned: bool [L]; a pinned layer always runs the backbone bank.
    directions: float32 [L, hidden] for the direction gate, None for the similarity gate.
    Raises RiverError for arrays of other types or lengths, and for a tau that is no number.
    """

    tau: np.ndarray
    pinned: np.ndarray
    directions: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.tau.ndim != 1 or self.tau.dtype != np.float32:
            raise RiverError(f"tau must be a float32 vector, got {self.tau.dtype}{self.tau.shape}")
        if np.isnan(self.tau).any():
            raise RiverError("tau holds NaN; use inf to forbid an exit and -inf to force one")
        if self.pinned.shape != self.tau.shape or self.pinned.dtype != np.bool_:
            raise RiverError(f"pinned must be a bool vector of {len(self.tau)} layers")
        if self.directions is not None and len(self.directions) != len(self.tau):
            raise RiverError(f"directions must have one row for each of {len(self.tau)} layers")

    def same_as(self, other: "ExitPolicy") -> bool:
        """Whether both decide alike for every token."""
        if self.directions is None or other.directions is None:
            alike = self.directions is other.directions
        else:
            alike = np.array_equal(self.directions, other.directions)
        same_tau = np.array_equal(self.tau, other.tau)
        return alike and same_tau and np.array_equal(self.pinned, other.pinned)

    @property
    def gate(self) -> GateKind:
        return "similarity" if self.directions is None else "direction"

    @classmethod
    def full_depth(cls, num_layers: int) -> "ExitPolicy":
        """The plain model: no token ever exits."""
        return cls(np.full(num_layers, np.inf, np.float32), np.zeros(num_layers, np.bool_))

    @classmethod
    def all_river(cls, pinned: np.ndarray) -> "ExitPolicy":
        """Every token exits after layer 1; pinned, bool [L], runs the backbone all the same."""
        return cls(np.full(len(pinned), -np.inf, np.float32), pinned)

    @classmethod
    def uniform(cls, num_layers: int, tau: float) -> "ExitPolicy":
        """One tau for every layer and no pins: the paper's policy."""
        return cls(np.full(num_layers, tau, np.float32), np.zeros(num_layers, np.bool_))


def backbone_layers(exit_layer: np.ndarray, pinned: np.ndarray) -> np.ndarray:
    """Backbone layers that ran, from exit_layer int [...] (1..L) and pinned bool [L].

    Raises EngineError for another exit_layer: an engine's graph can give any number.
    """
    if exit_layer.size and not 1 <= exit_layer.min() <= exit_layer.max() <= len(pinned):
        raise EngineError(
            f"the engine gives the exit layers {exit_layer.min()}..{exit_layer.max()}, but its "
            f"model has the layers 1..{len(pinned)}; do not use this engine"
        )
    pinned_after = np.concatenate([np.cumsum(pinned[::-1])[::-1], [0]])  # [L + 1]
    layers: np.ndarray = exit_layer + pinned_after[exit_layer]
    return layers
