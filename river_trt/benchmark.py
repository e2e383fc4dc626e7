"""Measure exit policies of one engine beside each other: alternating rounds, decode steps only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from river_trt.config import GenerationConfig, resolve_policy
from river_trt.engine import Engine, Prompt
from river_trt.errors import RiverError
from river_trt.manifest import ByteCounts
from river_trt.results import GenerationResult

WARM_UP_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Arm:
    """An exit policy to measure; tau and pinned as in GenerationConfig."""

    name: str
    tau: float | Sequence[float] | None = None
    pinned: Sequence[int] | None = None


FULL_DEPTH = Arm("full depth", tau=float("inf"))
ENGINE_POLICY = Arm("engine's")
ALL_RIVER = Arm("all river", tau=float("-inf"), pinned=())


@dataclass(frozen=True, slots=True)
class Plan:
    """What each round runs: all prompts, in groups of `batch`, greedily to new_tokens."""

    new_tokens: int = 128
    rounds: int = 5
    batch: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("new_tokens", self.new_tokens, 2),  # the first one belongs to the prefill
            ("rounds", self.rounds, 1),
            ("batch", self.batch, 1),
        ):
            if value < least:
                raise RiverError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Round:
    """One arm's sums over all prompts of one round."""

    tokens: int  # decoded, of all rows
    steps: int  # a step decodes one token of each row
    seconds: float  # of the decode steps
    first_token_seconds: tuple[float, ...]  # of each prompt
    mean_backbone_layers: float  # a decoded token
    weight_bytes: int  # read by all decode steps, from the manifest's counts


@dataclass(frozen=True, slots=True)
class ArmSummary:
    arm: Arm
    tokens_per_second: Spread
    ratio: float  # of the median tokens/s to the baseline's
    mean_backbone_layers: float
    bytes_per_step: float  # with batch 1: per token
    bytes_per_second: float  # at the median speed
    first_token_seconds: float  # median
    rounds: list[Round]


def measure(
    engine: Engine,
    prompts: Sequence[Prompt],
    arms: Sequence[Arm],
    plan: Plan,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[list[Round]]:
    """Rounds of each arm, in the order of `arms`; the warm-up is not among them.

    Every round runs all arms, every other one in reverse, so that a drift of the machine's speed
    meets all alike. Raises RiverError when a policy does not fit the model or a prompt with its
    new tokens the cache.
    """
    configs = [_config(arm, plan.new_tokens) for arm in arms]
    for config in configs:  # all are checked before the first one runs
        resolve_policy(config, engine.policy, engine.num_layers)
    groups = _groups(prompts, plan.batch)
    longest = max(len(_ids(engine, prompt)) for prompt in prompts)
    if longest + plan.new_tokens - 1 > engine.max_seq_len:
        raise RiverError(
            f"a prompt of {longest} tokens and {plan.new_tokens} new ones do not fit the cache of "
            f"{engine.max_seq_len} slots; lower new_tokens or raise max_seq_len"
        )

    warm_up = min(WARM_UP_TOKENS, plan.new_tokens)
    report = progress or (lambda stage, done, total: None)
    report("warm-up", 0, len(arms))
    for number, config in enumerate(configs, 1):
        engine.generate(groups[0], replace(config, max_new_tokens=warm_up))
        report("warm-up", number, len(arms))
    rounds: list[list[Round]] = [[] for _ in arms]
    total = plan.rounds * len(arms)
    report("measuring", 0, total)
    for number in range(plan.rounds):
        order = range(len(arms)) if number % 2 == 0 else reversed(range(len(arms)))
        for done, index in enumerate(order, number * len(arms) + 1):
            rounds[index].append(_run_round(engine, groups, configs[index]))
            report("measuring", done, total)
    return rounds


def summarise(arms: Sequence[Arm], rounds: Sequence[Sequence[Round]]) -> list[ArmSummary]:
    """Medians over the rounds; the first arm is the baseline of the ratios."""
    speeds = [Spread.of([r.tokens / r.seconds for r in of_arm]) for of_arm in rounds]
    summaries = []
    for arm, of_arm, speed in zip(arms, rounds, speeds, strict=True):
        bytes_per_step = sum(r.weight_bytes for r in of_arm) / sum(r.steps for r in of_arm)
        first_tokens = [seconds for r in of_arm for seconds in r.first_token_seconds]
        summaries.append(
            ArmSummary(
                arm=arm,
                tokens_per_second=speed,
                ratio=speed.median / speeds[0].median,
                mean_backbone_layers=sum(r.mean_backbone_layers for r in of_arm) / len(of_arm),
                bytes_per_step=bytes_per_step,
                bytes_per_second=median(r.weight_bytes / r.seconds for r in of_arm),
                first_token_seconds=median(first_tokens),
                rounds=list(of_arm),
            )
        )
    return summaries


def weight_bytes(
    exit_layers: np.ndarray,  # [rows, steps] int, 1..L
    pinned: np.ndarray,  # [L] bool
    counts: ByteCounts,
) -> int:
    """Weight bytes that the decode steps read.

    A bank is read once a step if any row needs it: a layer with rows on both sides reads both.
    """
    layers = np.arange(1, len(pinned) + 1)
    use_river = (layers > exit_layers[..., None]) & ~pinned  # [rows, steps, L]
    river_reads = int(use_river.any(axis=0).sum())
    backbone_reads = int((~use_river).any(axis=0).sum())
    rows, steps = exit_layers.shape
    layer_bytes = backbone_reads * counts.backbone_layer + river_reads * counts.river_layer
    return int(layer_bytes + steps * (counts.lm_head + rows * counts.embedding))


def _run_round(engine: Engine, groups: list[list[Prompt]], config: GenerationConfig) -> Round:
    results: list[list[GenerationResult]] = [engine.generate(group, config) for group in groups]
    pinned = resolve_policy(config, engine.policy, engine.num_layers).pinned
    # The first token of each row belongs to the prefill. Rows of a group share their steps.
    exits = [np.stack([r.exit_layers[1:] for r in group]) for group in results]
    depths = np.concatenate([r.backbone_layers[1:] for group in results for r in group])
    return Round(
        tokens=depths.size,
        steps=sum(array.shape[1] for array in exits),
        seconds=sum(group[0].decode_seconds for group in results),
        first_token_seconds=tuple(r.prefill_seconds for group in results for r in group),
        mean_backbone_layers=float(depths.mean()),
        weight_bytes=sum(
            weight_bytes(array, pinned, engine.manifest.bytes_per_layer) for array in exits
        ),
    )


def _groups(prompts: Sequence[Prompt], batch: int) -> list[list[Prompt]]:
    """All prompts in groups of `batch`; the last group is filled up from the first prompts."""
    count = -(-len(prompts) // batch)
    filled = [prompts[index % len(prompts)] for index in range(count * batch)]
    return [filled[start : start + batch] for start in range(0, len(filled), batch)]


def _config(arm: Arm, new_tokens: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=new_tokens, ignore_eos=True, tau=arm.tau, pinned=arm.pinned
    )


def _ids(engine: Engine, prompt: Prompt) -> Sequence[int] | np.ndarray:
    if not isinstance(prompt, str):
        return prompt
    assert engine.tokenizer is not None  # the caller encodes or gives ids
    return engine.tokenizer.encode(prompt)
