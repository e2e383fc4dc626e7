"""Everything a report shows of an engine, found from its policy and a text alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from builders.evaluation.policies import fixed_exit, gate_scores, paper_taus, tau_shifts
from builders.evaluation.results import NamedPolicy, PolicyResult
from builders.evaluation.subject import Subject
from builders.evaluation.text import BACKBONE, TextOptions, evaluate_policies
from builders.report.data import LayerScores, PolicyPoint, ReportData, Series, TokenDepths
from river_trt.benchmark import ALL_RIVER, ENGINE_POLICY, FULL_DEPTH, Plan, measure, summarise
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy, backbone_layers
from river_trt.text import TextStream

SHARES = (0.1, 0.2, 0.35, 0.5, 0.7)  # of the layers: the depths that the lines pass through
SCORE_PIECES = 4  # pieces whose hidden states are looked at
SAMPLE_TOKENS = 220
SPEED = Plan(new_tokens=48, rounds=3)
PROMPT_TOKENS = 16
SPEED_NOTE = (
    f"Speed-up: decode tokens/s over full depth's, medians of {SPEED.rounds} alternating rounds of "
    f"{SPEED.new_tokens} tokens on the machine that made this page."
)
LOW, MEDIAN, HIGH = 10, 50, 90  # percentiles


def collect(
    subject: Subject,
    pieces: Sequence[np.ndarray],
    results: Sequence[PolicyResult],  # of `compared_policies`: backbone, all river, own, ...
    options: TextOptions,
    progress: Progress,
    commands: tuple[str, ...] = (),
) -> ReportData:
    """Evaluate the paper's gate, fixed exits and the own policy with its tau moved; draw a text.

    The thresholds are chosen so that each line passes through the same mean depths.
    """
    layers, own = subject.num_layers, subject.policy
    similarity = gate_scores(subject, pieces[:SCORE_PIECES], None)
    own_scores = similarity
    if own.directions is not None:
        own_scores = gate_scores(subject, pieces[:SCORE_PIECES], own.directions)
    targets = [max(1.0, share * layers) for share in SHARES]

    lines: list[tuple[Series, NamedPolicy]] = []
    for tau in paper_taus(similarity, targets, layers):
        paper = ExitPolicy.uniform(layers, tau)
        lines.append(("paper", NamedPolicy(f"tau {tau:.4g}, no pins", paper)))
    for layer in sorted({round(target) for target in targets} - {1, layers}):
        fixed = fixed_exit(layers, layer)
        lines.append(("fixed", NamedPolicy(f"exit after layer {layer}", fixed)))
    for shift in tau_shifts(own, own_scores, targets):
        moved = replace(own, tau=own.tau + np.float32(shift))
        lines.append(("calibrated", NamedPolicy(f"tau moved by {shift:+.3f}", moved)))
    found = evaluate_policies(subject, pieces, [named for _, named in lines], options, progress)

    speeds = decode_speedups(subject, pieces[0], progress)
    first: tuple[Series, ...] = ("full depth", "all river", "calibrated")
    points = [
        point_of(result, series, series == "calibrated", speed)
        for series, result, speed in zip(first, results, speeds, strict=False)
    ]
    points += [
        replace(point_of(result, "calibrated"), named=result.name in subject.named)
        for result in results[len(first) :]
    ]
    points += [point_of(r, series) for (series, _), r in zip(lines, found, strict=True)]
    backbone = next(result for result in results if result.name == BACKBONE)
    tokens = f"{backbone.pieces} pieces of up to {options.piece_tokens} tokens"
    return ReportData(
        model=subject.name,
        num_layers=layers,
        text=f"{options.text.name}: {tokens}, {backbone.positions} positions",
        river=subject.river,
        points=tuple(points),
        shipped=own,
        sample=token_depths(subject, pieces[0][:SAMPLE_TOKENS], options),
        similarity=layer_scores(similarity, "similarity") if len(similarity) else None,
        gate_scores=layer_scores(own_scores, own.gate) if len(similarity) else None,
        commands=commands,
        calibrated_label="the engine's policy, tau moved",
        notes=(SPEED_NOTE,) if subject.engine is not None else (),
    )


def point_of(
    result: PolicyResult, series: Series, shipped: bool = False, speedup: float | None = None
) -> PolicyPoint:
    return PolicyPoint(
        name=result.name,
        series=series,
        policy=result.policy,
        backbone_layers=result.backbone_layers.value,
        kl=result.kl,
        agreement=result.agreement,
        perplexity=result.perplexity,
        speedup=speedup,
        shipped=shipped,
    )


def layer_scores(scores: np.ndarray, gate: str) -> LayerScores:
    low, median, high = np.percentile(scores, [LOW, MEDIAN, HIGH], axis=1).tolist()
    return LayerScores(gate, tuple(low), tuple(median), tuple(high))


def token_depths(subject: Subject, ids: np.ndarray, options: TextOptions) -> TokenDepths:
    """The text of each token and how deep the step that read it went."""
    _, exit_layer = subject.step(1, 0, ids, subject.policy)
    stream = TextStream(subject.tokenizer)
    texts = [stream.push(int(token)) for token in ids]
    texts[-1] += stream.flush()
    return TokenDepths(
        tuple(texts),
        tuple(exit_layer.tolist()),
        tuple(backbone_layers(exit_layer, subject.policy.pinned).tolist()),
        f"From {options.text.name}, under the engine's policy: how many backbone layers ran when "
        "the model read the token, to say what comes next.",
    )


def decode_speedups(subject: Subject, ids: np.ndarray, progress: Progress) -> list[float | None]:
    """Decode speed over full depth's, of full depth, all river and the engine's policy."""
    arms = [FULL_DEPTH, ALL_RIVER, ENGINE_POLICY]
    if subject.engine is None:
        return [None for _ in arms]
    prompt = ids[:PROMPT_TOKENS].tolist()
    room = subject.max_seq_len - len(prompt) + 1
    plan = replace(SPEED, new_tokens=max(2, min(SPEED.new_tokens, room)))
    rounds = measure(subject.engine, [prompt], arms, plan, progress)
    return [summary.ratio for summary in summarise([arm.name for arm in arms], rounds)]
