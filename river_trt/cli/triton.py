"""`river-trt triton`: export a Triton model repository, and serve it on this machine."""

import argparse
import os
import signal
from pathlib import Path
from types import FrameType
from typing import get_args

from river_trt.cli.arguments import add_engine_argument, engine_path
from river_trt.cli.command import Command
from river_trt.cli.console import stdout_console
from river_trt.cli.tables import plain_table, print_table
from river_trt.errors import RiverError
from river_trt.triton.doctor import examine, problems
from river_trt.triton.fields import LAYOUTS
from river_trt.triton.local_server import LOOPBACK, LocalServer, ServerOptions
from river_trt.triton.repository import EngineFiles, ExportOptions, export
from river_trt.triton.settings import ModelSettings
from river_trt.triton.watch import Watch

EXAMPLES = """\
  river-trt triton export --engine engine/ --out repo/
  river-trt triton export --engine engine/ --out repo/ --layout trtllm --name ensemble
  river-trt triton doctor                            can tritonserver run here?
  river-trt triton serve --repo repo/                on 127.0.0.1:8000 (HTTP) and 8001 (gRPC)
  curl -d '{"text_input": "Water is", "max_tokens": 20}' 127.0.0.1:8000/v2/models/river_llm/generate
"""
ADMIN_KEY = "RIVER_TRT_ADMIN_KEY"  # of the environment: a command line is for everyone to read
WATCH_SECONDS = 1.0  # between two looks at the models' processes
START_SECONDS = 600.0  # a large engine is hashed and read first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    exporter = actions.add_parser("export", help="write a model repository", allow_abbrev=False)
    _add_export_arguments(exporter)
    exporter.set_defaults(execute=_export, parser=exporter)
    server = actions.add_parser("serve", help="run tritonserver here", allow_abbrev=False)
    _add_serve_arguments(server)
    server.set_defaults(execute=_serve, parser=server)
    doctor = actions.add_parser("doctor", help="look whether it can", allow_abbrev=False)
    for action in (server, doctor):
        action.add_argument(
            "--python",
            type=Path,
            metavar="FILE",
            help="Python of the environment that has tritonserver (default: this one)",
        )
    doctor.set_defaults(execute=_doctor, parser=doctor)


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    settings = ModelSettings("engine")
    add_engine_argument(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the repository")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default=settings.layout, help="tensor names of its clients"
    )
    parser.add_argument("--name", default="river_llm", help="of the model (default: %(default)s)")
    parser.add_argument(
        "--engine-files",
        choices=get_args(EngineFiles),
        default="copy",
        help="copy the engine, link to it, or name its path (default: %(default)s)",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        nargs="+",
        default=[0],
        metavar="N",
        help="GPUs to serve from, one instance on each (default: 0)",
    )
    parser.add_argument(
        "--docker",
        action="store_true",
        help="write a Dockerfile for the engine's backend too, with the wheel that it installs",
    )
    parser.add_argument(
        "--wheel",
        type=Path,
        metavar="FILE",
        help="the wheel of river-trt for --docker (default: built from this checkout)",
    )
    for option, kind, value, text in (
        ("--max-batch-size", int, settings.max_batch_size, "requests that decode together"),
        ("--max-queue", int, settings.max_queue, "requests that may wait beyond those"),
        ("--max-seq-len", int, None, "cache slots of a request (default: as for `run`)"),
        ("--prefill-chunk", int, settings.prefill_chunk, "prompt tokens between decode steps"),
        ("--threads", int, None, "CPU threads (default: the backend's choice)"),
    ):
        shown = text if value is None else f"{text} (default: %(default)s)"
        parser.add_argument(option, type=kind, default=value, metavar="N", help=shown)
    parser.add_argument(
        "--no-batch-invariant",
        action="store_true",
        help="faster for one request at a time, but texts may depend on what runs beside them",
    )


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", type=Path, required=True, metavar="DIR", help="model repository")
    parser.add_argument(
        "--host", default=LOOPBACK, help="address to listen on (default: %(default)s)"
    )
    for option, value in (
        ("--http-port", 8000),
        ("--grpc-port", 8001),
        ("--metrics-port", 8002),
    ):
        parser.add_argument(
            option,
            type=int,
            default=value,
            metavar="N",
            help="0: a free one (default: %(default)s)",
        )
    parser.add_argument("--verbose", action="store_true", help="tritonserver's verbose log")


def _export(args: argparse.Namespace) -> int:
    settings = ModelSettings(
        engine=str(engine_path(args)),
        layout=args.layout,
        max_batch_size=args.max_batch_size,
        max_queue=args.max_queue,
        max_seq_len=args.max_seq_len,
        prefill_chunk=args.prefill_chunk,
        threads=args.threads,
        batch_invariant=not args.no_batch_invariant,
        verify=not args.no_verify,
    )
    options = ExportOptions(
        settings,
        args.out,
        args.name,
        args.engine_files,
        tuple(args.gpus),
        docker=args.docker or args.wheel is not None,
        wheel=args.wheel,
    )
    model = export(options)
    stdout_console().print(f"wrote {model}, layout {args.layout}", soft_wrap=True, highlight=False)
    return 0


def _serve(args: argparse.Namespace) -> int:
    options = ServerOptions(
        args.repo,
        args.host,
        args.http_port,
        args.grpc_port,
        args.metrics_port,
        verbose=args.verbose,
        python=args.python,
        admin_key=os.environ.get(ADMIN_KEY),
    )
    with LocalServer(options) as server:
        # Whoever started us may end us with SIGTERM: the server must not outlive us.
        signal.signal(signal.SIGTERM, _interrupt)
        server.wait_until_ready(START_SECONDS)
        console = stdout_console()
        console.print(
            f"serving {args.repo} at {server.url} (gRPC {server.grpc_port}, "
            f"metrics {server.metrics_port}); ^C ends it",
            soft_wrap=True,
            highlight=False,
        )
        for entry in server.index():
            if entry.get("state") != "READY":
                line = f"{entry['name']}: {entry.get('state')}: {entry.get('reason', '')}"
                console.print(" ".join(line.split()), soft_wrap=True, markup=False)
        watch = Watch(server)
        while (code := server.wait(WATCH_SECONDS)) is None:
            for line in watch.look():
                console.print(line, soft_wrap=True, markup=False)
    if code:
        raise RiverError(f"tritonserver ended with code {code}")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _doctor(args: argparse.Namespace) -> int:
    checks = examine(args.python)
    table = plain_table()
    for title in ("check", "found", "problem"):
        table.add_column(title)
    for check in checks:
        table.add_row(check.name, check.found, check.problem or "none")
    print_table(stdout_console(), table)
    for problem in problems(checks):
        raise RiverError(problem)
    return 0


COMMAND = Command(
    "triton",
    "Serve an engine in NVIDIA Triton Inference Server.",
    EXAMPLES,
    add_arguments,
    _doctor,
)
