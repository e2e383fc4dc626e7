"""The Session of a program of torch: caches on its device, written in place by its operators."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from river_trt.backends.base import ChosenOutput, Draws, SessionOptions, Step, StepOutput
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.backends.torch.choosing import Work, best_count, choose
from river_trt.backends.torch.gpu import copy_bandwidth, current
from river_trt.backends.torch.graphs import Outputs, Recording
from river_trt.backends.torch.staging import Field, Staging
from river_trt.errors import RiverError
from river_trt.gpu_memory import WORKSPACES
from river_trt.spec import STEP_INPUTS, GateScope, ModelShape

WEIGHTS_FILE = "weights.safetensors"
# Runs the program on its inputs (river_trt.spec, flat; the extra ones may be absent) and returns
# logits and exit_layer.
Program = Callable[[list[Any]], Outputs]
# A recording serves every number of rows up to its own; one more row is the padding's.
BUCKETS = (1, 2, 4, 8, 16, 32)
LONGEST_SPAN = 8  # tokens a row of a step that is recorded: longer ones are prefill
MOST_RECORDINGS = 32  # the one used longest ago makes room
# What a program may take behind its caches: which row of them each row of a step has, memory that
# its operators work in, zero at first (their launches never overlap, so one is enough), and sums of
# squares, which a kernel leaves to the next one's norm: parts of a token's sum.
CACHE_ROWS = "cache_rows"
O_SQUARES, GATE_SQUARES, QKV_SQUARES = "o_squares", "gate_squares", "qkv_squares"
SQUARES_PARTS = 256  # of the linear's kernel; the gate's are whole
MOST_SQUARES = 8  # tokens of a step, over all rows: a longer one's norms measure for themselves
EXTRA_INPUTS = (*WORKSPACES, CACHE_ROWS, O_SQUARES, GATE_SQUARES, QKV_SQUARES)
DRAWS = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "repetition_penalty": np.float32,
    "uniform": np.float64,
}
DRAFTED = "drafted"  # a field of Draws too
KEPT_AT, DRAFT_ROWS = "kept_at", "draft_rows"  # places of what drafted tokens are drawn from
LEAST_KEPT = 8  # tokens of a draft that there is room for; more where more are drafted


@dataclass(frozen=True, slots=True)
class Kind:
    """Steps of one kind share a recording."""

    rows: int
    seq: int
    num_logits: int
    work: Work | None  # None: the logits themselves come back
    first_row: int | None  # of a program that takes a part of the caches


class TorchSession:
    """A program of torch and its caches: [rows, num_kv_heads, T, head_dim] each.

    With a recorder, steps of few tokens a row are recorded once for each kind and replayed; other
    steps run as they are. A program with the input `cache_rows` is given the whole caches, one row
    more than asked for, on which the rows work that only fill a bucket. Raises RiverError where the
    caches do not fit memory.
    """

    def __init__(
        self,
        program: Program,
        weights: Any,  # kept while the program uses them
        shape: ModelShape,
        options: SessionOptions,
        device: torch.device,
        dtype: torch.dtype,  # of the caches
        recorder: Callable[[Callable[[], Outputs]], Recording] | None = None,
        extra_inputs: Sequence[str] = (),  # of EXTRA_INPUTS
    ) -> None:
        self._program, self._weights = program, weights
        self._device, self._recorder = device, recorder
        self._shape, self._cache_length = shape, options.cache_length
        self._takes_cache_rows = CACHE_ROWS in extra_inputs
        self._extra_names = extra_inputs
        self._workspaces = {
            name: torch.zeros(size, dtype=torch.uint8, device=device)
            for name, size in WORKSPACES.items()
            if name in extra_inputs
        }
        self._squares = [torch.zeros(MOST_SQUARES * n, device=device) for n in (SQUARES_PARTS, 1)]
        self._rows = options.max_batch_size + options.spare_rows
        size = (
            self._rows + int(self._takes_cache_rows),
            *(shape.num_kv_heads, options.cache_length, shape.head_dim),
        )
        count = 2 * shape.num_layers
        try:
            self.caches = [torch.zeros(size, dtype=dtype, device=device) for _ in range(count)]
        except RuntimeError as error:
            gib = count * dtype.itemsize * int(np.prod(size)) / 2**30
            raise RiverError(
                f"the KV cache needs {gib:.1f} GiB, more than this machine has; "
                "lower max_seq_len or max_batch_size"
            ) from error
        self._policy = PolicyBuffers(shape.num_layers, shape.hidden_size)  # as the device has it
        self._policy_inputs = {
            name: torch.tensor(value, device=device) for name, value in self._policy.arrays.items()
        }
        self._runners: OrderedDict[Kind, _Runner] = OrderedDict()
        # What drafted tokens were drawn from: [rows + 1, tokens of a draft, vocab] float32.
        self._origins = torch.zeros((self._rows + 1, 0, shape.vocab_size), device=device)

    def step(self, step: Step) -> StepOutput:
        with current(self._device):
            runner = self._run(step, None)
            arrays = runner.fetch()
            logits = runner.outputs[0][: step.rows].float().cpu().numpy()
        return StepOutput(logits, arrays["exit_layer"][: step.rows])

    def move_row(self, source: int, target: int, length: int) -> None:
        with current(self._device):
            for cache in self.caches:
                cache[target, :, :length] = cache[source, :, :length]
            self._origins[target] = self._origins[source]

    def read_row(self, row: int, length: int) -> np.ndarray:
        with current(self._device):
            slots = torch.stack([cache[row, :, :length] for cache in self.caches]).float()
            array: np.ndarray = slots.view(-1, 2, *slots.shape[1:]).cpu().numpy()
        return array

    def _run(self, step: Step, draws: Draws | None) -> "_Runner":
        assert step.first_row + step.rows <= self._rows and step.slots <= self._cache_length
        for name in self._policy.write(step.policy, step.gate_scope):
            self._policy_inputs[name].copy_(torch.from_numpy(self._policy.arrays[name]))
        kind = self._kind(step, None if draws is None else Work.of(draws))
        if draws is not None:
            self._make_room(step, draws)
        runner = self._runners.pop(kind, None)
        if runner is None:
            runner = _Runner(kind, self._shape, self._device)
            extra = self._workspaces | self._squares_of(kind)
            names = self._extra_names
            caches = self._caches_of(kind)
            runner.bind(self._policy_inputs, caches, names, extra, self._origins)
        is_decode = step.seq <= LONGEST_SPAN
        if is_decode:
            self._runners[kind] = runner  # the last used one is last
            if len(self._runners) > MOST_RECORDINGS:
                self._runners.popitem(last=False)
        runner.send(step, draws, scratch_row=self._rows)
        runner.run(self._program, self._recorder if is_decode else None)
        return runner

    def _make_room(self, step: Step, draws: Draws) -> None:
        """For what a draft's tokens are drawn from, where this one is longer than those before."""
        needed = 0
        if draws.draft_indices is not None:
            needed = int(draws.draft_indices.max()) + 1
        elif draws.drafted is not None:
            needed = step.num_logits - 1
        room = self._origins.shape[1]
        if needed <= room:
            return
        room = max(LEAST_KEPT, 2 * room, needed)
        size = (self._rows + 1, room, self._shape.vocab_size)
        origins = torch.zeros(size, device=self._device)
        origins[:, : self._origins.shape[1]] = self._origins
        self._origins = origins
        for kind in list(self._runners):  # they work on the old one
            if kind.work is not None and (kind.work.keeps or kind.work.verifies):
                del self._runners[kind]

    def _kind(self, step: Step, work: Work | None) -> Kind:
        rows = step.rows
        if not self._takes_cache_rows:
            return Kind(rows, step.seq, step.num_logits, work, step.first_row)
        # With the scope "batch" every row has a say: one that only fills up must not.
        if step.gate_scope != GateScope.BATCH and step.seq <= LONGEST_SPAN:
            rows = next((bucket for bucket in BUCKETS if bucket >= rows), rows)
        return Kind(rows, step.seq, step.num_logits, work, None)

    def _caches_of(self, kind: Kind) -> list[torch.Tensor]:
        if kind.first_row is None:
            return self.caches
        return [cache[kind.first_row : kind.first_row + kind.rows] for cache in self.caches]

    def _squares_of(self, kind: Kind) -> dict[str, torch.Tensor | None]:
        """The gate writes what the next layer's qkv reads: one memory, two shapes."""
        count = kind.rows * kind.seq
        if count > MOST_SQUARES:
            return dict.fromkeys((O_SQUARES, GATE_SQUARES, QKV_SQUARES))
        parts, whole = self._squares
        return {
            O_SQUARES: parts[: count * SQUARES_PARTS].view(count, SQUARES_PARTS),
            GATE_SQUARES: whole[:count].view(kind.rows, kind.seq),
            QKV_SQUARES: whole[:count].view(count, 1),
        }


class _Runner:
    """Steps of one kind, through buffers of their own."""

    def __init__(self, kind: Kind, shape: ModelShape, device: torch.device) -> None:
        rows, int32, int64 = kind.rows, np.dtype(np.int32), np.dtype(np.int64)
        fields = {
            "input_ids": Field(int64, (rows, kind.seq)),
            "past_lengths": Field(int32, (rows,)),
            "logit_indices": Field(int64, (kind.num_logits,)),
            "cache_rows": Field(int32, (rows,)),
        }
        results = {"exit_layer": Field(int32, (rows, kind.seq))}
        self._seen: torch.Tensor | None = None
        self._added: torch.Tensor | None = None
        if kind.work is not None:
            fields |= {name: Field(np.dtype(dtype), (rows,)) for name, dtype in DRAWS.items()}
            if kind.work.keeps:
                fields[KEPT_AT] = Field(int64, (rows,))
            if kind.work.verifies:
                fields["uniform"] = Field(np.dtype(np.float64), (rows, kind.num_logits))
                fields[DRAFTED] = fields[DRAFT_ROWS] = Field(int64, (rows,))
            chosen = (rows, kind.num_logits)
            results |= {"tokens": Field(int64, chosen)}
            results |= {name: Field(np.dtype(np.float32), chosen) for name in ("best", "leads")}
            if kind.work.penalises:
                size = (rows, shape.vocab_size)
                self._seen = torch.zeros(size, dtype=torch.bool, device=device)
            if kind.work.adds:
                places = kind.num_logits if kind.work.verifies else 1
                self._added = torch.zeros((rows, places, shape.vocab_size), device=device)
            if kind.work.logprobs:
                best = (*chosen, best_count(shape.vocab_size))
                results |= {
                    "logprob": Field(np.dtype(np.float32), chosen),
                    "top_ids": Field(int64, best),
                    "top_logprobs": Field(np.dtype(np.float32), best),
                }
        self.kind = kind
        self._given, self._results = Staging(fields, device), Staging(results, device)
        self._inputs: list[Any] = []
        self._recording: Recording | None = None
        self._origins = torch.empty(0)
        self.outputs: Outputs = []  # logits, of a kind that does not choose

    def send(self, step: Step, draws: Draws | None, scratch_row: int) -> None:
        """The step's values; rows that only fill up are one token at the start of scratch_row."""
        given = self._given.host
        given["past_lengths"][step.rows :] = 0
        given["cache_rows"][step.rows :] = scratch_row
        rows = np.arange(step.first_row, step.first_row + step.rows, dtype=np.int32)
        arrays = {**step.inputs, "cache_rows": rows}
        if draws is not None:
            work = self.kind.work
            assert work is not None
            given["temperature"][step.rows :] = 0
            if draws.added is not None:
                assert self._added is not None
                self._added[: step.rows].copy_(torch.from_numpy(draws.added))
            if work.draws or work.penalises:
                arrays |= {name: getattr(draws, name) for name in DRAWS}
            if draws.draft_indices is not None:
                room = self._origins.shape[1]
                nowhere = scratch_row * room
                places = rows.astype(np.int64) * room + draws.draft_indices
                given[KEPT_AT][step.rows :] = nowhere
                arrays[KEPT_AT] = np.where(draws.draft_indices >= 0, places, nowhere)
            if draws.drafted is not None:
                given[DRAFTED][step.rows :] = 0
                given[DRAFT_ROWS][step.rows :] = scratch_row
                arrays |= {DRAFTED: draws.drafted, DRAFT_ROWS: rows.astype(np.int64)}
            if draws.seen is not None:
                assert self._seen is not None
                self._seen[: step.rows].copy_(torch.from_numpy(draws.seen))
        self._given.send(arrays)

    def bind(
        self,
        policy: dict[str, torch.Tensor],
        caches: list[torch.Tensor],
        extra_names: Sequence[str],
        extra: Mapping[str, torch.Tensor | None],
        origins: torch.Tensor,
    ) -> None:
        """The inputs in the order of river_trt.spec, the extra ones last."""
        self._origins = origins
        given = self._given.device
        step = [given[name] for name in STEP_INPUTS]
        rest = [given[name] if name in given else extra[name] for name in extra_names]
        self._inputs = [*step, *policy.values(), *caches, *rest]

    def run(
        self,
        program: Program,
        recorder: Callable[[Callable[[], Outputs]], Recording] | None,
    ) -> None:
        if recorder is None:
            self.outputs = self._whole_step(program)
            return
        if self._recording is None:
            self._recording = recorder(lambda: self._whole_step(program))
            self.outputs = self._recording.outputs
        self._recording.replay()

    def _whole_step(self, program: Program) -> Outputs:
        logits, exit_layer = program(list(self._inputs))  # a package empties the list
        results = self._results.device
        results["exit_layer"].copy_(exit_layer)
        if self.kind.work is None:
            return [logits]
        self._choose(logits, self.kind.work, results)
        return []

    def _choose(
        self, logits: torch.Tensor, work: Work, results: Mapping[str, torch.Tensor]
    ) -> None:
        given = self._given.device
        ids = origins = None
        if work.verifies:
            ids = given["input_ids"]
            origins = self._origins[given[DRAFT_ROWS], : self.kind.num_logits - 1]
        chosen = choose(logits, work, given, self._seen, ids, origins, self._added)
        results["tokens"].copy_(chosen.tokens)
        results["best"].copy_(chosen.best)
        results["leads"].copy_(chosen.leads)
        for name in ("logprob", "top_ids", "top_logprobs") if work.logprobs else ():
            results[name].copy_(getattr(chosen, name))
        if work.keeps:
            assert chosen.weights is not None
            places = self._origins.flatten(0, 1)
            places.index_copy_(0, given[KEPT_AT], chosen.weights[:, 0])

    def fetch(self) -> dict[str, np.ndarray]:
        return self._results.fetch()


class ChoosingSession(TorchSession):
    """One that chooses the next tokens on its device too (base.ChoosesTokens)."""

    @torch.no_grad()
    def choose(self, step: Step, draws: Draws) -> ChosenOutput:
        with current(self._device):
            arrays = self._run(step, draws).fetch()
        return ChosenOutput(**{name: array[: step.rows] for name, array in arrays.items()})

    def read_bandwidth(self) -> float:
        """Of the GPU's memory, in bytes/s (base.MeasuresBandwidth)."""
        return copy_bandwidth(self._device)
