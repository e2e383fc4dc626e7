"""Lossless mode against full depth of one engine: speed, and acceptance by draft length.

Both modes take turns prompt by prompt, so that a change in the machine's speed meets both alike;
decode time only, the first round warms up.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

import river_trt
from river_trt import GenerationConfig
from scripts.research.lossless import Group, acceptance, measure, print_speeds
from scripts.research.prompts import PROMPTS, QUOTING


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--quoting", action="store_true", help="prompts whose answers quote them")
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
    texts = (QUOTING if args.quoting else PROMPTS)[: args.prompts]
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
