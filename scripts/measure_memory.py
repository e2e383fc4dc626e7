"""Memory of building an engine and of running it, each in a process of its own (Linux)."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Each stage prints the process's peak, and what of its present memory is its own (anonymous) and
# what is mapped files, which the system can take back at any time.
REPORT = """
def report(stage):
    lines = [line.split() for line in open("/proc/self/status")]
    mib = {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}
    print(json.dumps([stage, mib["VmHWM"], mib["RssAnon"], mib["RssFile"]]))
"""
BUILD = """
import json, sys
from pathlib import Path
from builders.build import BuildOptions, build
report("build: libraries imported")
build(BuildOptions(sys.argv[1], Path(sys.argv[2]), force=True))
report("build: done")
"""
RUN = """
import json, sys, river_trt
report("run: river_trt imported")
engine = river_trt.load(sys.argv[2], max_batch_size=1, max_seq_len=1024)
report("run: engine loaded (1 row of 1024)")
config = river_trt.GenerationConfig(
    max_new_tokens=64, ignore_eos=True, temperature=0, repetition_penalty=1
)
engine.generate([[1, 2, 3]], config)
report("run: 64 tokens generated")
"""


def measure(code: str, arguments: Sequence[str]) -> list[list[str | float]]:
    done = subprocess.run(
        [sys.executable, "-c", REPORT + code, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


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
