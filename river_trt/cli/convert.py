"""`river-trt convert`: a model in another framework's checkpoint format, both banks in it."""

import argparse
import time
from pathlib import Path
from typing import Any

from river_trt.cli.arguments import add_quantiser_arguments, parse_pinned
from river_trt.cli.build_options import add_backend_arguments, given_options
from river_trt.cli.builders_import import needs_extra
from river_trt.cli.command import Command
from river_trt.cli.console import format_bytes, print_json, show_progress, stdout_console
from river_trt.cli.inspect import describe
from river_trt.cli.tables import facts_table
from river_trt.manifest import Manifest
from river_trt.progress import Progress

EXAMPLES = """\
  river-trt convert --format vllm --model demo --out checkpoint/ && vllm serve checkpoint/
  river-trt convert --format tensorrt-llm --model demo --out checkpoint/
  river-trt convert --format tensorrt-llm --model ./llama --out checkpoint/ --tp 2
  river-trt convert --format tensorrt-llm --model ./llama --out checkpoint/ --policy policy.json

vLLM serves its checkpoint as it is, over any number of GPUs. An engine for TensorRT-LLM is built
where that and a GPU are, by `river-trt build --backend tensorrt-llm --model checkpoint/` or
trtllm-build. Converting needs the extra `build`.
"""
# --format: the builders' name
FORMATS = {"tensorrt-llm": "tensorrt-llm-checkpoint", "vllm": "river-checkpoint"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help="of the checkpoint")
    parser.add_argument("--model", required=True, help="as for `river-trt build`")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="checkpoint directory to write"
    )
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is there")
    parser.add_argument(
        "--max-seq-len", type=int, metavar="N", help="longest context of the engine"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")

    policy = parser.add_argument_group("exit policy, a constant of the engine (vLLM: its default)")
    policy.add_argument("--tau", type=float, metavar="X", help="exit threshold of all layers")
    policy.add_argument(
        "--pinned",
        type=parse_pinned,
        metavar="1,30",
        help="layers that always run the backbone; `none` for no layer (default: the last one)",
    )
    policy.add_argument(
        "--policy", type=Path, metavar="FILE", help="one that `calibrate --save` wrote, instead"
    )

    bank = parser.add_argument_group("river bank")
    add_quantiser_arguments(bank)
    add_backend_arguments(parser, "convert", FORMATS.values())


def execute(args: argparse.Namespace) -> int:
    given = given_options(args)
    started = time.perf_counter()
    with show_progress() as progress:
        manifest = _convert(given | {"backend": FORMATS[args.format]}, progress)
    seconds = time.perf_counter() - started
    if args.json:
        print_json(describe(args.out, manifest) | {"seconds": seconds})
        return 0
    size = sum(info.size for info in manifest.files.values())
    ranks = sum(name.startswith("rank") for name in manifest.files)
    spread = [("ranks", str(ranks))] if ranks else []
    river, precision = manifest.river, manifest.precision
    stdout_console().print(
        facts_table(
            [
                ("checkpoint", f"{args.out}, {format_bytes(size)}, in {seconds:.0f} s"),
                ("model", f"{manifest.model.name}, {manifest.model.shape.num_layers} layers"),
                *spread,
                (
                    "banks",
                    f"backbone {precision.backbone}, river {river.bits} bits ({river.quantiser}, "
                    f"groups of {river.group_size})",
                ),
            ]
        )
    )
    return 0


def _convert(options: dict[str, Any], progress: Progress) -> Manifest:
    with needs_extra("converting", "build"):
        from builders.build import BuildOptions, build

        return build(BuildOptions(**options, calibrate=False), progress)


COMMAND = Command(
    "convert",
    "Write a model with both banks as another framework's checkpoint.",
    EXAMPLES,
    add_arguments,
    execute,
)
