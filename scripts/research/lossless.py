"""Lossless mode and full depth of one engine in turns, prompt by prompt: speed and acceptance."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

import river_trt
from river_trt import GenerationConfig
from river_trt.results import GenerationResult


@dataclass(slots=True)
class Group:
    """Prompts that decode together, and what was measured of them."""

    name: str
    prompts: list[list[int]]
    full: list[float] = field(default_factory=list)  # tokens/s of each round
    lossless: list[float] = field(default_factory=list)
    results: list[GenerationResult] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios: both modes ran next to each other."""
        return median(b / a for a, b in zip(self.full, self.lossless, strict=True))


def speed(results: Sequence[GenerationResult]) -> float:
    """Tokens/s of rows that decoded together; each one's first token belongs to its prefill."""
    tokens = sum(len(result.token_ids) - 1 for result in results)
    return tokens / max(result.decode_seconds for result in results)


def measure(
    engine: river_trt.Engine, groups: Sequence[Group], lossless: GenerationConfig, rounds: int
) -> None:
    for number in range(rounds + 1):
        for group in groups:
            order = [replace(lossless, mode="full", pinned=None), lossless]
            found = {}
            for config in reversed(order) if number % 2 else order:
                found[config.mode] = engine.generate(group.prompts, config)
            texts = {
                mode: [result.token_ids for result in results] for mode, results in found.items()
            }
            if lossless.temperature == 0.0 and texts["full"] != texts["lossless"]:
                print(f"{group.name}: the texts differ; scripts/check_lossless.py says where")
            if number:
                group.full.append(speed(found["full"]))
                group.lossless.append(speed(found["lossless"]))
                group.results += found["lossless"]


def print_speeds(console: Console, groups: Sequence[Group]) -> None:
    table = Table("prompt", "full depth", "lossless", "ratio", "tokens a round", "accepted")
    for group in groups:
        table.add_row(
            group.name,
            f"{median(group.full):.1f}",
            f"{median(group.lossless):.1f}",
            f"{group.ratio:.2f}x",
            *acceptance(group.results)[:2],
        )
    console.print(table)
    ratios = [group.ratio for group in groups]
    console.print(f"ratio: median {median(ratios):.2f}x, least {min(ratios):.2f}x")


def acceptance(results: Sequence[GenerationResult]) -> tuple[str, str, str]:
    """Tokens a round, share of the drafted tokens accepted, mean draft."""
    found = [result.speculation for result in results if result.speculation is not None]
    drafted = np.concatenate([one.drafted for one in found])
    accepted = np.concatenate([one.accepted for one in found])
    share = accepted.sum() / max(1, drafted.sum())
    return f"{1 + accepted.mean():.2f}", f"{share:.1%}", f"{drafted.mean():.2f}"
