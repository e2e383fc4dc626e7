"""CPU time of a layer's products with each bank and instruction set of this processor.

One thread and the least of some rounds that take turns; a ratio is to float32 of the same set.
"""

import argparse
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from river_trt.compiled_library import FLAGS, X86_FILE_FLAGS

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "plugins" / "cpu"
PROGRAM = ROOT / "tests" / "plugins" / "cpu" / "measure_products.cc"
ROUNDS = 6000  # rows of all rounds together


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1,6,96", help="numbers of rows, by commas")
    parser.add_argument("--group-size", type=int, choices=(32, 64, 128), default=64)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--intermediate", type=int, default=1536)
    parser.add_argument("--qkv", type=int, default=960, help="columns of q, k and v together")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        program = compile_program(Path(directory))
        for rows in map(int, args.rows.split(",")):
            print(f"{rows} rows", flush=True)
            sizes = (args.group_size, args.hidden, args.intermediate, args.qkv)
            rounds = min(60, max(3, ROUNDS // rows))
            subprocess.run([program, *map(str, (rows, *sizes, rounds))], check=True)
    return 0


def compile_program(directory: Path) -> Path:
    """As the library is compiled."""
    compiler = os.environ.get("CXX", "c++")
    objects = []
    for source in [PROGRAM, *SOURCES.glob("kernels*.cc"), SOURCES / "one_linear.cc"]:
        objects.append(directory / f"{source.stem}.o")
        own = X86_FILE_FLAGS.get(source.name, ()) if platform.machine() == "x86_64" else ()
        command = [compiler, *FLAGS, "-std=c++17", f"-I{SOURCES}", *own, "-c", source]
        subprocess.run([*command, "-o", objects[-1]], check=True)
    program = directory / "program"
    subprocess.run([compiler, "-pthread", *objects, "-o", program], check=True)
    return program


if __name__ == "__main__":
    raise SystemExit(main())
