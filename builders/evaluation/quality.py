"""The means alone, of any function that runs a text: for scripts and calibration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from builders.evaluation.metrics import agreement, kl_divergence, surprise
from river_trt.spec import ExitPolicy, backbone_layers

# One parallel pass over token ids [1, tokens]: logits [1, tokens, vocab], exit_layer [1, tokens].
# An engine's `forward` is one, and `reference.teacher_forced` with its decoder given.
Run = Callable[[np.ndarray, ExitPolicy], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over the positions that were scored."""

    kl: float  # nats: from the reference's next-token distribution to this one
    agreement: float  # 0..1: share of positions whose likeliest token is the reference's
    perplexity: float  # of the text itself
    backbone_layers: float
    positions: int


def evaluate(
    run: Run,
    texts: np.ndarray,  # [texts, tokens] integers
    policies: Sequence[ExitPolicy],
    skip: int = 32,
    reference: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[Quality]:
    """Quality of each policy, teacher forced, over the positions from `skip` on.

    reference: token ids [1, tokens] to logits [1, tokens, vocab]; None is `run` at full depth.
    One text is in memory at a time.
    """
    assert 0 <= skip < texts.shape[1] - 1, "a position to score needs a next token"
    scores: list[list[Tensor]] = [[] for _ in policies]
    for ids in texts:
        if reference is None:
            expected = run(ids[None], ExitPolicy.full_depth(len(policies[0].tau)))[0]
        else:
            expected = reference(ids[None])
        for policy, found in zip(policies, scores, strict=True):
            logits, exit_layer = run(ids[None], policy)
            depth = backbone_layers(exit_layer[0, skip:], policy.pinned)
            found.append(_score(expected[0, skip:], logits[0, skip:], ids[skip + 1 :], depth))
    return [_quality(torch.cat(found, dim=1)) for found in scores]


def _score(
    expected: np.ndarray,  # [positions, vocab]
    logits: np.ndarray,  # [positions, vocab]
    next_ids: np.ndarray,  # [positions - 1]: nothing follows the last token
    depth: np.ndarray,  # [positions]
) -> Tensor:
    """[4, positions]: kl, agreement, surprise (NaN at the last position), backbone layers."""
    reference, found = torch.from_numpy(expected), torch.from_numpy(logits)
    unknown = torch.full((1,), torch.nan)
    rows = (
        kl_divergence(reference, found),
        agreement(reference, found).float(),
        torch.cat([surprise(found[:-1], torch.from_numpy(next_ids).long()), unknown]),
        torch.from_numpy(depth).float(),
    )
    return torch.stack(rows)


def _quality(scores: Tensor) -> Quality:
    kl, agreed, nats, depth = scores.double().nanmean(dim=1).tolist()
    return Quality(kl, agreed, float(np.exp(nats)), depth, scores.shape[1])
