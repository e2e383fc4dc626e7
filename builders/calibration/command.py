"""`river-trt calibrate`: search, report on held-out text, store the policy."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from builders.calibration.budget import Budget
from builders.calibration.candidates import static_mask
from builders.calibration.material import PARTS, Split, sensitivity
from builders.calibration.paper import PaperSearch
from builders.calibration.search import RANKING_PIECES, Measured, Search, pin_counts, within_budget
from builders.evaluation.command import TextRun, open_subject
from builders.evaluation.policies import fixed_exit
from builders.evaluation.results import NamedPolicy, PolicyResult
from builders.evaluation.subject import Subject
from builders.evaluation.text import (
    ALL_RIVER,
    BACKBONE,
    evaluate_policies,
    read_pieces,
)
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy

PolicyKind = Literal["calibrated", "paper"]
CHOSEN = "River"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was chosen, and how it and its rivals do on text that no choice has seen."""

    policy: ExitPolicy
    description: str
    config_sha256: str
    model: str
    results: tuple[PolicyResult, ...]  # backbone, all river, the chosen policy, its rivals
    budget_met: bool  # on the held-out text
    summary: str  # one line, kept with the policy


def calibrate(run: TextRun, kind: PolicyKind, budget: Budget, progress: Progress) -> Calibration:
    """Choose a policy within the budget. Raises RiverError for bad input, before any work."""
    options = run.check(least_pieces=len(PARTS))
    subject = open_subject(run, progress)
    subject.check_hidden_states()
    budget.check(subject.num_layers)
    split = Split.of(read_pieces(subject, options), str(run.text))
    paper = PaperSearch(subject, split.choose, run.skip, progress)
    if kind == "paper":
        chosen = within_budget(paper.at, budget, subject.num_layers)
        ranking = sensitivity(subject, split.fit[:RANKING_PIECES], run.skip, progress)
    else:
        counts = pin_counts(budget, subject.num_layers)
        search = Search(subject, split, counts, run.skip, progress)
        chosen = within_budget(search.at, budget, subject.num_layers)
        ranking = search.sensitivity
    policies = rivals(subject, chosen, kind, paper, ranking)
    results = evaluate_policies(subject, split.report, policies, options, progress)
    own = next(result for result in results if result.name == CHOSEN)
    subject.policy = chosen.policy  # the report is about the chosen one
    run.write_report(subject, split.report, results, progress)
    return Calibration(
        policy=chosen.policy,
        description=chosen.description,
        config_sha256=subject.config_sha256,
        model=subject.name,
        results=tuple(results),
        budget_met=budget.met_by(own.kl.value, own.agreement.value),
        summary=(
            f"{kind}, --{budget.kind} {budget.value:g} on {run.text.name}: KL {own.kl.value:.4f}, "
            f"top-1 {own.agreement.value:.1%} at {own.backbone_layers.value:.2f} backbone layers "
            "on held-out text"
        ),
    )


def rivals(
    subject: Subject, chosen: Measured, kind: PolicyKind, paper: PaperSearch, ranking: np.ndarray
) -> list[NamedPolicy]:
    """The chosen policy beside others of as many backbone layers."""
    num_layers, layers = subject.num_layers, chosen.backbone_layers
    policies = [
        NamedPolicy(BACKBONE, ExitPolicy.full_depth(num_layers)),
        NamedPolicy(ALL_RIVER, ExitPolicy.uniform(num_layers, -np.inf)),
        NamedPolicy(CHOSEN, chosen.policy),
    ]
    if kind != "paper":
        policies.append(NamedPolicy("the paper's gate", paper.policy(layers)))
    depth = min(num_layers, max(1, round(layers)))
    policies.append(NamedPolicy("fixed exit", fixed_exit(num_layers, depth)))
    policies.append(NamedPolicy("static mask", static_mask(ranking, depth).policy))
    return policies
