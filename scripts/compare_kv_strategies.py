"""What becomes of a token's missing K and V: share, recompute, propagate, mask, monotone exit.

The same similarity gate and tau for each, on the torch reference, teacher forced. Then each at the
same mean backbone layers as `share`, with a tau of its own. scripts/research/kv_strategies.py
defines them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from builders.evaluation.text import TextOptions
from scripts.research.kv_strategies import READOUTS
from scripts.research.kv_table import compare, report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text, or .jsonl")
    parser.add_argument("--tau", type=float, default=0.97)
    parser.add_argument("--pieces", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a piece")
    parser.add_argument("--skip", type=int, default=32, help="first positions, not scored")
    parser.add_argument(
        "--readout", choices=READOUTS, action="append", help="may be given twice (default: both)"
    )
    parser.add_argument("--match", type=float, help="mean backbone layers of the second table")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)

    options = TextOptions(args.text, args.pieces, args.tokens, args.skip)
    tables = compare(args.model, options, args.tau, args.readout or READOUTS, args.match)
    for title, rows in tables.items():
        report(title, rows, args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
