"""Memory of building an engine and of running it, each in a process of its own (Linux)."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.research.memory import BUILD, RUN, measure


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--work", type=Path, required=True, help="keeps the engine")
    args = parser.parse_args(argv)
    arguments = [args.model, str(args.work / "memory-engine")]
    table = Table("stage", "peak MiB", "own MiB", "mapped files MiB")
    for stage, *sizes in measure(BUILD, arguments) + measure(RUN, arguments):
        table.add_row(str(stage), *(f"{float(size):.0f}" for size in sizes))
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
