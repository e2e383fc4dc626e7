"""The next tokens chosen on the device: what river_trt/sampling.py computes, for whole batches.

The host gives each row the one number that its own generator drew, and the token is found by the
same rule, so a seed means the same here as there: texts differ only where the logits do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from river_trt.backends.base import Draws
from river_trt.sampling import LARGEST, TINY


@dataclass(frozen=True, slots=True)
class Work:
    """What of the sampling a recording computes, for any of its rows."""

    draws: bool = False  # else all rows are greedy
    filters: bool = False  # top_k, top_p or min_p: they need the logits in order
    penalises: bool = False
    leads: bool = False  # how far the best logit lies above the next one

    @classmethod
    def of(cls, draws: Draws) -> "Work":
        sampled = draws.temperature > 0
        narrowed = (draws.top_k > 0) | (draws.top_p < 1) | (draws.min_p > 0)
        return cls(
            draws=bool(sampled.any()),
            filters=bool((sampled & narrowed).any()),
            penalises=draws.seen is not None,
            leads=draws.wants_leads,
        )


def choose(
    logits: Tensor,  # [rows, num_logits, vocab] float32
    work: Work,
    draws: dict[str, Tensor],  # [rows], by the names of the fields of Draws
    seen: Tensor | None,  # [rows, vocab] bool, where the work penalises
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids int64, the best logit, and its lead (or 0): each [rows, num_logits].

    A best logit that is no number shows what is wrong with the others. Everything is of fixed
    shape: rows that ask for less take the values that change nothing.
    """
    if work.penalises:
        assert seen is not None
        penalty = draws["repetition_penalty"][:, None, None]
        moved = torch.where(logits < 0, logits * penalty, logits / penalty)
        moved = moved.clamp(-LARGEST, LARGEST)  # logits that are no numbers stay what they are
        logits = torch.where(seen[:, None] & logits.isfinite(), moved, logits)
    best, tokens = logits.max(-1)
    leads = torch.zeros_like(best)
    if work.leads:
        others = logits.scatter(-1, tokens[..., None], float("-inf"))
        leads = best - others.amax(-1)
    if work.draws:
        temperature = draws["temperature"][:, None, None]
        scores = (logits - best[..., None]) / temperature.clamp_min(TINY)
        weights = _filtered(scores, draws) if work.filters else scores.exp()
        drawn = _draw(weights, draws["uniform"])
        tokens = torch.where(draws["temperature"][:, None] > 0, drawn, tokens)
    return tokens, best, leads


def _filtered(scores: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Weights of the tokens that top_k, top_p and min_p leave; the others have 0."""
    vocab = scores.shape[-1]
    # Stable: of equal scores the lower token id comes first, as on the CPU.
    ordered, tokens = scores.sort(dim=-1, descending=True, stable=True)
    top_k = draws["top_k"].long()[:, None, None]
    last = torch.where(top_k > 0, top_k, vocab).clamp_max(vocab) - 1
    kth = ordered.gather(-1, last.expand(*scores.shape[:2], 1))
    weights = ordered.exp()
    kept = torch.where(ordered >= kth, weights, 0.0)  # ties with the k-th stay
    sums = kept.double().cumsum(-1)
    top_p = draws["top_p"].double()[:, None, None]
    before = sums - kept.double()  # a token stays while those before it have not reached p
    reached = before >= top_p * sums[..., -1:]
    kept = torch.where(reached & (top_p < 1), 0.0, kept)
    kept[..., :1] = weights[..., :1]  # the best stays, whatever was rounded
    kept = torch.where(weights >= draws["min_p"][:, None, None], kept, 0.0)
    return torch.zeros_like(kept).scatter(-1, tokens, kept)


def _draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """[rows, num_logits]: the first token at which the weights' sum passes its share."""
    sums = weights.double().cumsum(-1)
    total = sums[..., -1:]
    drawn = (sums <= uniform[:, None, None] * total).sum(-1)
    last = (sums < total).sum(-1)  # of those with a weight, should a product be rounded up
    return torch.minimum(drawn, last)
