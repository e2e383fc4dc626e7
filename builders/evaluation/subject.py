"""What is evaluated: an engine, or the torch reference of a model, behind one small interface."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
import torch

import river_trt
from builders.build import initial_policy
from builders.decoder import RiverDecoder
from builders.recipes import Recipe
from builders.reference import load_reference, policy_inputs
from builders.source import ModelSource
from river_trt.errors import RiverError
from river_trt.manifest import EXACT
from river_trt.spec import ExitPolicy
from river_trt.text import TOKENIZER_FILE, Tokenizer

ROWS = 2  # cache rows: the backbone's and the policy's


class Subject(Protocol):
    """A model with both banks and ROWS cache rows."""

    name: str
    config_sha256: str
    river: str  # the bank, for people
    num_layers: int
    max_seq_len: int
    vocab_size: int
    policy: ExitPolicy  # its own
    named: Mapping[str, ExitPolicy]  # those that a call may choose beside it
    tokenizer: Tokenizer
    engine: river_trt.Engine | None  # what generates; the reference does not

    def step(
        self,
        row: int,
        past_length: int,
        ids: np.ndarray,  # [seq]
        policy: ExitPolicy,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Continue a row: logits float32 [seq, vocab], exit_layer int32 [seq]."""
        ...

    def read_cache(self, row: int, length: int) -> np.ndarray:
        """float32 [L, 2, num_kv_heads, length, head_dim]."""
        ...

    def hidden_states(
        self,
        ids: np.ndarray,  # [seq]
        last: int,  # at most L - 1
    ) -> np.ndarray:
        """h_0 .. h_last at full depth, float32 [last + 1, seq, hidden]."""
        ...

    def check_hidden_states(self) -> None:
        """RiverError for a subject that has none to show, before any work."""
        ...


class EngineSubject:
    """An engine directory."""

    def __init__(self, engine: river_trt.Engine) -> None:
        if engine.tokenizer is None:
            raise RiverError("the engine has no tokenizer, so it cannot read a text")
        if engine.max_batch_size < ROWS:
            raise RiverError(f"max_batch_size must be at least {ROWS}, got {engine.max_batch_size}")
        manifest = engine.manifest
        self.engine: river_trt.Engine | None = engine
        self._engine = engine
        self.name, self.policy, self.tokenizer = (
            manifest.model.name,
            engine.policy,
            engine.tokenizer,
        )
        others = {n: p for n, p in engine.policies.items() if not p.same_as(engine.policy)}
        others.pop(EXACT, None)
        self.named: Mapping[str, ExitPolicy] = others
        self.num_layers, self.max_seq_len = engine.num_layers, engine.max_seq_len
        self.vocab_size = manifest.model.shape.vocab_size
        self.config_sha256 = manifest.model.config_sha256
        river = manifest.river
        self.river = f"{river.quantiser}, {river.bits} bits, groups of {river.group_size}"

    def step(
        self, row: int, past_length: int, ids: np.ndarray, policy: ExitPolicy
    ) -> tuple[np.ndarray, np.ndarray]:
        logits, exit_layer = self._engine.stepper.forward(
            ids[None], policy, first_row=row, past_length=past_length
        )
        return logits[0], exit_layer[0]

    def read_cache(self, row: int, length: int) -> np.ndarray:
        return self._engine.stepper.read_cache(row, length)

    def hidden_states(self, ids: np.ndarray, last: int) -> np.ndarray:
        return self._engine.stepper.hidden_states(ids, last)

    def check_hidden_states(self) -> None:
        self._engine.stepper.check_hidden_states()


class DecoderSubject:
    """RiverDecoder: what an engine computes, in torch and without rounded activations."""

    engine: river_trt.Engine | None = None

    def __init__(
        self,
        decoder: RiverDecoder,
        tokenizer: Tokenizer,
        name: str,
        config_sha256: str,
        river: str,
        max_seq_len: int,
        policy: ExitPolicy,
    ) -> None:
        self.decoder, self.tokenizer = decoder, tokenizer
        self.name, self.river, self.policy = name, river, policy
        self.named: Mapping[str, ExitPolicy] = {}
        self.config_sha256 = config_sha256
        config = decoder.config
        self.num_layers, self.max_seq_len = config.num_layers, max_seq_len
        self.vocab_size = config.vocab_size
        shape = (1, config.num_kv_heads, max_seq_len, config.head_dim)
        empty = [torch.zeros(shape)] * (2 * config.num_layers)
        self._caches = [empty] * ROWS  # a step makes new ones and keeps these as they are

    @classmethod
    def open(cls, model: str, recipe: Recipe, max_seq_len: int) -> "DecoderSubject":
        """Whatever `--model` takes, with the recipe's river."""
        source = ModelSource.open(model)
        limit = source.config.max_position_embeddings
        if max_seq_len > limit:
            raise RiverError(f"pieces of {max_seq_len} tokens are longer than the model's {limit}")
        with tempfile.TemporaryDirectory() as work:
            if not source.checkpoint.write_tokenizer(Path(work)):
                raise RiverError(f"{model} has no tokenizer, so it cannot read a text")
            tokenizer_file = Path(work, TOKENIZER_FILE)
            decoder = load_reference(source, tokenizer_file, recipe, max_seq_len)
            tokenizer = Tokenizer(tokenizers.Tokenizer.from_file(str(tokenizer_file)))
        return cls(
            decoder,
            tokenizer,
            source.checkpoint.name,
            source.config_sha256,
            f"{recipe.quantiser}, 4 bits, groups of {recipe.group_size}",
            max_seq_len,
            initial_policy(source.config.num_layers, None, None),
        )

    @torch.inference_mode()
    def step(
        self, row: int, past_length: int, ids: np.ndarray, policy: ExitPolicy
    ) -> tuple[np.ndarray, np.ndarray]:
        logits, exit_layer, self._caches[row] = self.decoder(
            torch.from_numpy(ids)[None],
            torch.tensor([past_length], dtype=torch.int32),
            torch.arange(len(ids)),
            *policy_inputs(policy, self.decoder.config.hidden_size, "token"),
            self._caches[row],
        )
        return logits[0].numpy(), exit_layer[0].numpy()

    def read_cache(self, row: int, length: int) -> np.ndarray:
        slots = torch.stack([cache[0, :, :length] for cache in self._caches[row]])
        pairs: np.ndarray = slots.view(-1, 2, *slots.shape[1:]).numpy()
        return pairs

    def hidden_states(self, ids: np.ndarray, last: int) -> np.ndarray:
        embedded = torch.nn.functional.embedding(torch.from_numpy(ids), self.decoder.embedding)
        found = [embedded * self.decoder.config.embedding_scale]
        hooks = [
            layer.register_forward_hook(lambda _, args, out: found.append(out[0][0]))
            for layer in self.decoder.layers[:last]
        ]
        try:
            self.step(0, 0, ids, ExitPolicy.full_depth(self.num_layers))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found).numpy()

    def check_hidden_states(self) -> None:
        """It shows them all."""
