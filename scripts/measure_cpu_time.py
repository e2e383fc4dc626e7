"""CPU milliseconds of a decoded token: full depth, the engine's own policy, all river.

One thread and the least of some runs, engines in turns: what a busy machine leaves comparable.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import river_trt
from river_trt import GenerationConfig
from scripts.research.cpu_time import decode_cpu_seconds

PROMPT = list(range(5, 69))
INFINITE = float("inf")
POLICIES = {
    "full depth": {"tau": INFINITE, "pinned": ()},
    "its policy": {},
    "all river": {"tau": -INFINITE, "pinned": ()},
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", type=Path, nargs="+", metavar="ENGINE")
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    engines = {
        path.name: river_trt.load(path, max_batch_size=1, max_seq_len=1024, threads=1)
        for path in args.engines
    }
    least: dict[tuple[str, str], float] = {}
    for _ in range(args.rounds):
        for name, engine in engines.items():
            for policy, values in POLICIES.items():
                config = GenerationConfig(
                    max_new_tokens=args.tokens,
                    ignore_eos=True,
                    temperature=0,
                    repetition_penalty=1,
                    **values,
                )
                seconds = decode_cpu_seconds(engine, PROMPT, config)
                least[name, policy] = min(seconds, least.get((name, policy), INFINITE))
    table = Table("engine", *(f"{policy}, ms" for policy in POLICIES))
    for name in engines:
        table.add_row(name, *(f"{1e3 * least[name, policy]:.2f}" for policy in POLICIES))
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
