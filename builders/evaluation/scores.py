"""Teacher-forced scores of each policy, position by position.

    piece --- backbone, cache row 0 ---- logits, K/V
      |                                     |    |
      +------ policy,   cache row 1 ---- logits, K/V     in chunks that continue the row

A token's flag depends only on layers below, so the parallel pass is decoding token by token
(design, section 2). One piece's logits of the backbone and one chunk's of a policy are in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from builders.evaluation.metrics import agreement, kl_divergence, surprise
from builders.evaluation.subject import Subject
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy

CHUNK = 256  # tokens of a pass
BACKBONE_ROW, POLICY_ROW = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class PieceScores:
    """One policy on one piece; positions from `skip` to the last one that has a next token."""

    kl: np.ndarray  # [positions] nats, from the backbone's next-token distribution to the policy's
    agreed: np.ndarray  # [positions] whether the likeliest token is the backbone's
    surprise: np.ndarray  # [positions] nats, of the text's next token
    exit_layer: np.ndarray  # [positions] 1..L
    k_cosine: np.ndarray  # [L] the policy's K with the backbone's: mean over positions and heads
    v_cosine: np.ndarray  # [L]


def score(
    subject: Subject,
    pieces: Sequence[np.ndarray],  # int64 [tokens] each
    policies: Sequence[ExitPolicy],
    skip: int,
    progress: Progress,
) -> list[list[PieceScores]]:
    """The pieces' scores of each policy, in the order of `policies`."""
    full_depth = ExitPolicy.full_depth(subject.num_layers)
    scores: list[list[PieceScores]] = [[] for _ in policies]
    total = len(pieces) * len(policies)
    progress("scoring", 0, total)
    for number, ids in enumerate(pieces):
        assert skip + 2 <= len(ids) <= subject.max_seq_len
        chunks = [slice(at, min(at + CHUNK, len(ids))) for at in range(0, len(ids), CHUNK)]
        expected = [
            subject.step(BACKBONE_ROW, chunk.start, ids[chunk], full_depth)[0] for chunk in chunks
        ]
        backbone = subject.read_cache(BACKBONE_ROW, len(ids))[..., skip : len(ids) - 1, :]
        for index, policy in enumerate(policies):
            parts = []
            for chunk, reference in zip(chunks, expected, strict=True):
                logits, exit_layer = subject.step(POLICY_ROW, chunk.start, ids[chunk], policy)
                # Scored: positions skip .. tokens - 2 of the piece; `start` is within the chunk.
                start = max(0, skip - chunk.start)
                next_ids = ids[chunk.start + start + 1 : chunk.stop + 1]
                stop = start + len(next_ids)
                parts.append(
                    (
                        *_compare(reference[start:stop], logits[start:stop], next_ids),
                        exit_layer[start:stop],
                    )
                )
            kl, agreed, nats, exits = (np.concatenate(c) for c in zip(*parts, strict=True))
            found = subject.read_cache(POLICY_ROW, len(ids))[..., skip : len(ids) - 1, :]
            k_cosine, v_cosine = cache_cosine(backbone, found)
            scores[index].append(PieceScores(kl, agreed, nats, exits, k_cosine, v_cosine))
            progress("scoring", number * len(policies) + index + 1, total)
    return scores


def cache_cosine(
    a: np.ndarray,  # [L, 2, num_kv_heads, positions, head_dim]
    b: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each layer's K and of its V, [L] each: mean over heads and positions."""
    cosine = torch.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b), dim=-1)
    k, v = cosine.double().mean(dim=(2, 3)).T.numpy()
    return k, v


def _compare(
    expected: np.ndarray,  # [positions, vocab]
    logits: np.ndarray,  # [positions, vocab]
    next_ids: np.ndarray,  # [positions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """kl, agreement and surprise of each position."""
    reference, found = torch.from_numpy(expected), torch.from_numpy(logits)
    return (
        kl_divergence(reference, found).double().numpy(),
        agreement(reference, found).numpy(),
        surprise(found, torch.from_numpy(next_ids)).double().numpy(),
    )
