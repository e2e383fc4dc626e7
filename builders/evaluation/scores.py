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
from torch import Tensor

from builders.evaluation.subject import Subject
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy

CHUNK = 256  # tokens of a pass
BLOCK = 8  # positions that are compared at a time: their logits stay in the cache
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
        expected = []
        for chunk in chunks:
            logits, _ = subject.step(BACKBONE_ROW, chunk.start, ids[chunk], full_depth)
            expected.append(Reference.of(logits[scored_positions(chunk, skip, len(ids))]))
        backbone = subject.read_cache(BACKBONE_ROW, len(ids))[..., skip : len(ids) - 1, :]
        for index, policy in enumerate(policies):
            parts = []
            for chunk, reference in zip(chunks, expected, strict=True):
                logits, exit_layer = subject.step(POLICY_ROW, chunk.start, ids[chunk], policy)
                scored = scored_positions(chunk, skip, len(ids))
                next_ids = ids[chunk.start + scored.start + 1 :][: scored.stop - scored.start]
                parts.append((*reference.compare(logits[scored], next_ids), exit_layer[scored]))
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


def scored_positions(chunk: slice, skip: int, tokens: int) -> slice:
    """Within the chunk: positions skip .. tokens - 2 of a piece of that many tokens."""
    start = min(max(0, skip - chunk.start), chunk.stop - chunk.start)
    return slice(start, max(start, min(chunk.stop, tokens - 1) - chunk.start))


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The backbone's distributions over a chunk, which every policy is compared with."""

    p: Tensor  # [positions, vocab]
    log_p: Tensor
    likeliest: np.ndarray  # [positions]

    @classmethod
    def of(
        cls,
        logits: np.ndarray,  # [positions, vocab]
    ) -> "Reference":
        log_p = torch.from_numpy(logits).float().log_softmax(-1)
        return cls(log_p.exp(), log_p, logits.argmax(-1))

    def compare(
        self,
        logits: np.ndarray,  # [positions, vocab]
        next_ids: np.ndarray,  # [positions]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """kl, agreement and surprise of each position."""
        kl, nats = np.empty(len(logits)), np.empty(len(logits))
        for at in range(0, len(logits), BLOCK):
            some = slice(at, at + BLOCK)
            log_q = torch.from_numpy(logits[some]).float().log_softmax(-1)
            kl[some] = torch.linalg.vecdot(self.p[some], self.log_p[some] - log_q).numpy()
            nats[some] = -log_q.numpy()[np.arange(len(log_q)), next_ids[some]]
        return kl, logits.argmax(-1) == self.likeliest, nats
