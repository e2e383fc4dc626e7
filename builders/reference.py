"""Running RiverDecoder as a person would call an engine: from an empty cache, by policy."""

import numpy as np
import torch

from builders.decoder import RiverDecoder
from river_trt.spec import GATE_SCOPES, ExitPolicy


def policy_inputs(
    policy: ExitPolicy, hidden_size: int, gate_scope: str
) -> tuple[torch.Tensor, ...]:
    """The policy inputs of a step, in the order of river_trt.spec.POLICY_INPUTS."""
    directions = policy.directions
    if directions is None:
        directions = np.zeros((len(policy.tau), hidden_size), np.float32)
    return (
        torch.from_numpy(policy.tau),
        torch.from_numpy(policy.pinned),
        torch.tensor(policy.directions is not None),
        torch.from_numpy(directions),
        torch.tensor(GATE_SCOPES[gate_scope], dtype=torch.int32),
    )


@torch.inference_mode()
def teacher_forced(
    decoder: RiverDecoder,
    token_ids: np.ndarray,  # [batch, seq] integers
    policy: ExitPolicy,
    gate_scope: str = "token",
) -> tuple[np.ndarray, np.ndarray]:
    """One parallel pass: logits float32 [batch, seq, vocab], exit_layer int32 [batch, seq].

    With gate_scope "token" this equals decoding token by token, because a token's flag at a layer
    depends only on layers below (design, section 2).
    """
    config = decoder.config
    ids = torch.from_numpy(np.asarray(token_ids, np.int64))
    batch, seq = ids.shape
    cache = torch.zeros(batch, config.num_kv_heads, seq, config.head_dim)
    logits, exit_layer, _ = decoder(
        ids,
        torch.zeros(batch, dtype=torch.int32),
        torch.arange(seq),
        *policy_inputs(policy, config.hidden_size, gate_scope),
        [cache] * (2 * config.num_layers),
    )
    return logits.numpy(), exit_layer.numpy()
