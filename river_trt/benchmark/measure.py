"""Alternating rounds of everything that is compared; decode steps only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from river_trt.benchmark.arms import Arm
from river_trt.benchmark.reads import cache_bytes, prefill_operations, weight_bytes
from river_trt.config import GenerationConfig, resolve_policy
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.progress import Progress
from river_trt.prompts import Prompt
from river_trt.results import GenerationResult
from river_trt.text import Chat

WARM_UP_TOKENS = 4
Groups = Sequence[list[Prompt]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What each round runs: all prompts, in groups of `batch`, greedily to new_tokens.

    Raises RiverError for a number that is too small.
    """

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
class Round:
    """One contestant's sums over all prompts of one round."""

    tokens: int  # decoded, of all rows
    steps: int  # a step decodes one token of each row
    seconds: float  # of the decode steps
    first_token_seconds: tuple[float, ...]  # of each prompt
    mean_backbone_layers: float | None = None  # a decoded token; None: another runtime
    read_bytes: int | None = None  # weights and cache, by all decode steps
    prompt_tokens: int = 0  # of all prompts
    prefill_operations: float | None = None  # on floats; None: not known


class Contestant(Protocol):
    """Something that decodes."""

    @property
    def name(self) -> str: ...

    def run(self, groups: Groups, new_tokens: int) -> Round:
        """Greedy tokens after each prompt, end-of-sequence tokens ignored."""
        ...


@dataclass(frozen=True, slots=True)
class EngineArm:
    """An engine in one mode; `label` names the engine where several are compared."""

    engine: Engine
    arm: Arm
    label: str = ""
    name: str = field(init=False)

    def __post_init__(self) -> None:
        name = f"{self.label}: {self.arm.name}" if self.label else self.arm.name
        object.__setattr__(self, "name", name)

    def check_mode(self) -> None:
        """RiverError when the mode does not fit the model."""
        config = self._config(1)
        resolve_policy(config, self.engine.policy_of(config), self.engine.num_layers)

    def check_prompts(self, prompts: Sequence[Prompt], plan: Plan) -> None:
        """RiverError when a prompt with its new tokens does not fit the cache."""
        engine = self.engine
        longest = max(len(_ids(engine, prompt)) for prompt in prompts)
        if longest + plan.new_tokens - 1 > engine.max_seq_len:
            raise RiverError(
                f"a prompt of {longest} tokens and {plan.new_tokens} new ones do not fit the cache "
                f"of {engine.max_seq_len} slots; lower new_tokens or raise max_seq_len"
            )

    def run(self, groups: Groups, new_tokens: int) -> Round:
        engine, config = self.engine, self._config(new_tokens)
        results: list[list[GenerationResult]] = [engine.generate(group, config) for group in groups]
        pinned = resolve_policy(config, engine.policy_of(config), engine.num_layers).pinned
        # The first token of each row belongs to the prefill. Rows of a group share their steps.
        exits = [np.stack([r.exit_layers[1:] for r in group]) for group in results]
        depths = np.concatenate([r.backbone_layers[1:] for group in results for r in group])
        lengths = [len(_ids(engine, prompt)) for group in groups for prompt in group]
        operations = [prefill_operations(engine.manifest, length) for length in lengths]
        counts = engine.manifest.bytes_per_layer
        reads = sum(weight_bytes(array, pinned, counts) for array in exits)
        reads += sum(cache_bytes(engine.manifest, length, new_tokens - 1) for length in lengths)
        return Round(
            tokens=depths.size,
            steps=sum(array.shape[1] for array in exits),
            seconds=sum(max(r.decode_seconds for r in group) for group in results),
            first_token_seconds=tuple(r.prefill_seconds for group in results for r in group),
            # A lossless step drafts or verifies: neither depth nor reads are a token's.
            mean_backbone_layers=None if config.mode == "lossless" else float(depths.mean()),
            read_bytes=None if config.mode == "lossless" else reads,
            prompt_tokens=sum(lengths),
            prefill_operations=None if None in operations else sum(filter(None, operations)),
        )

    def _config(self, new_tokens: int) -> GenerationConfig:
        arm = self.arm
        return GenerationConfig(
            max_new_tokens=new_tokens,
            ignore_eos=True,
            temperature=0.0,
            repetition_penalty=1.0,
            policy=arm.policy,
            tau=arm.tau,
            pinned=arm.pinned,
            gate_scope=arm.gate_scope,
            mode=arm.mode,
        )


def alternate(
    contestants: Sequence[Contestant],
    prompts: Sequence[Prompt],
    plan: Plan,
    progress: Progress | None = None,
) -> list[list[Round]]:
    """Rounds of each contestant, in their order; the warm-up is not among them.

    Every round runs all, every other one in reverse, so that a drift of the machine's speed meets
    all alike.
    """
    groups = grouped(prompts, plan.batch)
    warm_up = min(WARM_UP_TOKENS, plan.new_tokens)
    report = progress or (lambda stage, done, total: None)
    report("warm-up", 0, len(contestants))
    for number, contestant in enumerate(contestants, 1):
        contestant.run(groups[:1], warm_up)
        report("warm-up", number, len(contestants))
    rounds: list[list[Round]] = [[] for _ in contestants]
    total = plan.rounds * len(contestants)
    report("measuring", 0, total)
    for number in range(plan.rounds):
        order = list(range(len(contestants)))
        for done, index in enumerate(
            order if number % 2 == 0 else reversed(order), number * len(order) + 1
        ):
            rounds[index].append(contestants[index].run(groups, plan.new_tokens))
            report("measuring", done, total)
    return rounds


def measure(
    engine: Engine,
    prompts: Sequence[Prompt],
    arms: Sequence[Arm],
    plan: Plan,
    progress: Progress | None = None,
) -> list[list[Round]]:
    """Modes of one engine. Raises RiverError when a policy or a prompt does not fit the engine."""
    contestants = [EngineArm(engine, arm) for arm in arms]
    for contestant in contestants:  # all are checked before the first one runs
        contestant.check_mode()
    contestants[0].check_prompts(prompts, plan)
    return alternate(contestants, prompts, plan, progress)


def grouped(prompts: Sequence[Prompt], batch: int) -> list[list[Prompt]]:
    """All prompts in groups of `batch`; the last group is filled up from the first prompts."""
    count = -(-len(prompts) // batch)
    filled = [prompts[index % len(prompts)] for index in range(count * batch)]
    return [filled[start : start + batch] for start in range(0, len(filled), batch)]


def _ids(engine: Engine, prompt: Prompt) -> Sequence[int] | np.ndarray:
    if isinstance(prompt, Chat):
        return engine.chat_prompt(prompt.messages, prompt.options)
    if not isinstance(prompt, str):
        return prompt
    assert engine.tokenizer is not None  # the caller encodes or gives ids
    return engine.tokenizer.encode(prompt)
