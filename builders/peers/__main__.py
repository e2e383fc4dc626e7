"""Serves one peer on stdin and stdout; river_trt/benchmark/peers.py has the other end."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from builders.peers.base import Runtime
from river_trt.benchmark.peers import EXTRAS, NOT_INSTALLED
from river_trt.cores import usable_cores
from river_trt.errors import MissingDependencyError, RiverError


def open_runtime(name: str, model: str, work: Path, threads: int) -> Runtime:
    """Build and load it; ModuleNotFoundError where its library is missing."""
    runtime, _, kind = name.partition("-")
    if runtime == "transformers":
        from builders.peers.transformers import Transformers

        return Transformers(model, work, threads)
    if runtime == "genai":
        from builders.peers.genai import Genai

        return Genai(model, work, threads, kind)
    from builders.peers.llama_cpp import LlamaCpp

    return LlamaCpp(model, work, threads, kind)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=EXTRAS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=usable_cores())
    args = parser.parse_args()
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        runtime = open_runtime(args.name, args.model, args.work, args.threads)
    except (ModuleNotFoundError, MissingDependencyError) as error:
        print(error, file=sys.stderr)
        return NOT_INSTALLED
    except RiverError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"ready": runtime.details}), file=answers, flush=True)
    for line in sys.stdin:
        run = runtime.decode(**json.loads(line))
        print(json.dumps(asdict(run)), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
