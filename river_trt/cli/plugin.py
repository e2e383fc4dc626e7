"""`river-trt plugin`: compile the native libraries for this machine, and tell what there is."""

import argparse
import time
from pathlib import Path
from typing import Any

from river_trt.cli.command import Command
from river_trt.cli.console import (
    format_bytes,
    format_seconds,
    print_json,
    show_progress,
    stdout_console,
)
from river_trt.cli.tables import facts_table
from river_trt.errors import RiverError
from river_trt.plugin.build import LibraryOptions, build_library, copy_library, find_built
from river_trt.plugin.cache import Library, cache_directory, read_libraries
from river_trt.plugin.parts import PARTS
from river_trt.plugin.sources import source_directory
from river_trt.plugin.toolkit import find_toolkit

EXAMPLES = """\
  river-trt plugin build                         TensorRT plugins, into the cache
  river-trt plugin build --part torch            the same kernels as torch operators
  river-trt plugin build --out libriver_trt_plugin.so --architectures 90-real
  river-trt plugin info                          toolkit, headers, libraries built

Building needs nvcc, CMake, a C++ compiler and TensorRT's headers (an installed TensorRT,
TENSORRT_ROOT, or `pip install --no-deps kernel-lens==2.0.1`).
"""
DEFAULTS = LibraryOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="compile a library; one that is built is found again")
    build.add_argument(
        "--part", choices=tuple(PARTS), default=DEFAULTS.part, help="default: %(default)s"
    )
    build.add_argument(
        "--tensorrt-root", type=Path, metavar="DIR", help="the TensorRT to build for"
    )
    build.add_argument(
        "--architectures",
        type=lambda text: tuple(text.split(",")),
        default=DEFAULTS.architectures,
        metavar="LIST",
        help=f"CMake's names, joined by commas (default: {','.join(DEFAULTS.architectures)})",
    )
    build.add_argument("--jobs", type=int, metavar="N", help="compilers at a time")
    build.add_argument("--out", type=Path, metavar="FILE", help="copy the library there as well")
    build.add_argument("--force", action="store_true", help="compile again what is cached")
    info = actions.add_parser("info", help="what is needed, what is there, what is built")
    for action in (build, info):
        action.add_argument("--json", action="store_true", help="print the result as JSON")


def execute(args: argparse.Namespace) -> int:
    return _build(args) if args.action == "build" else _info(args)


def _build(args: argparse.Namespace) -> int:
    options = LibraryOptions(
        args.part, args.tensorrt_root, args.architectures, args.jobs, args.force
    )
    start = time.perf_counter()
    with show_progress() as progress:
        library, cached = build_library(options, progress)
    seconds = time.perf_counter() - start
    if args.out is not None:
        copy_library(library, args.out)
    result = describe(library) | {"cached": cached, "seconds": round(seconds, 2)}
    if args.out is not None:
        result["copy"] = str(args.out)
    if args.json:
        print_json(result)
        return 0
    how = "found in the cache" if cached else f"compiled in {format_seconds(seconds)}"
    rows = [("library", str(args.out or library.path)), ("state", how), *_facts(library)]
    stdout_console().print(facts_table(rows))
    return 0


def _info(args: argparse.Namespace) -> int:
    facts = survey()
    if args.json:
        print_json(facts)
        return 0
    rows = [(name, str(facts[name])) for name in ("sources", "toolkit")]
    for name, part in facts["parts"].items():
        rows.append((name, part["headers"]))
        rows.append(("", part["library"] or "not built"))
    rows.append(("cache", f"{facts['cache']}, {len(facts['libraries'])} libraries"))
    stdout_console().print(facts_table(rows), soft_wrap=True)
    return 0


def survey() -> dict[str, Any]:
    """What a build would use here; for what is missing, the sentence that says so."""
    parts = {}
    for part in PARTS.values():
        try:
            headers = part.find_headers(None)
        except RiverError as error:
            parts[part.name] = {"headers": str(error), "library": None}
            continue
        built = find_built(part, headers.version)
        parts[part.name] = {
            "headers": f"{headers.library} {headers.version}, {headers.root}",
            "library": None if built is None else str(built.path),
        }
    try:
        tools = find_toolkit()
        toolkit = (
            f"nvcc {tools.cuda_version} ({tools.nvcc}), cmake {tools.cmake_version}, "
            f"{tools.cxx.name} {tools.cxx_version}, {tools.generator}"
        )
    except RiverError as error:
        toolkit = str(error)
    return {
        "sources": str(source_directory()),
        "toolkit": toolkit,
        "parts": parts,
        "cache": str(cache_directory()),
        "libraries": [describe(library) for library in read_libraries()],
    }


def describe(library: Library) -> dict[str, Any]:
    info = library.info
    return {
        "library": str(library.path),
        "size_bytes": library.path.stat().st_size,
        "sha256": library.sha256,
        "part": info.part,
        "headers": info.headers,
        "cuda": info.cuda,
        "architectures": list(info.architectures),
    }


def _facts(library: Library) -> list[tuple[str, str]]:
    info = library.info
    return [
        ("size", format_bytes(library.path.stat().st_size)),
        ("for", f"{'TensorRT' if info.part == 'tensorrt' else 'torch'} {info.abi}.x"),
        ("compiled with", f"nvcc {info.cuda}, headers {info.headers}"),
        ("architectures", ", ".join(info.architectures)),
    ]


COMMAND = Command(
    "plugin",
    "Build the CUDA plugins for this machine, or show what is built.",
    EXAMPLES,
    add_arguments,
    execute,
)
