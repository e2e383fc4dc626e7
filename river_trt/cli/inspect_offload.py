"""`river-trt inspect --offload`: what a token costs with backbone layers in host memory."""

import argparse
from pathlib import Path
from typing import Any

from river_trt.cli.console import format_bytes, format_layers, stdout_console
from river_trt.cli.tables import plain_table, print_table
from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.manifest import Manifest
from river_trt.offload import CARDS, TokenCost, mean_cost, parse_bytes, plan_offload
from river_trt.plain_file import read_text

MOST_BYTES = 256 << 20


def add_offload_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("backbone layers in host memory, by arithmetic")
    group.add_argument("--offload", metavar="16GB", help="GPU memory for weights and cache")
    group.add_argument(
        "--card",
        choices=CARDS,
        default="h100",
        help="whose bandwidths, as its vendor states them (default: %(default)s)",
    )
    group.add_argument(
        "--exits",
        type=Path,
        metavar="FILE",
        help="what `evaluate --json` printed: where its tokens exited",
    )
    group.add_argument("--rows", type=int, default=1, metavar="N", help="full rows of the cache")


def print_offload(args: argparse.Namespace, manifest: Manifest) -> None:
    """Raises RiverError for a size, a file or a number that does not fit."""
    if args.rows < 1:
        raise RiverError(f"--rows must be at least 1, got {args.rows}")
    plan = plan_offload(manifest, parse_bytes(args.offload), args.rows)
    card, layers = CARDS[args.card], manifest.model.shape.num_layers
    measured = _read_exits(args.exits) if args.exits is not None else {}
    console = stdout_console()
    stay = format_layers(plan.resident) if plan.resident else "none"
    left = format_layers(plan.host) if plan.host else "none"
    console.print(f"whole engine {format_bytes(plan.needed)}, budget {format_bytes(plan.budget)}")
    console.print(f"backbone layers on the GPU: {stay}; in host memory: {left}", soft_wrap=True)
    table = plain_table(f"a token on {card.name.upper()}, one row, by bandwidths alone")
    table.add_column("exit after")
    for title in ("layers", "from host", "read by flag", "streamed whole"):
        table.add_column(title, justify="right")
    for layer in sorted({1, min(4, layers), layers // 4 or 1, layers // 2 or 1, layers}):
        _add_row(table, f"layer {layer}", plan.token(layer, card))
    for name, counts in measured.items():
        _add_row(table, f"{name} (mean)", mean_cost(plan, card, counts))
    print_table(console, table)
    console.print(
        "read by flag: kernels that read host memory only where a token needs it; streamed whole: "
        "TensorRT's weight streaming, which copies every such layer in each step",
        soft_wrap=True,
    )


def _add_row(table: Any, name: str, cost: TokenCost) -> None:
    table.add_row(
        name,
        str(cost.backbone_layers),
        format_bytes(cost.host_bytes),
        f"{1000 * cost.seconds:.2f} ms",
        f"{1000 * cost.streamed_seconds:.2f} ms",
    )


def _read_exits(path: Path) -> dict[str, list[int]]:
    try:
        results = parse_json(read_text(path, MOST_BYTES))
        return {str(result["name"]): [int(n) for n in result["exit_counts"]] for result in results}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RiverError(
            f"{path} is not what `river-trt evaluate --json` prints: {error}"
        ) from error
