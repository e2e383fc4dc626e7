"""Policies of an engine on held-out text, by budget: calibrated, the paper's, fixed, static."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from builders.calibration.budget import Budget
from builders.calibration.candidates import static_mask
from builders.calibration.material import Split
from builders.calibration.paper import PaperSearch
from builders.calibration.search import Search, pin_counts
from builders.evaluation.command import TextRun, open_subject
from builders.evaluation.policies import fixed_exit
from builders.evaluation.results import NamedPolicy, PolicyResult
from builders.evaluation.subject import Subject
from builders.evaluation.text import ALL_RIVER, BACKBONE, evaluate_policies, read_pieces
from builders.report import ReportData
from builders.report.collect import point_of
from builders.report.data import Series
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy


@dataclass(frozen=True, slots=True)
class Comparison:
    """Each policy's kind and its result, full depth and all river first."""

    subject: Subject
    text: str
    rows: list[tuple[Series, PolicyResult]]

    @property
    def results(self) -> list[PolicyResult]:
        return [result for _, result in self.rows]

    def table(self) -> Table:
        table = Table("policy", "backbone layers", "KL, nats", "top-1", "perplexity")
        for result in self.results:
            table.add_row(
                result.name,
                f"{result.backbone_layers.value:.2f}",
                f"{result.kl.value:.4f} ({result.kl.low:.4f}-{result.kl.high:.4f})",
                f"{result.agreement.value:.1%} "
                f"({result.agreement.low:.1%}-{result.agreement.high:.1%})",
                f"{result.perplexity.value:.2f} "
                f"({result.perplexity.low:.2f}-{result.perplexity.high:.2f})",
            )
        return table

    def report(self, command: str) -> ReportData:
        """The page's data; command: what gives it again."""
        return ReportData(
            model=self.subject.name,
            num_layers=self.subject.num_layers,
            text=f"{self.text}: {self.results[0].positions} held-out positions",
            river=self.subject.river,
            points=tuple(point_of(result, series) for series, result in self.rows),
            commands=(command,),
        )


def compare(
    run: TextRun,
    budgets: Sequence[float],  # mean backbone layers
    scored: int,  # of the held-out pieces
    progress: Progress,
) -> Comparison:
    """One calibration, and for each budget four policies scored on the same held-out pieces."""
    options = run.options
    subject = open_subject(run)
    layers = subject.num_layers
    split = Split.of(read_pieces(subject, options), str(run.text))
    counts = {n for b in budgets for n in pin_counts(Budget("target-layers", b), layers)}
    search = Search(subject, split, sorted(counts), run.skip, progress)
    paper = PaperSearch(subject, split.choose, run.skip, progress)
    rows: list[tuple[Series, NamedPolicy]] = [
        ("full depth", NamedPolicy(BACKBONE, ExitPolicy.full_depth(layers))),
        ("all river", NamedPolicy(ALL_RIVER, ExitPolicy.uniform(layers, float("-inf")))),
    ]
    for budget in budgets:
        found = search.at(budget)
        mask = static_mask(search.sensitivity, round(budget)).policy
        rows += [
            ("calibrated", NamedPolicy(f"{budget:g}: {found.description}", found.policy)),
            ("paper", NamedPolicy(f"{budget:g}: the paper's gate", paper.policy(budget))),
            ("fixed", NamedPolicy(f"{budget:g}: fixed exit", fixed_exit(layers, int(budget)))),
            ("static", NamedPolicy(f"{budget:g}: static mask", mask)),
        ]
    # Evenly spread, as the pieces are over the text.
    held_out = split.report[:: max(1, len(split.report) // scored)][:scored]
    policies = [named for _, named in rows]
    results = evaluate_policies(subject, held_out, policies, options, progress)
    kinds = [series for series, _ in rows]
    return Comparison(subject, run.text.name, list(zip(kinds, results, strict=True)))
