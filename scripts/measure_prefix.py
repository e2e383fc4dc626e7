"""A conversation's time to first token, with its cache kept between the turns and without.

python scripts/measure_prefix.py --engine engine/

The same conversation runs with and without, in turns; its texts must be the same.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import river_trt
from river_trt import GenerationConfig
from scripts.research.conversation import Turn, converse

WAYS = {"without": (0, False), "with": (8, False), "with, river's too": (8, True)}


async def measure(args: argparse.Namespace) -> int:
    wrong = 0
    for mode in args.modes:
        config = GenerationConfig(
            max_new_tokens=args.tokens, mode=mode, temperature=0, ignore_eos=True
        )
        found: dict[str, list[list[Turn]]] = {}
        for _ in range(args.rounds):  # nine turns have warmed up for the last one
            for name, (kept_rows, reuses_river) in WAYS.items():
                if reuses_river and mode != "river":
                    continue
                engine = river_trt.load(
                    args.engine,
                    max_batch_size=2,
                    max_seq_len=2048,
                    threads=args.threads,
                    prefill_chunk=64,
                    batch_invariant=True,
                    kept_rows=kept_rows,
                    verify=False,
                )
                async with engine.serve(reuses_river=reuses_river) as server:
                    turns = await converse(server, args.turns, config)
                found.setdefault(name, []).append(turns)
        first = {name: median(t[-1].first_token for t in runs) for name, runs in found.items()}
        for name, runs in found.items():
            last = runs[0][-1].result
            texts = [turn.result.token_ids for turn in runs[0]]
            same = texts == [turn.result.token_ids for turn in found["without"][0]]
            wrong += not same and name != "with, river's too"
            print(
                f"{mode}, {name}: turn {args.turns} of {last.prompt_tokens} tokens, "
                f"{last.reused_tokens} reused, first token after {1e3 * first[name]:.0f} ms "
                f"(x {first['without'] / first[name]:.1f}), texts {'equal' if same else 'differ'}",
                flush=True,
            )
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--modes", nargs="+", default=["river", "lossless", "full"])
    return asyncio.run(measure(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
