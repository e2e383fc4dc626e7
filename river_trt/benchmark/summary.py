"""What the rounds of a benchmark say: medians, spread, ratios, the roof that memory sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from river_trt.benchmark.measure import Round


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the rounds, in its own unit."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """Of another runtime the depth and the bytes are unknown: None."""

    name: str
    tokens_per_second: Spread
    ratio: float  # of the median tokens/s to the baseline's
    mean_backbone_layers: float | None
    bytes_per_step: float | None  # weights and cache; with batch 1: per token
    bytes_per_second: float | None  # at the median speed
    first_token_seconds: float  # median
    prefill_rate: float  # prompt tokens a second, median of the rounds
    rounds: tuple[Round, ...]

    @property
    def step_seconds(self) -> float:
        return median(r.seconds / r.steps for r in self.rounds)

    def roof(self, bandwidth: float) -> float | None:
        """Tokens/s if reading the bytes, at so many a second, were all that a step does."""
        if self.bytes_per_step is None:
            return None
        return self.tokens_per_second.median * bandwidth * self.step_seconds / self.bytes_per_step

    def prefill_roof(self, products: float | None) -> float | None:
        """Prompt tokens/s if so many operations a second were all that a prefill does."""
        one = self.rounds[0]
        if products is None or not one.prefill_operations:
            return None
        return one.prompt_tokens * products / one.prefill_operations


def summarise(names: Sequence[str], rounds: Sequence[Sequence[Round]]) -> list[ArmSummary]:
    """Medians over the rounds; the first one is the baseline of the ratios."""
    speeds = [Spread.of([r.tokens / r.seconds for r in of_arm]) for of_arm in rounds]
    summaries = []
    for name, of_arm, speed in zip(names, rounds, speeds, strict=True):
        reads = [r.read_bytes for r in of_arm if r.read_bytes is not None]
        rates = [r.read_bytes / r.seconds for r in of_arm if r.read_bytes is not None]
        depths = [r.mean_backbone_layers for r in of_arm if r.mean_backbone_layers is not None]
        first_tokens = [seconds for r in of_arm for seconds in r.first_token_seconds]
        summaries.append(
            ArmSummary(
                name=name,
                tokens_per_second=speed,
                ratio=speed.median / speeds[0].median,
                mean_backbone_layers=sum(depths) / len(depths) if depths else None,
                bytes_per_step=sum(reads) / sum(r.steps for r in of_arm) if reads else None,
                bytes_per_second=median(rates) if rates else None,
                first_token_seconds=median(first_tokens),
                prefill_rate=median(r.prompt_tokens / sum(r.first_token_seconds) for r in of_arm),
                rounds=tuple(of_arm),
            )
        )
    return summaries


def mixed_loss(arm: ArmSummary, full: ArmSummary, river: ArmSummary) -> float | None:
    """What rows with exits of their own cost: 0.1 is a step 10 % longer than for equal rows.

    Of equal rows each layer reads one bank, so their step lies on the line between all river's and
    full depth's, at the mean depth. None where those two have one depth.
    """
    ends = (river.mean_backbone_layers, full.mean_backbone_layers)
    if arm.mean_backbone_layers is None or ends[0] is None or ends[1] is None or ends[0] == ends[1]:
        return None
    share = (arm.mean_backbone_layers - ends[0]) / (ends[1] - ends[0])
    equal = river.step_seconds + share * (full.step_seconds - river.step_seconds)
    return arm.step_seconds / equal - 1
