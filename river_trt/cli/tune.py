"""`river-trt tune`: the fastest variant of the GPU's kernels for an engine's shapes."""

import argparse
from pathlib import Path

from river_trt.cli.command import Command
from river_trt.cli.console import show_progress, stdout_console
from river_trt.cli.tables import plain_table, print_table
from river_trt.engine_files import read_manifest
from river_trt.errors import RiverError

EXAMPLES = """\
  river-trt tune --engine engine/                 for one row
  river-trt tune --engine engine/ --rows 1 4 8    and for batches

Measures on this machine's GPU, some seconds; the choices are kept in the user's cache by card and
version of the kernels, and every later load of an engine with these shapes uses them. A load does
the same for what is missing, up to its batch (RIVER_TRT_TUNE=0: no). For engines of the backend
torch.
"""
MOST_ROWS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", type=Path, required=True, metavar="DIR", help="the engine")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help=f"rows of a step, 1 to {MOST_ROWS} (default: 1)",
    )
    parser.add_argument(
        "--max-seq-len",
        type=int,
        metavar="N",
        help="cache slots of a row, which attention's choice depends on (default: as a load's)",
    )
    parser.add_argument(
        "--gpu", type=int, default=0, metavar="N", help="number of the GPU (default: %(default)s)"
    )


def execute(args: argparse.Namespace) -> int:
    for rows in args.rows:
        if not 1 <= rows <= MOST_ROWS:
            raise RiverError(f"--rows must be 1 to {MOST_ROWS}, got {rows}")
    manifest = read_manifest(args.engine)
    if manifest.backend.name != "torch":
        raise RiverError(
            f"{args.engine} is for {manifest.backend.name}; "
            "only engines of the backend torch are tuned"
        )
    shape = manifest.model.shape
    capacity = shape.default_cache_length if args.max_seq_len is None else args.max_seq_len
    if not 1 <= capacity <= shape.max_seq_len:
        raise RiverError(f"--max-seq-len must be 1 to {shape.max_seq_len}, got {capacity}")
    from river_trt.backends.torch.gpu import current, numbered_gpu
    from river_trt.backends.torch.operators import load_operators
    from river_trt.backends.torch.tuner import attention_cases, linear_cases
    from river_trt.backends.torch.tuning import tune, tune_attention

    text = (args.engine / manifest.engine_file).read_text(encoding="utf-8")
    cases = [case for rows in args.rows for case in linear_cases(text, rows)]
    attention = [
        case for rows in args.rows for case in attention_cases(text, rows, shape.head_dim, capacity)
    ]
    with current(numbered_gpu(args.gpu, "tuning needs an NVIDIA GPU")):
        load_operators("cuda")
        with show_progress() as progress:
            chosen = tune(cases, progress)
            attending = tune_attention(attention, progress)
    table = plain_table("fastest variants")
    for column in ("shape", "variant"):
        table.add_column(column)
    for case, variant in chosen.items():
        table.add_row(case.key, variant)
    for heads, variant in attending.items():
        table.add_row(heads.key, variant)
    print_table(stdout_console(), table)
    return 0


COMMAND = Command(
    "tune", "Measure the GPU kernels' variants for an engine.", EXAMPLES, add_arguments, execute
)
