"""Lead of a drafted token over the runner-up, and how often such a token is accepted."""

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import river_trt
from scripts.research.draft_lead import EDGES, by_lead, draft_leads
from scripts.research.prompts import PROMPTS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=8, help="of the forty")
    parser.add_argument("--tokens", type=int, default=100, help="of each prompt's text")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(argv)
    engine = river_trt.load(args.engine, max_batch_size=1, max_seq_len=1024, threads=args.threads)
    found = [
        draft_leads(engine, engine.chat_prompt([{"role": "user", "content": text}]), args.tokens)
        for text in PROMPTS[: args.prompts]
    ]
    leads, accepted = (np.concatenate(parts) for parts in zip(*found, strict=True))
    table = Table("lead, logits", "tokens", "accepted")
    rows = zip(itertools.pairwise(EDGES), by_lead(leads, accepted), strict=True)
    for (low, high), (share, right) in rows:
        accepted_share = f"{right:.0%}" if share else ""
        table.add_row(f"{low:g} to {high:g}", f"{share:.0%}", accepted_share)
    table.add_row("all", str(len(leads)), f"{accepted.mean():.1%}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
