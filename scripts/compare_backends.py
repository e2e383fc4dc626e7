"""The aotinductor engine of a model beside its onnxruntime engine: the same tokens, and the speed.

With float32 river activations greedy tokens and exit layers must be equal: the exit code says so.
With int8 a last bit can round to another code, and only the speed counts. Engines take turns in one
process; the first round warms up, and medians are compared.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from scripts.research.backends import load_engines, same_tokens, speeds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--work", type=Path, required=True, help="folder for the two engines")
    parser.add_argument("--river-activation", default="float32", choices=("float32", "int8"))
    parser.add_argument("--num-tokens", type=int, default=96)
    parser.add_argument("--same-tokens", type=int, default=24, help="compared by each policy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--modes", default="", help="also: torch.compile, eager torch")
    args = parser.parse_args(argv)
    engines = load_engines(args.work, args.model, args.river_activation, args.threads, args.modes)
    same = same_tokens(engines, args.same_tokens)
    print("same tokens and exit layers" if same else "tokens differ", flush=True)
    print(json.dumps(speeds(engines, args.num_tokens, args.rounds), indent=1))
    return int(not same and args.river_activation == "float32")


if __name__ == "__main__":
    raise SystemExit(main())
