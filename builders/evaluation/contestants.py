"""Quality beside speed: what a benchmark's engines lose in each of their modes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from builders.evaluation.metrics import agreement, kl_divergence
from builders.evaluation.texts import cut_pieces, read_documents
from river_trt.benchmark.measure import EngineArm
from river_trt.benchmark.result import ArmQuality
from river_trt.config import GenerationConfig, resolve_policy
from river_trt.errors import RiverError
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy

SKIP = 32  # first positions of a piece, not scored


def score_contestants(
    contestants: Sequence[EngineArm],
    text: Path,
    pieces: int,
    piece_tokens: int,
    progress: Progress,
) -> dict[str, ArmQuality]:
    """Teacher forced, by name, against the first engine at full depth.

    Modes whose rows leave together have no score of their own: it depends on the other rows.
    Raises RiverError for a text that cannot be read, an engine without a tokenizer, or engines of
    different vocabularies.
    """
    baseline = contestants[0].engine
    if baseline.tokenizer is None:
        raise RiverError("the engine has no tokenizer, so it cannot read a text")
    vocabularies = {c.engine.manifest.model.shape.vocab_size for c in contestants}
    if len(vocabularies) > 1:
        raise RiverError("engines of different vocabularies cannot be compared on a text")
    if pieces < 1:
        raise RiverError(f"pieces must be at least 1, got {pieces}")
    length = min(piece_tokens, *(c.engine.max_seq_len for c in contestants))
    texts = cut_pieces(read_documents(text), baseline.tokenizer, length, SKIP, pieces, text)
    scored = [c for c in contestants if c.arm.gate_scope == "token"]
    sums = {contestant.name: [0.0, 0.0] for contestant in scored}
    positions = 0
    for number, ids in enumerate(texts):
        progress("scoring", number, len(texts))
        full = ExitPolicy.full_depth(baseline.num_layers)
        expected = torch.from_numpy(baseline.forward(ids[None], full)[0][0, SKIP:])
        positions += len(expected)
        for contestant in scored:
            engine, arm = contestant.engine, contestant.arm
            config = GenerationConfig(
                tau=arm.tau, pinned=arm.pinned, mode=arm.mode, policy=arm.policy
            )
            policy = resolve_policy(config, engine.policy_of(config), engine.num_layers)
            logits = torch.from_numpy(engine.forward(ids[None], policy)[0][0, SKIP:])
            found = sums[contestant.name]
            found[0] += float(kl_divergence(expected, logits).sum())
            found[1] += float(agreement(expected, logits).sum())
    progress("scoring", len(texts), len(texts))
    return {n: ArmQuality(kl / positions, agreed / positions) for n, (kl, agreed) in sums.items()}
