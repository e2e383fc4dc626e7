"""What the engine asks of a backend: one step over a KV cache that the backend owns.

A backend's `open_session` gives a Session, which stepping.py runs step by step. A backend whose
library has a loop of its own, with a scheduler and a cache behind it, gives a DecodingLoop, which
takes whole rows.
"""

import dataclasses
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from river_trt.config import GenerationConfig
from river_trt.progress import Progress, silent
from river_trt.results import TokenEvent
from river_trt.spec import STEP_INPUTS, ExitPolicy, GateScope

if TYPE_CHECKING:
    from river_trt.row import Row


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Fixed when the engine is loaded: the cache is allocated once for these sizes."""

    max_batch_size: int
    cache_length: int  # slots of a row
    threads: int | None = None  # None: the backend's default
    spare_rows: int = 0  # cache rows beyond max_batch_size, for rows on the move (cache_rows.py)
    gpu: int = 0  # number of the GPU, for an engine of one
    progress: Progress = silent  # hears of kernels that are compiled on first need


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one step runs: seq tokens of each of `rows` neighbouring cache rows, by one policy."""

    input_ids: np.ndarray  # [rows, seq] int64
    first_row: int  # cache rows first_row .. first_row + rows - 1
    past_lengths: np.ndarray  # [rows] int32, tokens of each row already in the cache
    logit_indices: np.ndarray  # [num_logits] int64, positions in 0..seq-1
    policy: ExitPolicy
    gate_scope: GateScope = GateScope.TOKEN

    def __post_init__(self) -> None:
        assert self.input_ids.ndim == 2 and self.input_ids.dtype == np.int64
        assert self.past_lengths.shape == (self.rows,) and self.past_lengths.dtype == np.int32
        assert self.logit_indices.ndim == 1 and self.logit_indices.dtype == np.int64

    @classmethod
    def whole(
        cls,
        token_ids: np.ndarray,  # [rows, seq] int64
        policy: ExitPolicy,
        *,
        first_row: int = 0,
        past_length: int = 0,
        gate_scope: GateScope = GateScope.TOKEN,
    ) -> "Step":
        """Rows of equal length in one pass, with the logits of all their tokens."""
        rows, seq = token_ids.shape
        past_lengths = np.full(rows, past_length, np.int32)
        return cls(token_ids, first_row, past_lengths, np.arange(seq), policy, gate_scope)

    @property
    def rows(self) -> int:
        return len(self.input_ids)

    @property
    def seq(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def num_logits(self) -> int:
        return len(self.logit_indices)

    @property
    def slots(self) -> int:
        """Cache slots that the longest row fills, the tokens of this step among them."""
        return int(self.past_lengths.max()) + self.seq

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """By the names of spec.STEP_INPUTS, in their order."""
        return {name: getattr(self, name) for name in STEP_INPUTS}

    def row(self, index: int) -> "Step":
        """The step of one of the rows alone."""
        one = slice(index, index + 1)
        return dataclasses.replace(
            self,
            input_ids=self.input_ids[one],
            first_row=self.first_row + index,
            past_lengths=self.past_lengths[one],
        )


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """Views of the session's buffers: valid until its next step."""

    logits: np.ndarray  # [rows, num_logits, vocab] float32
    exit_layer: np.ndarray  # [rows, seq] int32, 1..L


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """How the next token of each row of a step is chosen, as GenerationConfig says it."""

    temperature: np.ndarray  # [rows] float32; 0: the best logit, whatever the others
    top_k: np.ndarray  # [rows] int32
    top_p: np.ndarray  # [rows] float32
    min_p: np.ndarray  # [rows] float32
    repetition_penalty: np.ndarray  # [rows] float32
    uniform: np.ndarray  # [rows] float64 in [0, 1): drawn by the row's own generator
    seen: np.ndarray | None = None  # [rows, vocab] bool; None: no row has a repetition penalty
    # Added to the logits behind that penalty; -inf forbids a token. 1, but in a verification.
    added: np.ndarray | None = None  # [rows, num_logits or 1, vocab] float32
    wants_leads: bool = False
    wants_logprobs: bool = False
    # Of lossless mode. Which token of its draft each row draws here: what it is drawn from is kept
    # with the cache row, for the verification; -1: nothing is.
    draft_indices: np.ndarray | None = None  # [rows] int64
    # How many of the step's tokens, after the first, were drafted: the tokens that come back are
    # those that stand there, by lossless/acceptance.py. uniform is then [rows, num_logits].
    drafted: np.ndarray | None = None  # [rows] int64

    @classmethod
    def greedy(cls, rows: int, *, wants_leads: bool = False) -> "Draws":
        """Every row takes its best token."""
        zeros, ones = np.zeros(rows, np.float32), np.ones(rows, np.float32)
        return cls(
            *(zeros, np.zeros(rows, np.int32), ones, zeros, ones, np.zeros(rows)),
            wants_leads=wants_leads,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ChosenOutput:
    """Views of the session's buffers: valid until its next step."""

    tokens: np.ndarray  # [rows, num_logits] int64
    best: np.ndarray  # [rows, num_logits] float32: the best logit
    leads: np.ndarray  # [rows, num_logits] float32: over the next one, where asked for
    exit_layer: np.ndarray  # [rows, seq] int32, 1..L
    # Where asked for, before anything was added or penalised: of each token, and the best
    # config.MOST_LOGPROBS tokens of its place, or all that there are.
    logprob: np.ndarray | None = None  # [rows, num_logits] float32
    top_ids: np.ndarray | None = None  # [rows, num_logits, best] int64
    top_logprobs: np.ndarray | None = None  # [rows, num_logits, best] float32


class Session(Protocol):
    """An opened engine with a cache of max_batch_size + spare_rows rows, one caller at a time."""

    def step(self, step: Step) -> StepOutput:
        """Run the tokens, append their K and V to the cache rows."""
        ...

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of cache row `source` over row `target`."""
        ...

    def read_row(self, row: int, length: int) -> np.ndarray:
        """A copy of cache row `row`: float32 [L, 2 (K, V), num_kv_heads, length, head_dim]."""
        ...


@runtime_checkable
class ChoosesTokens(Protocol):
    """What a session may offer beside `Session`: tokens come back in place of their logits."""

    def choose(self, step: Step, draws: Draws) -> ChosenOutput:
        """`Session.step`, and the next token of each row after each of the logit indices."""
        ...


@runtime_checkable
class GivesHiddenStates(Protocol):
    """What a session may offer beside `Session`: calibration and reports look at its layers."""

    def hidden_states(
        self,
        token_ids: np.ndarray,  # [seq] int64
        last: int,  # 0 .. L - 1
    ) -> np.ndarray:
        """h_0 .. h_last of a text at full depth, float32 [last + 1, seq, hidden].

        Layers behind the last are not run. What cache row 0 held may be lost.
        """
        ...


@runtime_checkable
class MeasuresBandwidth(Protocol):
    """What a session may offer beside `Session` whose memory is not the machine's."""

    def read_bandwidth(self) -> float:
        """Bytes/s of the memory that its weights and caches lie in."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a thread did: a step, an operator, a phase of one, a wait.

    start, length: ns, on one clock for all of a trace. args: what else there is to say; of a phase
    its layer and the bytes of weights and cache that it read.
    """

    name: str
    thread: str
    start: int
    length: int
    args: Mapping[str, int | str]


@runtime_checkable
class TracesSteps(Protocol):
    """What a session may offer beside `Session`: where the time of its steps goes."""

    def trace(self, run: Callable[[], object]) -> list[Span]:
        """What happens in the steps that `run` takes of this session; it is called twice.

        Only the second time is recorded. The engine is opened once more meanwhile.
        """
        ...


@runtime_checkable
class DecodingLoop(Protocol):
    """An opened engine whose library decides when which row steps, and samples."""

    def check(self, config: GenerationConfig) -> None:
        """RiverError for what this loop cannot do."""
        ...

    def run(self, rows: "list[Row]") -> Generator[TokenEvent, None, None]:
        """All rows to the end of each: `Row.push` for each token, then its event.

        RiverError while another caller's rows run.
        """
        ...
