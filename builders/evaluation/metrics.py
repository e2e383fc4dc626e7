"""What two next-token distributions have to do with each other, position by position."""

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
