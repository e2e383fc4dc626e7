"""A stand-in for a model whose river is sometimes wrong, and which minds whose K and V it reads."""

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from river_trt import ExitPolicy
from river_trt.backends.base import SessionOptions, Step, StepOutput
from river_trt.backends.torch.graphs import Recording
from river_trt.backends.torch.session import CACHE_ROWS, EXTRA_INPUTS, ChoosingSession
from river_trt.cache_rows import cache_rows
from river_trt.engine import Engine
from river_trt.manifest import FileInfo
from river_trt.spec import ModelShape
from river_trt.stepping import Stepper
from river_trt.text import Tokenizer
from tests.river_trt.conftest import (
    LAYERS,
    VOCAB,
    FakeSession,
    byte_tokenizer,
    manifest_of,
    next_logits,
)

Logits = Callable[[np.ndarray, bool], np.ndarray]  # tokens so far, drafting


def mostly_right(agreement: float) -> Logits:
    """Drafts with the true logits that often, else with others."""

    def logits(tokens: np.ndarray, drafting: bool) -> np.ndarray:
        chance = zlib.crc32(tokens.tobytes(), 1) % 1000 / 1000
        if drafting and chance >= agreement:
            return next_logits(np.append(tokens, -9))
        return next_logits(tokens)

    return logits


class DraftSession(FakeSession):
    """Slots remember who wrote them: a full-depth pass that reads a drafted one gives NaN."""

    def __init__(self, options: SessionOptions, logits: Logits, vocab: int) -> None:
        super().__init__(options)
        self._logits, self._vocab = logits, vocab
        self._drafted = np.zeros(self.cache.shape, np.bool_)
        self.kinds: list[str] = []  # of each step

    def step(self, step):
        first_row, rows, seq = step.first_row, step.rows, step.seq
        drafting = bool(np.isneginf(step.policy.tau).all())
        assert drafting or np.isposinf(step.policy.tau).all()
        self.kinds.append("draft" if drafting else "full")
        self.steps.append((first_row, rows, seq))
        logits = np.zeros((rows, seq, self._vocab), np.float32)
        for row, past in enumerate(step.past_lengths):
            assert past + seq <= self.cache.shape[1], "a row steps over the end of the cache"
            slots, marks = self.cache[first_row + row], self._drafted[first_row + row]
            impure = not drafting and marks[:past].any()  # of an idle row it may be
            slots[past : past + seq] = step.input_ids[row]
            marks[past : past + seq] = drafting
            assert (slots[: past + seq] >= 0).all(), "a step reads slots that nobody wrote"
            for i in step.logit_indices:
                tokens = slots[: past + i + 1].copy()
                logits[row, i] = np.nan if impure else self._logits(tokens, drafting)
        exits = np.full((rows, seq), 1 if drafting else LAYERS, np.int32)
        return StepOutput(logits[:, step.logit_indices], exits)

    def move_row(self, source, target, length):
        super().move_row(source, target, length)
        self._drafted[target] = self._drafted[source]


class ChoosingDraftSession(ChoosingSession):
    """The same model behind the GPU's session, which chooses and verifies tokens itself."""

    def __init__(self, options: SessionOptions, logits: Logits, vocab: int) -> None:
        more = replace(options, spare_rows=options.spare_rows + 1)  # the row that only fills up
        self.model = DraftSession(more, logits, vocab)
        shape = ModelShape(LAYERS, 8, 2, 1, 4, vocab, options.cache_length)
        super().__init__(
            *(self._program, {}, shape, options, torch.device("cpu"), torch.float32, record),
            extra_inputs=EXTRA_INPUTS,
        )

    def _program(self, inputs):
        ids, past, indices, tau = (tensor.numpy() for tensor in inputs[:4])
        policy = ExitPolicy(tau, np.zeros(LAYERS, np.bool_))
        cache_rows = inputs[-len(EXTRA_INPUTS) :][EXTRA_INPUTS.index(CACHE_ROWS)].tolist()
        outs = [
            self.model.step(Step(ids[i : i + 1], row, past[i : i + 1], indices, policy))
            for i, row in enumerate(cache_rows)
        ]
        logits, exits = zip(*((out.logits, out.exit_layer) for out in outs), strict=True)
        return [torch.tensor(np.concatenate(logits)), torch.tensor(np.concatenate(exits))]

    def step(self, step):
        raise AssertionError("nobody asked for logits")

    def move_row(self, source, target, length):
        super().move_row(source, target, length)
        self.model.move_row(source, target, length)


def record(step: Callable[[], list[torch.Tensor]]) -> Recording:
    return Recording(step, step())


@pytest.fixture
def make_lossless_engine(monkeypatch) -> Callable[..., Engine]:
    # So that several rows draft too.
    monkeypatch.setattr("river_trt.lossless.length.FURTHER_TOKEN", 0.01)

    def make(
        agreement: float | Logits = 0.8,
        max_batch_size: int = 4,
        max_seq_len: int = 64,
        prefill_chunk: int = 512,
        batch_invariant: bool = False,
        vocab: int = VOCAB,
        on_device: bool = False,
        kept_rows: int = 0,
    ) -> Engine:
        spare_rows = cache_rows(max_batch_size, batch_invariant) - max_batch_size + kept_rows
        options = SessionOptions(max_batch_size, max_seq_len, spare_rows=spare_rows)
        manifest = manifest_of(vocab == VOCAB, files={"model.onnx": FileInfo(0, "")})
        if vocab != VOCAB:
            shape = ModelShape(LAYERS, 8, 2, 1, 4, vocab, max_seq_len)
            model = replace(
                manifest.model,
                shape=shape,
                has_tokenizer=False,
                eos_token_ids=(),
                bos_token_id=None,
            )
            manifest = manifest_of(files=manifest.files, model=model)
        logits = mostly_right(agreement) if isinstance(agreement, float | int) else agreement
        tokenizer = Tokenizer(byte_tokenizer()) if vocab == VOCAB else None
        kind = ChoosingDraftSession if on_device else DraftSession
        session = kind(options, logits, vocab)
        policy = ExitPolicy.uniform(LAYERS, 1.0)
        stepper = Stepper(session, manifest, options, prefill_chunk, batch_invariant, kept_rows)
        engine = Engine(manifest, policy, tokenizer, stepper, options)
        engine.gap_acceptance.spread = 1e-3  # what the river gets wrong here has no narrow lead
        return engine

    return make
