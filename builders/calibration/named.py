"""An engine's policies: that of calls which name none, and the named ones, by budgets of KL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builders.calibration.ladder import Choice, Ladder
from builders.calibration.material import PARTS, Split, renamed, sensitivity
from builders.calibration.search import RANKING_PIECES
from builders.evaluation.command import TextRun, open_subject
from builders.evaluation.results import NamedPolicy, PolicyResult, summarise
from builders.evaluation.scores import score
from builders.evaluation.subject import Subject
from builders.evaluation.text import read_pieces
from river_trt import engine_dir
from river_trt.manifest import DraftInfo, Manifest
from river_trt.progress import Progress

NAMED = {"quality": 0.03, "balanced": 0.05, "fast": 0.1}  # budgets of KL, nats


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A policy of a search, and what it does on held-out text."""

    result: PolicyResult
    description: str
    budget: float  # nats
    text: str  # which

    def summary(self, manifest: Manifest) -> str:
        """One line, kept with the policy."""
        result, total = self.result, manifest.model.shape.num_layers
        layers, counts = result.backbone_layers.value, manifest.bytes_per_layer
        fewer = counts.per_token(total, total) / counts.per_token(layers, total)
        interval = "" if result.kl.low is None else f" ({result.kl.low:.3f}-{result.kl.high:.3f})"
        return (
            f"KL {result.kl.value:.3f}{interval} at {layers:.1f} of {total} layers, "
            f"{fewer:.1f}x fewer bytes than full depth, on held-out {self.text}; "
            f"for KL {self.budget:g}: {self.description}"
        )

    def named(self, manifest: Manifest) -> engine_dir.NamedPolicy:
        """As an engine keeps it."""
        result = self.result
        return engine_dir.NamedPolicy(
            result.name,
            result.policy,
            self.summary(manifest),
            self.budget,
            result.kl.value,
            result.agreement.value,
            result.backbone_layers.value,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Policies:
    """What a search gives an engine: the policy of calls that name none, and the named ones."""

    default: Found
    named: tuple[Found, ...]
    draft: DraftInfo | None = None  # of lossless mode; None: as it was

    def store(self, directory: Path, manifest: Manifest) -> Manifest:
        """In the engine directory of that manifest."""
        if self.draft is not None:
            engine_dir.replace_draft(directory, self.draft)
        return engine_dir.replace_policy(
            directory,
            self.default.result.policy,
            self.default.summary(manifest),
            [found.named(manifest) for found in self.named],
        )


def calibrate_named(run: TextRun, quality: float, progress: Progress) -> Policies:
    """What `build` finds on its own text, on another: for an engine that is there.

    quality: budget of the default policy. Raises RiverError for bad input, before any work.
    """
    options = run.check(least_pieces=len(PARTS))
    subject = open_subject(run, progress)
    subject.check_hidden_states()
    pieces = read_pieces(subject, options)
    Split.of(pieces, str(run.text))  # says what is too little
    search, report = pieces[::2], pieces[1::2]
    costs = sensitivity(subject, search[:RANKING_PIECES], run.skip, progress)
    ladder = Ladder(subject, costs, search, ["text"] * len(search), run.skip, progress)
    return measured(
        subject, ladder_choices(ladder, quality), quality, report, run.skip, run.text.name, progress
    )


def ladder_choices(ladder: Ladder, quality: float) -> dict[str, tuple[float, Choice]]:
    """The named budgets and, under no name, another one of the default policy."""
    budgets = NAMED if quality in NAMED.values() else {"": quality} | NAMED
    found = ladder.within(list(budgets.values()))
    return {
        name: (budget, choice)
        for (name, budget), choice in zip(budgets.items(), found, strict=True)
    }


def measured(
    subject: Subject,
    choices: Mapping[str, tuple[float, Choice]],  # by name: budget and policy
    quality: float,  # the default's budget, one of them
    report: Sequence[np.ndarray],  # held-out pieces
    skip: int,
    text: str,
    progress: Progress,
    draft: DraftInfo | None = None,
) -> Policies:
    """What they do on text that no choice has seen."""
    default = [budget for budget, _ in choices.values()].index(quality)
    policies = [NamedPolicy(name, choice.policy) for name, (_, choice) in choices.items()]
    results = held_out(subject, report, policies, skip, progress)
    found = [
        Found(result, choices[result.name][1].description, choices[result.name][0], text)
        for result in results
    ]
    return Policies(found[default], tuple(item for item in found if item.result.name), draft)


def held_out(
    subject: Subject,
    pieces: Sequence[np.ndarray],
    policies: Sequence[NamedPolicy],
    skip: int,
    progress: Progress,
) -> list[PolicyResult]:
    every = [policy.policy for policy in policies]
    scores = score(subject, pieces, every, skip, renamed(progress, "held-out text"))
    return [summarise(policy, found) for policy, found in zip(policies, scores, strict=True)]
