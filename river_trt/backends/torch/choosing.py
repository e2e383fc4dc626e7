"""The next tokens chosen on the device: what river_trt/sampling.py computes, for whole batches.

The host gives each row the numbers that its own generator drew, and the token is found by the same
rule, so a seed means the same here as there: texts differ only where the logits do. Verification of
drafted tokens is that of river_trt/lossless/acceptance.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from river_trt.backends.base import Draws
from river_trt.config import MOST_LOGPROBS
from river_trt.sampling import LARGEST, TINY

PART = 256  # of a running sum


@dataclass(frozen=True, slots=True)
class Work:
    """What of the sampling a recording computes, for any of its rows."""

    draws: bool = False  # else all rows are greedy
    filters: bool = False  # top_k, top_p or min_p: they need the logits in order
    penalises: bool = False
    leads: bool = False  # how far the best logit lies above the next one
    keeps: bool = False  # what sampled tokens were drawn from, until they are verified
    verifies: bool = False  # tokens that were drafted
    adds: bool = False  # to the logits, before a token is chosen
    logprobs: bool = False  # of the tokens, and of the best ones

    @classmethod
    def of(cls, draws: Draws) -> "Work":
        sampled = draws.temperature > 0
        is_sampled = bool(sampled.any())
        narrowed = is_sampled and (draws.top_k > 0) | (draws.top_p < 1) | (draws.min_p > 0)
        return cls(
            draws=is_sampled,
            filters=bool(np.any(sampled & narrowed)),
            penalises=draws.seen is not None,
            leads=draws.wants_leads,
            keeps=draws.draft_indices is not None,
            verifies=draws.drafted is not None,
            adds=draws.added is not None,
            logprobs=draws.wants_logprobs,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """tokens int64, the best logit, and its lead (or 0): each [rows, num_logits].

    weights: float32 [rows, num_logits, vocab], what sampled tokens were drawn from.
    logprobs: float32 [rows, num_logits], of the logits as they came; top_ids int64, top_logprobs
    float32 [rows, num_logits, best].
    """

    tokens: Tensor
    best: Tensor
    leads: Tensor
    weights: Tensor | None
    logprob: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


def choose(
    logits: Tensor,  # [rows, num_logits, vocab] float32
    work: Work,
    draws: dict[str, Tensor],  # [rows], by the names of the fields of Draws; uniform of a
    # verification is [rows, num_logits]
    seen: Tensor | None,  # [rows, vocab] bool, where the work penalises
    token_ids: Tensor | None = None,  # [rows, num_logits] int64, of a verification: the step's
    origins: Tensor | None = None,  # [rows, num_logits - 1, vocab]: what they were drawn from
    added: Tensor | None = None,  # [rows, num_logits or 1, vocab] float32, where the work adds
) -> Chosen:
    """The next token after each of the logits. Of a verification, the one that stands there.

    A best logit that is no number shows what is wrong with the others. Everything is of fixed
    shape: rows that ask for less take the values that change nothing.
    """
    given = logits
    if work.penalises:
        assert seen is not None
        seen = seen[:, None]
        if work.verifies:
            assert token_ids is not None
            seen = _seen_before(seen, token_ids)
        penalty = draws["repetition_penalty"][:, None, None]
        moved = torch.where(logits < 0, logits * penalty, logits / penalty)
        moved = moved.clamp(-LARGEST, LARGEST)  # logits that are no numbers stay what they are
        logits = torch.where(seen & logits.isfinite(), moved, logits)
    if work.adds:
        assert added is not None
        logits = logits + added
    best, tokens = logits.max(-1)
    leads = torch.zeros_like(best)
    if work.leads:
        others = logits.scatter(-1, tokens[..., None], float("-inf"))
        leads = best - others.amax(-1)
    weights = None
    if work.draws:
        temperature = draws["temperature"][:, None, None]
        scores = (logits - best[..., None]) / temperature.clamp_min(TINY)
        weights = _filtered(scores, draws) if work.filters else scores.exp()
        if work.verifies:
            assert token_ids is not None and origins is not None
            drawn = _verify(weights, origins, token_ids, draws["drafted"], draws["uniform"])
        else:
            drawn = _draw(weights, draws["uniform"][:, None])
        tokens = torch.where(draws["temperature"][:, None] > 0, drawn, tokens)
    if not work.logprobs:
        return Chosen(tokens, best, leads, weights)
    known = given.double().log_softmax(-1)
    top = known.topk(best_count(known.shape[-1]), dim=-1)
    logprob = known.gather(-1, tokens[..., None])[..., 0]
    return Chosen(tokens, best, leads, weights, logprob.float(), top.indices, top.values.float())


def best_count(vocab_size: int) -> int:
    """Tokens that logprobs show of each place."""
    return min(MOST_LOGPROBS, vocab_size)


def _seen_before(seen: Tensor, token_ids: Tensor) -> Tensor:
    """[rows, num_logits, vocab]: with the step's tokens up to each; seen [rows, 1, vocab] has the
    first one.
    """
    steps = [seen]
    for index in range(1, token_ids.shape[1]):
        drafted = token_ids[:, index, None, None]
        steps.append(steps[-1].scatter(-1, drafted, True))
    return torch.cat(steps, dim=1)


def _verify(
    weights: Tensor,  # [rows, num_logits, vocab]: what each token must be distributed as
    origins: Tensor,  # [rows, num_logits - 1, vocab]: what the drafted ones were drawn from
    token_ids: Tensor,  # [rows, num_logits]: the last token and the drafted ones
    drafted: Tensor,  # [rows] int64: how many
    uniform: Tensor,  # [rows, num_logits] float64
) -> Tensor:
    """Of each place the drafted token or what replaces it; of the place behind them one more.

    Place i is tested with number i; what is drawn there takes the number after it, and behind the
    drafted tokens number i itself. What comes after a token that was replaced means nothing.
    """
    places = torch.arange(weights.shape[1], device=weights.device)[None]  # [1, num_logits]
    is_drafted = places < drafted[:, None]
    # The last place has no drafted token: its own values stand in, and are not taken.
    tokens = torch.cat([token_ids[:, 1:], token_ids[:, :1]], dim=1)
    origins = torch.cat([origins, weights[:, -1:]], dim=1)
    target, origin = _normalised(weights), _normalised(origins)
    shares, drafted_shares = (p.gather(-1, tokens[..., None])[..., 0] for p in (target, origin))
    is_accepted = is_drafted & (uniform * drafted_shares < shares)
    left = (target - origin).clamp_min(0)
    # Equal but for rounding: nothing was lost with the rejection.
    is_left = is_drafted & (left.amax(-1) > 0)
    left = torch.where(is_left[..., None], left, target)
    numbers = uniform.gather(1, torch.minimum(places + 1, drafted[:, None]))
    return torch.where(is_accepted, tokens, _draw(left, numbers))


def _normalised(weights: Tensor) -> Tensor:
    weights = weights.double()
    return weights / weights.sum(-1, keepdim=True).clamp_min(TINY)


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
    sums = _running_sums(kept)
    top_p = draws["top_p"].double()[:, None, None]
    before = sums - kept.double()  # a token stays while those before it have not reached p
    reached = before >= top_p * sums[..., -1:]
    kept = torch.where(reached & (top_p < 1), 0.0, kept)
    kept[..., :1] = weights[..., :1]  # the best stays, whatever was rounded
    kept = torch.where(weights >= draws["min_p"][:, None, None], kept, 0.0)
    return torch.zeros_like(kept).scatter(-1, tokens, kept)


def _running_sums(weights: Tensor) -> Tensor:
    """float64, over the last axis: part by part, since a GPU adds up one row of a whole vocabulary
    in a single block.
    """
    vocab = weights.shape[-1]
    padded = torch.nn.functional.pad(weights.double(), (0, -vocab % PART))
    parts = padded.view(*padded.shape[:-1], -1, PART).cumsum(-1)
    ends = parts[..., -1].cumsum(-1)
    before = torch.nn.functional.pad(ends[..., :-1], (1, 0))
    sums: Tensor = (parts + before[..., None]).flatten(-2)[..., :vocab]
    return sums


def _draw(
    weights: Tensor,  # [rows, num_logits, vocab]
    uniform: Tensor,  # [rows, num_logits or 1]
) -> Tensor:
    """[rows, num_logits]: the first token at which the weights' sum passes its share."""
    sums = _running_sums(weights)
    total = sums[..., -1:]
    drawn = (sums <= uniform[..., None] * total).sum(-1)
    last = (sums < total).sum(-1)  # of those with a weight, should a product be rounded up
    return torch.minimum(drawn, last)
