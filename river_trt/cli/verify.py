"""`river-trt verify`: do all backends compute the same?"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from river_trt.cli.builders_import import needs_extra
from river_trt.cli.command import Command
from river_trt.cli.console import print_json, show_progress, stdout_console
from river_trt.cli.tables import plain_table, print_table

if TYPE_CHECKING:
    from builders.verify.command import VerifyResult

EXAMPLES = """\
  river-trt verify --model demo                       torch, ONNX Runtime, TensorRT's graph
  river-trt verify --model demo --layers              the hidden state after every layer too
  river-trt verify --model demo --engine engine/      an engine of any backend, on its GPU

Every backend gets the same tokens at full depth and with forced exits. The code is 1 where one
differs. Verifying needs the extra `verify` of river-trt.
"""
DIFFERS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="the model, as `build --model` takes it")
    parser.add_argument(
        "--engine",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="an engine of this model to compare too; may be given several times",
    )
    parser.add_argument(
        "--quantiser",
        default="rtn",
        metavar="NAME",
        help="of the river where no engine says it (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens", type=int, default=24, metavar="N", help="of the text (default: %(default)s)"
    )
    parser.add_argument("--layers", action="store_true", help="compare layer by layer")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def execute(args: argparse.Namespace) -> int:
    with needs_extra("verifying", "verify"), show_progress() as progress:
        from builders.verify.command import VerifyOptions, verify

        options = VerifyOptions(
            args.model, tuple(args.engine), args.quantiser, args.tokens, args.layers
        )
        result = verify(options, progress)
    if args.json:
        comparisons = [asdict(comparison) for comparison in result.comparisons]
        print_json({"passed": result.passed, "comparisons": comparisons, "not_run": result.not_run})
    else:
        _print(result)
    return 0 if result.passed else DIFFERS


def _print(result: "VerifyResult") -> None:
    table = plain_table("against the torch reference in float32")
    for column in ("backend", "output"):
        table.add_column(column)
    for column in ("largest difference", "allowed", ""):
        table.add_column(column, justify="right")
    for comparison in result.comparisons:
        table.add_row(
            comparison.backend,
            comparison.output,
            f"{comparison.worst:.2g}",
            f"{comparison.tolerance:g}",
            "equal" if comparison.passed else "DIFFERS",
        )
    console = stdout_console()
    print_table(console, table)
    for backend, reason in sorted(result.not_run.items()):
        console.print(f"not run: {backend}: {reason}", soft_wrap=True)


COMMAND = Command(
    "verify", "Compare the backends with the torch reference.", EXAMPLES, add_arguments, execute
)
