"""Evaluate policies on a text: what `river-trt evaluate --text` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builders.evaluation.results import NamedPolicy, PolicyResult, summarise
from builders.evaluation.scores import score
from builders.evaluation.subject import Subject
from builders.evaluation.texts import check_length, cut_pieces, read_documents
from river_trt.config import GenerationConfig, resolve_policy
from river_trt.errors import RiverError
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy

Tau = float | tuple[float, ...]
BACKBONE, ALL_RIVER, RIVER = "backbone", "all river", "River"


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a text is cut and scored; checked when made."""

    text: Path
    pieces: int = 16  # at most, spread over the text
    piece_tokens: int = 256  # of a piece: the longest context
    skip: int = 32  # first positions of a piece, not scored
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        for name, least in (("pieces", 1), ("piece_tokens", 2), ("skip", 0), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise RiverError(f"{name} must be at least {least}, got {value}")
        check_length(self.piece_tokens, self.skip)


def compared_policies(
    subject: Subject, taus: Sequence[Tau], pinned: Sequence[int] | None
) -> list[NamedPolicy]:
    """Backbone, all river, the subject's own and named ones; then each tau with its gate and pins.

    pinned: layers from 1 for those taus; None keeps the subject's pins.
    """
    layers = subject.num_layers
    policies = [
        NamedPolicy(BACKBONE, ExitPolicy.full_depth(layers)),
        NamedPolicy(ALL_RIVER, ExitPolicy.uniform(layers, -np.inf)),
        NamedPolicy(RIVER, subject.policy),
        *(NamedPolicy(name, policy) for name, policy in subject.named.items()),
    ]
    for tau in taus:
        config = GenerationConfig(tau=tau, pinned=pinned)
        name = f"tau {tau:g}" if isinstance(tau, float) else "tau a layer"
        policies.append(NamedPolicy(name, resolve_policy(config, subject.policy, layers)))
    return policies


def read_pieces(subject: Subject, options: TextOptions) -> list[np.ndarray]:
    documents = read_documents(options.text)
    length = options.piece_tokens
    return cut_pieces(
        documents, subject.tokenizer, length, options.skip, options.pieces, options.text
    )


def evaluate_policies(
    subject: Subject,
    pieces: Sequence[np.ndarray],
    policies: Sequence[NamedPolicy],
    options: TextOptions,
    progress: Progress,
) -> list[PolicyResult]:
    scores = score(subject, pieces, [p.policy for p in policies], options.skip, progress)
    return [summarise(p, s, options.seed) for p, s in zip(policies, scores, strict=True)]
