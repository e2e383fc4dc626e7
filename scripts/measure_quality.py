"""What the river costs in quality: each quantiser, each tau, and 8-bit activations, on real text.

Teacher forced, so every position of a text is scored in one pass, exactly as decoding token by
token would. KL and agreement are against the backbone's own next-token distribution.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builders.recipes import load_recipe
from scripts.research.quality import measure, print_rows

SYMMETRY = {"both": (False, True), "no": (False,), "yes": (True,)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text to score")
    parser.add_argument("--texts", type=int, default=6, help="pieces, spread over the text")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a piece")
    parser.add_argument("--skip", type=int, default=32, help="first positions, not scored")
    parser.add_argument("--quantisers", default="rtn,hqq,awq")
    parser.add_argument("--group-sizes", default="64")
    parser.add_argument("--symmetric", choices=SYMMETRY, default="both")
    parser.add_argument("--taus", default="0.95,0.97,0.98")
    parser.add_argument("--work", type=Path, help="keeps the engines for the next time")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)

    recipes = [
        load_recipe("cpu", {"quantiser": name, "group_size": int(size), "symmetric": symmetric})
        for name in args.quantisers.split(",")
        for size in args.group_sizes.split(",")
        for symmetric in SYMMETRY[args.symmetric]
    ]
    taus = [float(tau) for tau in args.taus.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        rows = measure(
            args.model, args.text, recipes, taus, args.texts, args.tokens, args.skip, work
        )
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        print_rows(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
