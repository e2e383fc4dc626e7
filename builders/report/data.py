"""What a report shows. `evaluate` and `calibrate` fill these; drawing needs nothing else."""

from dataclasses import dataclass
from typing import Literal

from builders.evaluation.intervals import Estimate
from river_trt.spec import ExitPolicy

# What a point is. Points of one of the first four are joined by a line, the others stand alone.
#   paper       the paper's gate: similarity, one tau, no pins
#   calibrated  policies that `calibrate` found, or the engine's own with its tau moved
#   fixed       every token exits after one layer
#   static      only pinned layers run the backbone
Series = Literal["paper", "calibrated", "fixed", "static", "full depth", "all river"]


@dataclass(frozen=True, slots=True)
class PolicyPoint:
    """One policy, measured against the backbone on the report's text."""

    name: str  # as the table prints it: "tau 0.97"
    series: Series
    policy: ExitPolicy
    backbone_layers: float  # mean over the positions
    kl: Estimate  # nats
    agreement: Estimate  # 0..1
    perplexity: Estimate
    speedup: float | None = None  # decode tokens/s over full depth's, both from one run
    named: bool = False  # a policy that a call may choose by its name, which stands beside it
    shipped: bool = False  # this is the engine's policy: drawn large and named


@dataclass(frozen=True, slots=True)
class TokenDepths:
    """A sample text, token by token, under the shipped policy."""

    tokens: tuple[str, ...]  # joined, they are the text
    exit_layers: tuple[int, ...]  # 1..L, of the step that read the token
    backbone_layers: tuple[int, ...]
    caption: str = ""  # where the text is from, which policy


@dataclass(frozen=True, slots=True)
class LayerScores:
    """A gate's score after each layer, over the positions of the text at full depth."""

    gate: str  # "similarity" or "direction"
    low: tuple[float, ...]  # 10th percentile, [layers]: of layers 1, 2, ...; the last may lack
    median: tuple[float, ...]
    high: tuple[float, ...]  # 90th percentile


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything a report draws; a part that is None or empty is left out of the page."""

    model: str
    num_layers: int
    text: str  # what was scored, for people: "wiki.test.txt: 16 pieces of 256 tokens"
    river: str  # "awq, 4 bits, groups of 64"
    points: tuple[PolicyPoint, ...]  # one of series "full depth" among them
    shipped: ExitPolicy | None = None  # whose tau and pins are drawn
    sample: TokenDepths | None = None
    similarity: LayerScores | None = None
    gate_scores: LayerScores | None = None  # of the shipped policy's gate; None: `similarity`
    commands: tuple[str, ...] = ()  # that made the report
    calibrated_label: str = "calibrated policies"  # of that series, in the legend
    notes: tuple[str, ...] = ()  # for people, below the charts
