"""The draft policy of lossless mode: the pinned layers whose drafts are worth most for their cost.

A pinned layer makes a draft step dearer and its token likelier to be accepted. Sets of pins grow
along the ranking by sensitivity; each is measured where it counts, in lossless generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import river_trt
from builders.calibration.material import renamed, sensitivity
from builders.calibration.search import RANKING_PIECES
from builders.evaluation.command import TextRun, open_subject
from builders.evaluation.text import read_pieces
from river_trt.config import GenerationConfig
from river_trt.errors import RiverError
from river_trt.lossless.length import best_length, step_cost, token_cost
from river_trt.manifest import DraftInfo, Manifest
from river_trt.progress import Progress

MOST_PINS = 4  # behind layer 1
DEFAULTS = GenerationConfig()


@dataclass(frozen=True, slots=True)
class DraftResult:
    """A set of pinned layers, measured."""

    pinned: tuple[int, ...]  # from 1; layer 1 runs the backbone without a pin
    acceptance: float  # of tokens whose predecessors were accepted
    step_cost: float  # of a draft step, in full-depth steps, by bytes
    length: int  # of the best draft
    speedup: float  # over full depth that acceptance and cost promise


@dataclass(frozen=True, slots=True)
class DraftCalibration:
    best: DraftResult
    results: tuple[DraftResult, ...]  # in the order of the search
    draft: DraftInfo


def calibrate_draft(run: TextRun, progress: Progress) -> DraftCalibration:
    """Measure growing sets of pins on greedy continuations of the text's pieces.

    Raises RiverError for bad input, before any work.
    """
    options = run.check(least_pieces=RANKING_PIECES + 1)
    subject = open_subject(run, progress)
    engine = subject.engine
    if engine is None:
        raise RiverError("a draft policy is measured on an engine; give one in place of --model")
    pieces = read_pieces(subject, options)
    if len(pieces) <= RANKING_PIECES:
        raise RiverError(
            f"{run.text} gives {len(pieces)} pieces of text; more than {RANKING_PIECES} are needed "
            "to rank layers and to draft on. Give more text, or shorter pieces with --piece-tokens"
        )
    ranking = sensitivity(subject, pieces[:RANKING_PIECES], run.skip, progress)
    order = (np.argsort(-ranking, kind="stable")[1:] + 1).tolist()  # layer 1 is its first
    sets = [tuple(sorted(order[:count])) for count in range(min(MOST_PINS, len(order)) + 1)]
    prompts = [piece[: len(piece) // 2] for piece in pieces[RANKING_PIECES:]]
    stage = renamed(progress, "drafts")
    stage("", 0, len(sets))
    results = []
    for number, pinned in enumerate(sets, 1):
        results.append(_measure(engine, prompts, pinned))
        stage("", number, len(sets))
        if results[-1].length == 0:  # too dear already
            break
    best = max(results, key=lambda result: result.speedup)
    summary = (
        f"on {run.text.name}: {best.acceptance:.1%} of drafted tokens accepted, "
        f"{best.length} a draft"
    )
    return DraftCalibration(best, tuple(results), DraftInfo(best.pinned, summary))


def _measure(
    engine: river_trt.Engine, prompts: Sequence[np.ndarray], pinned: tuple[int, ...]
) -> DraftResult:
    tested = accepted = 0
    for prompt in prompts:
        config = GenerationConfig(
            mode="lossless",
            temperature=0.0,
            repetition_penalty=1.0,
            pinned=pinned,
            max_new_tokens=engine.max_seq_len - len(prompt),
            ignore_eos=True,
        )
        (result,) = engine.generate([prompt], config)
        assert result.speculation is not None
        speculation = result.speculation
        accepted += int(speculation.accepted.sum())
        tested += int((speculation.accepted + (speculation.accepted < speculation.drafted)).sum())
    share = accepted / max(1, tested)  # nothing is drafted where it cannot pay
    return promise(pinned, share, engine.manifest)


def promise(pinned: tuple[int, ...], acceptance: float, manifest: Manifest) -> DraftResult:
    """What drafting with these pinned layers is worth, at its best length."""
    layers = 1 + len(set(pinned) - {1})
    cost = step_cost(manifest.bytes_per_layer, layers, manifest.model.shape.num_layers)
    best = best_length([acceptance], token_cost(cost), DEFAULTS.max_draft_tokens)
    return DraftResult(pinned, acceptance, cost, *best)
