"""Running RiverDecoder as a person would call an engine: from an empty cache, by policy."""

from pathlib import Path

import numpy as np
import torch

from builders.calibration_text import read_calibration
from builders.decoder import RiverDecoder
from builders.quantisers import make_quantiser
from builders.quantisers.tuned import Tuned
from builders.recipes import Recipe
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.spec import ExitPolicy, GateScope


def load_reference(
    source: ModelSource, tokenizer_file: Path, recipe: Recipe, max_seq_len: int
) -> RiverDecoder:
    """The whole model in memory, with the river that the recipe's engine would have."""
    quantiser = make_quantiser(recipe.quantiser, recipe.group_size, recipe.symmetric)
    river = river_format(source.config, quantiser, recipe.group_size, recipe.symmetric)
    tunes = isinstance(quantiser, Tuned)
    ids = read_calibration(tokenizer_file, source.config, None, tunes).token_ids
    return load_decoder(source, quantiser, river, max_seq_len, ids)


def policy_inputs(
    policy: ExitPolicy, hidden_size: int, gate_scope: str
) -> tuple[torch.Tensor, ...]:
    """The policy inputs of a step, in the order of river_trt.spec.POLICY_INPUTS."""
    buffers = PolicyBuffers.of(policy, hidden_size, GateScope.named(gate_scope))
    return tuple(torch.from_numpy(array) for array in buffers.arrays.values())


@torch.inference_mode()
def teacher_forced(
    decoder: RiverDecoder,
    token_ids: np.ndarray,  # [batch, seq] integers
    policy: ExitPolicy,
    gate_scope: str = "token",
    prompt_length: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """One parallel pass: logits float32 [batch, seq, vocab], exit_layer int32 [batch, seq].

    With gate_scope "token" this equals decoding token by token, because a token's flag at a layer
    depends only on layers below (design, section 2). The first `prompt_length` tokens run at full
    depth in a step of their own, as a generation's prefill does by default.
    """
    config = decoder.config
    ids = torch.from_numpy(np.asarray(token_ids, np.int64))
    batch, seq = ids.shape
    assert 0 <= prompt_length <= seq
    cache = torch.zeros(batch, config.num_kv_heads, seq, config.head_dim)
    caches = [cache] * (2 * config.num_layers)
    full_depth = ExitPolicy.full_depth(config.num_layers)
    steps = []
    for start, end, chosen in ((0, prompt_length, full_depth), (prompt_length, seq, policy)):
        if start == end:
            continue
        logits, exit_layer, caches = decoder(
            ids[:, start:end],
            torch.full((batch,), start, dtype=torch.int32),
            torch.arange(end - start),
            *policy_inputs(chosen, config.hidden_size, gate_scope),
            caches,
        )
        steps.append((logits.numpy(), exit_layer.numpy()))
    all_logits, all_exit_layers = zip(*steps, strict=True)
    return np.concatenate(all_logits, 1), np.concatenate(all_exit_layers, 1)
