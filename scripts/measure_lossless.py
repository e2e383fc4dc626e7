"""Lossless mode against full depth of one engine: speed, and acceptance by draft length.

Both modes take turns prompt by prompt, so that a change in the machine's speed meets both alike;
decode time only, the first round warms up.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from lossless_prompts import PROMPTS
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1, help="prompts decoded together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pinned", help="layers pinned while drafting, 2,30 or none")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--limits", default="", help="limits of the draft to compare, 1,2,4,8")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(argv)
    engine = river_trt.load(
        args.engine, max_batch_size=args.batch, max_seq_len=1024, threads=args.threads
    )
    texts = PROMPTS[: args.prompts]
    prompts = [engine.chat_prompt([{"role": "user", "content": text}]) for text in texts]
    starts = range(0, len(prompts), args.batch)

    def groups() -> list[Group]:
        return [Group(texts[i][:32], prompts[i : i + args.batch]) for i in starts]

    pinned = None
    if args.pinned is not None:
        pinned = () if args.pinned == "none" else tuple(map(int, args.pinned.split(",")))
    config = GenerationConfig(
        max_new_tokens=args.tokens,
        ignore_eos=True,
        mode="lossless",
        pinned=pinned,
        temperature=args.temperature,
        repetition_penalty=1.0,
        seed=1,
    )
    console = Console()
    found = groups()
    measure(engine, found, config, args.rounds)
    print_speeds(console, found)
    if args.limits:
        table = Table("draft limit", "mean draft", "accepted", "tokens a round", "ratio")
        for limit in map(int, args.limits.split(",")):
            found = groups()
            measure(engine, found, replace(config, max_draft_tokens=limit), 1)
            a_round, share, mean = acceptance([r for group in found for r in group.results])
            ratio = median(group.ratio for group in found)
            table.add_row(str(limit), mean, share, a_round, f"{ratio:.2f}x")
        console.print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
