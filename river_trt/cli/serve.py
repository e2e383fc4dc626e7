"""`river-trt serve`: an OpenAI endpoint over engines."""

import argparse
import os
from pathlib import Path

from rich.console import Console

from river_trt.cli.arguments import add_runtime_arguments
from river_trt.cli.command import Command
from river_trt.cli.console import show_progress, stderr_console
from river_trt.engine import load
from river_trt.errors import MissingDependencyError, RiverError
from river_trt.openai.settings import ServeSettings
from river_trt.origin import this_build

EXAMPLES = """\
  river-trt serve engine/                              on 127.0.0.1:8000
  river-trt serve --engine small=engine-a --engine large=engine-b --port 9000
  river-trt serve engine/ --policy fast                for requests that name no policy
  RIVER_TRT_API_KEY=secret river-trt serve engine/ --host 0.0.0.0
  curl 127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 60}'
"""
API_KEY = "RIVER_TRT_API_KEY"  # of the environment: a command line is for everyone to read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = ServeSettings({"engine": Path()})
    parser.add_argument("engine", nargs="?", metavar="ENGINE", help="engine directory")
    parser.add_argument(
        "--engine",
        dest="engines",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="the same as an option; may be given several times, then with a name for each",
    )
    door = parser.add_argument_group("who may ask")
    door.add_argument("--host", default=default.host, help="address (default: %(default)s)")
    door.add_argument("--port", type=int, default=default.port, help="(default: %(default)s)")
    door.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"needed in every request but of /, /health and /ready; better in ${API_KEY}",
    )
    door.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let this origin's pages ask from a browser",
    )
    bounds = parser.add_argument_group("bounds")
    for name, about in (
        ("max_batch_size", "requests that decode together"),
        ("max_queue", "requests that may wait beyond those; more get 429"),
        ("prefill_chunk", "prompt tokens between two decode steps"),
        ("kept_rows", "requests kept for prompts that begin alike; each takes a cache row"),
        ("max_body_bytes", "of a request; more get 413"),
        ("most_choices", "prompts times n of a request"),
        ("request_seconds", "a request that takes longer is ended"),
        ("shutdown_seconds", "what open requests have to end at a shutdown"),
    ):
        value = getattr(default, name)
        bounds.add_argument(
            "--" + name.replace("_", "-"),
            type=type(value),
            default=value,
            metavar="S" if name.endswith("_seconds") else "N",
            help=f"{about} (default: %(default)s)",
        )
    bounds.add_argument(
        "--reuse-river",
        action="store_true",
        help="of kept requests also what River steps wrote, for the same policy; changes texts",
    )
    add_runtime_arguments(parser)
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="of requests that name none, as `inspect` lists them: exact, quality, balanced, fast "
        "(default: the engine's own)",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the files with their SHA-256"
    )
    parser.add_argument("--log-json", action="store_true", help="a JSON object for each request")


def execute(args: argparse.Namespace) -> int:
    given = [*([args.engine] if args.engine else []), *args.engines]
    keys = [*args.api_key, *filter(None, os.environ.get(API_KEY, "").split(","))]
    settings = ServeSettings(
        named_engines(given),
        host=args.host,
        port=args.port,
        api_keys=tuple(keys),
        cors=tuple(args.cors),
        max_batch_size=args.max_batch_size,
        max_queue=args.max_queue,
        max_seq_len=args.max_seq_len,
        prefill_chunk=args.prefill_chunk,
        kept_rows=args.kept_rows,
        reuse_river=args.reuse_river,
        threads=args.threads,
        policy=args.policy,
        max_body_bytes=args.max_body_bytes,
        request_seconds=args.request_seconds,
        shutdown_seconds=args.shutdown_seconds,
        most_choices=args.most_choices,
        log_json=args.log_json,
        verify=not args.no_verify,
    )
    try:
        from river_trt.openai.server import open_socket, serve
    except ImportError as error:
        raise MissingDependencyError(
            f"`river-trt serve` needs {error.name}, which is not installed: "
            f"{this_build().install('serve')}"
        ) from error
    console = stderr_console()
    bound = open_socket(settings)  # before minutes of loading
    with bound:
        engines = {}
        for name, directory in settings.engines.items():
            console.print(f"loading {directory} ...", highlight=False)
            with show_progress() as progress:
                engines[name] = load(
                    directory,
                    max_batch_size=settings.max_batch_size,
                    max_seq_len=settings.max_seq_len,
                    threads=settings.threads,
                    policy=settings.policy,
                    prefill_chunk=settings.prefill_chunk,
                    kept_rows=settings.kept_rows,
                    verify=settings.verify,
                    batch_invariant=True,
                    progress=progress,
                )
        _announce(console, settings, bound.getsockname()[1])
        serve(settings, engines, bound)
    return 0


def named_engines(given: list[str]) -> dict[str, Path]:
    """NAME=DIR, or DIR under the name of its folder."""
    named: dict[str, Path] = {}
    for text in given:
        name, equals, directory = text.partition("=")
        path = Path(directory)
        if not equals or "/" in name:  # a directory alone
            path = Path(text)
            name = path.resolve().name
        if name in named:
            raise RiverError(f"two engines are named {name}; give names: --engine NAME=DIR")
        named[name] = path
    return named


def _announce(console: Console, settings: ServeSettings, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = ", ".join(settings.engines)
    text = f"serving {names} on http://{host}:{port}/v1 (Ctrl-C ends it)"
    console.print(text, highlight=False, soft_wrap=True, markup=False)


COMMAND = Command("serve", "Serve engines with OpenAI's API.", EXAMPLES, add_arguments, execute)
