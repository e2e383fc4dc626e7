"""The one generation loop: prefill each row alone, then decode the rows together."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from river_trt.backends.base import Session, StepOutput
from river_trt.config import GenerationConfig
from river_trt.results import FinishReason, GenerationResult, TokenEvent
from river_trt.sampling import sample
from river_trt.spec import GATE_SCOPES, ExitPolicy, backbone_layers
from river_trt.tokenizer import TextStream


@dataclass(slots=True)
class Row:
    """A prompt on its way: its tokens so far and what the next ones depend on."""

    index: int  # of the prompt in the call
    prompt: np.ndarray  # [prompt_tokens] int64
    generator: np.random.Generator
    seen: np.ndarray | None  # [vocab] bool, tokens under the repetition penalty
    text: TextStream | None
    past_length: int = 0  # slots filled in its cache row
    token_ids: list[int] = field(default_factory=list)
    exit_layers: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchDecoder:
    """Runs rows, at most as many as the session's cache has, until each has finished."""

    session: Session
    config: GenerationConfig
    policy: ExitPolicy
    eos_token_ids: frozenset[int]
    cache_length: int
    prefill_chunk: int

    def run(self, rows: list[Row]) -> Iterator[TokenEvent]:
        active: list[Row] = []  # active[i] uses cache row i
        for row in rows:
            started = time.perf_counter()
            out = self._prefill(row, len(active))
            text = self._accept(row, out.logits[0, 0], out.exit_layer[0, -1])
            row.prefill_seconds = time.perf_counter() - started
            if row.finish_reason is None:
                active.append(row)
            yield self._event(row, text)
        while active:
            started = time.perf_counter()
            batch = list(active)
            out = self._decode(batch)
            texts = [
                self._accept(row, out.logits[i, 0], out.exit_layer[i, 0])
                for i, row in enumerate(batch)
            ]
            self._drop_finished(active)
            seconds = time.perf_counter() - started
            for row in batch:
                row.decode_seconds += seconds
            for row, text in zip(batch, texts, strict=True):
                yield self._event(row, text)

    def _prefill(self, row: Row, cache_row: int) -> StepOutput:
        """Fill a cache row from the prompt; the output has the last position's logits."""
        if self.config.prefill == "off":
            chunk = self.prefill_chunk
            policy = ExitPolicy.full_depth(len(self.policy.tau))
        else:  # the sequence decides as a whole, so it runs as a whole
            chunk = len(row.prompt)
            policy = self.policy
        for start in range(0, len(row.prompt), chunk):
            ids = row.prompt[None, start : start + chunk]
            past_lengths = np.array([start], np.int32)
            last = np.array([ids.shape[1] - 1], np.int64)
            out = self.session.step(
                ids, cache_row, past_lengths, last, policy, GATE_SCOPES["sequence"]
            )
        row.past_length = len(row.prompt)
        return out

    def _decode(self, batch: list[Row]) -> StepOutput:
        """One token of every row."""
        out = self.session.step(
            np.array([[row.token_ids[-1]] for row in batch], np.int64),
            0,
            np.array([row.past_length for row in batch], np.int32),
            np.zeros(1, np.int64),
            self.policy,
            GATE_SCOPES[self.config.gate_scope],
        )
        for row in batch:
            row.past_length += 1
        return out

    def _accept(self, row: Row, logits: np.ndarray, exit_layer: int) -> str:
        """Sample the row's next token and decide whether it is the last; returns its new text.

        logits: [vocab] float32.
        """
        token = sample(logits, self.config, row.generator, row.seen)
        row.token_ids.append(token)
        row.exit_layers.append(int(exit_layer))
        if row.seen is not None:
            row.seen[token] = True
        text = ""
        if token in self.eos_token_ids and not self.config.ignore_eos:
            row.finish_reason = "eos"
        elif token in self.config.stop_token_ids:
            row.finish_reason = "stop"
        else:
            text = row.text.push(token) if row.text else ""
            row.finish_reason = self._end(row)
        if row.finish_reason and row.text:
            text += row.text.flush()
        return text

    def _end(self, row: Row) -> FinishReason | None:
        if row.text and row.text.stopped:
            return "stop"
        cache_full = row.past_length == self.cache_length  # no slot for the new token
        if cache_full or len(row.token_ids) == self.config.max_new_tokens:
            return "length"
        return None

    def _drop_finished(self, active: list[Row]) -> None:
        """Close the gaps that finished rows leave, so that the others do not pay for them."""
        for index in reversed(range(len(active))):
            if active[index].finish_reason is None:
                continue
            last = active.pop()
            if index < len(active):
                self.session.move_row(len(active), index, last.past_length)
                active[index] = last

    def _event(self, row: Row, text: str) -> TokenEvent:
        depths = backbone_layers(np.array(row.exit_layers[-1:]), self.policy.pinned)
        event = TokenEvent(row.index, row.token_ids[-1], text, row.exit_layers[-1], int(depths[0]))
        if row.finish_reason is None:
            return event
        exit_layers = np.array(row.exit_layers, np.int32)
        result = GenerationResult(
            text=None if row.text is None else row.text.text,
            token_ids=row.token_ids,
            finish_reason=row.finish_reason,
            exit_layers=exit_layers,
            backbone_layers=backbone_layers(exit_layers, self.policy.pinned).astype(np.int32),
            prompt_tokens=len(row.prompt),
            prefill_seconds=row.prefill_seconds,
            decode_seconds=row.decode_seconds,
        )
        return dataclasses.replace(event, finish_reason=row.finish_reason, result=result)
