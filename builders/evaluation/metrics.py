"""How alike two next-token distributions are, or two hidden states, position by position."""

import numpy as np
import torch
from torch import Tensor


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(reference || logits) in nats: [..., vocab] logits to [...]."""
    log_p, log_q = reference.float().log_softmax(-1), logits.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def agreement(reference: Tensor, logits: Tensor) -> Tensor:
    """Whether the likeliest tokens are the same: [..., vocab] logits to bool [...]."""
    return reference.argmax(-1) == logits.argmax(-1)


def surprise(
    logits: Tensor,  # [positions, vocab]
    next_ids: Tensor,  # [positions] int64
) -> Tensor:
    """Negative log-likelihood of the tokens that follow, in nats, [positions]."""
    return torch.nn.functional.cross_entropy(logits.float(), next_ids, reduction="none")


def cosine(
    a: np.ndarray,  # [..., hidden]
    b: np.ndarray,  # [..., hidden], broadcast against a
) -> np.ndarray:
    """A gate's score, float32 [...]; 0 where either vector is zero."""
    norms: np.ndarray = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    score: np.ndarray = (a * b).sum(-1) / norms.clip(1e-30)
    return score
