"""A tiny deterministic stand-in for a model, so that the runtime's logic needs no weights."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from river_trt.backends.base import SessionOptions, Step, StepOutput
from river_trt.cache_rows import cache_rows
from river_trt.engine import Engine
from river_trt.engine_dir import hash_files, write_manifest
from river_trt.manifest import (
    BackendInfo,
    ByteCounts,
    FileInfo,
    Manifest,
    ModelInfo,
    PolicyInfo,
    PrecisionInfo,
    RiverInfo,
)
from river_trt.spec import ExitPolicy, GateScope, ModelShape
from river_trt.stepping import Stepper
from river_trt.text import Tokenizer

LAYERS, VOCAB = 4, 260  # 256 bytes, then four special tokens
BOS, EOS = 256, 257


def next_logits(tokens: np.ndarray) -> np.ndarray:
    """Logits that depend on every token so far and on their order."""
    seed = zlib.crc32(np.asarray(tokens, np.int64).tobytes())
    return np.random.default_rng(seed).standard_normal(VOCAB).astype(np.float32)


def exit_layer(tokens: np.ndarray, policy: ExitPolicy) -> int:
    """First layer whose tau is below a score made of the tokens."""
    scores = next_logits(tokens)[:LAYERS]
    exits = np.flatnonzero(scores > policy.tau)
    return int(exits[0]) + 1 if len(exits) else LAYERS


class FakeSession:
    """A Session whose cache holds the tokens themselves: a wrong row or slot changes the logits."""

    def __init__(self, options: SessionOptions) -> None:
        rows = options.max_batch_size + options.spare_rows
        self.cache = np.full((rows, options.cache_length), -1, np.int64)
        self.steps: list[tuple[int, int, int]] = []  # first_row, rows, seq
        self.scopes: list[int] = []

    def step(self, step: Step) -> StepOutput:
        first_row, rows, seq = step.first_row, step.rows, step.seq
        self.steps.append((first_row, rows, seq))
        self.scopes.append(step.gate_scope)
        logits = np.zeros((rows, seq, VOCAB), np.float32)
        exits = np.zeros((rows, seq), np.int32)
        for row in range(rows):
            past = step.past_lengths[row]
            assert past + seq <= self.cache.shape[1]
            slots = self.cache[first_row + row]
            slots[past : past + seq] = step.input_ids[row]
            for i in range(seq):
                logits[row, i] = next_logits(slots[: past + i + 1])
                exits[row, i] = exit_layer(slots[: past + i + 1], step.policy)
        if step.gate_scope is GateScope.SEQUENCE:
            exits[:] = exits.max(axis=1, keepdims=True)
        if step.gate_scope is GateScope.BATCH:
            exits[:] = exits.max()
        return StepOutput(logits[:, step.logit_indices], exits)

    def read_row(self, row: int, length: int) -> np.ndarray:
        slots = self.cache[row, :length].astype(np.float32)
        return np.broadcast_to(slots[:, None], (LAYERS, 2, 1, length, 4))

    def move_row(self, source: int, target: int, length: int) -> None:
        assert source != target
        self.cache[target] = -2
        self.cache[target, :length] = self.cache[source, :length]


def byte_tokenizer() -> tokenizers.Tokenizer:
    """One token a byte: every character beyond ASCII is split over tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def manifest_of(has_tokenizer: bool = True, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "river_trt_version": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "model": ModelInfo(
            name="fake",
            family="llama",
            config_sha256="0" * 64,
            shape=ModelShape(LAYERS, 8, 2, 1, 4, VOCAB, 64),
            eos_token_ids=(EOS,),
            bos_token_id=BOS,
            has_tokenizer=has_tokenizer,
            num_parameters=1,
        ),
        "backend": BackendInfo("onnxruntime", "1.20.0", "cpu"),
        "precision": PrecisionInfo("float32", 32, "float32", "int8"),
        "river": RiverInfo("rtn", 4, 32, True, None),
        "policy": PolicyInfo("similarity", (np.inf, 0.5, 0.9, -np.inf), (1, 3)),
        "bytes_per_layer": ByteCounts(100, 10, 7, 1),
        "engine_file": "model.onnx",
        "files": {},
    }
    return Manifest(**(fields | changes))


@pytest.fixture
def make_engine() -> Callable[..., Engine]:
    def make(
        *,
        max_batch_size: int = 4,
        max_seq_len: int = 64,
        prefill_chunk: int = 512,
        with_tokenizer: bool = True,
        tau: float = 1.0,
        batch_invariant: bool = False,
        kept_rows: int = 0,
        session: type[FakeSession] = FakeSession,
    ) -> Engine:
        spare_rows = cache_rows(max_batch_size, batch_invariant) - max_batch_size + kept_rows
        options = SessionOptions(max_batch_size, max_seq_len, spare_rows=spare_rows)
        manifest = manifest_of(with_tokenizer, files={"model.onnx": FileInfo(0, "")})
        tokenizer = Tokenizer(byte_tokenizer()) if with_tokenizer else None
        policy = ExitPolicy.uniform(LAYERS, tau)
        stepper = Stepper(
            *(session(options), manifest, options, prefill_chunk, batch_invariant, kept_rows)
        )
        return Engine(manifest, policy, tokenizer, stepper, options)

    return make


@pytest.fixture
def engine_directory(tmp_path: Path) -> Path:
    """An engine directory that passes every check, with a graph that is none."""
    directory = tmp_path / "engine"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(b"graph")
    (directory / "model.data").write_bytes(bytes(1000))
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    write_manifest(directory, manifest_of(files=hash_files(directory)))
    return directory


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    return manifest_of


@pytest.fixture
def raw_tokenizer() -> tokenizers.Tokenizer:
    return byte_tokenizer()


class Reference:
    """Greedy generation of the fake model, written without caches, batches or chunks."""

    eos, bos, num_layers, vocab = EOS, BOS, LAYERS, VOCAB

    @staticmethod
    def greedy(prompt: list[int], count: int, tau: float = 1.0) -> tuple[list[int], list[int]]:
        """Token ids and exit layers; the first token comes from a full-depth prefill."""
        policy = ExitPolicy.uniform(LAYERS, tau)
        tokens, exits = list(prompt), []
        for _ in range(count):
            exits.append(exit_layer(np.array(tokens), policy) if exits else LAYERS)
            tokens.append(int(next_logits(np.array(tokens)).argmax()))
        return tokens[len(prompt) :], exits


@pytest.fixture
def reference() -> type[Reference]:
    return Reference
