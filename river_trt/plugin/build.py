"""Compile a part of plugins/ with the toolkit of this machine, once for each set of inputs."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import RiverError
from river_trt.plugin.cache import (
    Library,
    LibraryInfo,
    read_libraries,
    read_library,
    replace_file,
    store_library,
)
from river_trt.plugin.parts import Part, find_part
from river_trt.plugin.sources import hash_sources, source_directory
from river_trt.plugin.toolkit import Toolkit, find_toolkit
from river_trt.progress import Progress
from river_trt.user_cache import private_folder

LOG_FILE = "last-failure.log"
# "[3/12] Building …" of Ninja, "[ 25%] Building …" of make.
PROGRESS = re.compile(r"\[\s*(\d+)(?:/(\d+)|%)\]")


@dataclass(frozen=True, slots=True)
class LibraryOptions:
    """Which library, for what: checked by `build_library` before anything is compiled."""

    part: str = "tensorrt"
    tensorrt_root: Path | None = None  # default: see headers.find_tensorrt_headers
    architectures: tuple[str, ...] = ("80-real", "90-real", "100-virtual")
    jobs: int | None = None  # compilers at a time; default: one a core
    force: bool = False  # compile even if the cache has it


def build_library(options: LibraryOptions, progress: Progress) -> tuple[Library, bool]:
    """The library for these options, and whether it came from the cache.

    Raises RiverError for bad options, for what is missing on this machine, and for sources that do
    not compile (the message names the log). An interrupted build leaves no file in the cache.
    """
    part = find_part(options.part)
    for architecture in options.architectures:
        if not re.fullmatch(r"\d{2,3}[af]?(-real|-virtual)?", architecture):
            raise RiverError(
                f"architecture {architecture!r}: give CMake's names, such as 90, 90-real or 90a"
            )
    if options.jobs is not None and options.jobs < 1:
        raise RiverError(f"{options.jobs} jobs: at least 1 is needed")
    toolkit = find_toolkit()
    headers = part.find_headers(options.tensorrt_root)
    sources = source_directory()
    info = LibraryInfo(
        part=part.name,
        sources=hash_sources(sources, part.folders),
        headers=headers.version,
        abi=part.abi(headers.version),
        cuda=toolkit.cuda_version,
        cxx=toolkit.cxx_version,
        cmake_options=(f"-DRIVER_PARTS={part.name}", "-DCMAKE_BUILD_TYPE=Release"),
        architectures=options.architectures,
    )
    cached = None if options.force else read_library(info.key)
    if cached is not None:
        return cached, True
    with tempfile.TemporaryDirectory(prefix="river-trt-plugin-") as folder:
        configure = [
            *(str(toolkit.cmake), "-S", str(sources), "-B", folder, "-G", toolkit.generator),
            *info.cmake_options,
            f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(options.architectures)}",
            f"-D{part.root_option}={headers.root}",
        ]
        jobs = options.jobs or os.cpu_count() or 1
        # Not by way of `cmake --build`, which would not wait for the tool when interrupted.
        compile_it = [str(toolkit.make), "-C", folder, f"-j{jobs}", part.target]
        log: list[str] = []
        _run(configure, toolkit, log, lambda done, total: None)
        progress("compiling", 0, 0)
        _run(compile_it, toolkit, log, lambda done, total: progress("compiling", done, total))
        return store_library(Path(folder, f"lib{part.target}.so"), info), False


def built_library(part_name: str, version: str) -> Path:
    """The library that fits TensorRT or torch `version` and this installation's sources.

    RIVER_TRT_PLUGIN (a file) comes first: a machine that only serves needs no compiler. Raises
    RiverError with the command that builds it.
    """
    part = find_part(part_name)
    override = os.environ.get("RIVER_TRT_PLUGIN")
    if part_name == "tensorrt" and override:
        if not Path(override).is_file():
            raise RiverError(f"RIVER_TRT_PLUGIN={override} is no file")
        return Path(override)
    library = find_built(part, version)
    if library is None:
        raise RiverError(
            f"no {part.name} plugin for version {version} is built; "
            f"run `river-trt plugin build --part {part.name}` (once; it needs nvcc and CMake)"
        )
    return library.path


def find_built(part: Part, version: str) -> Library | None:
    """The newest cached library of these sources for that version of TensorRT or torch."""
    abi = part.abi(version)
    sources = hash_sources(source_directory(), part.folders)
    for library in read_libraries():
        info = library.info
        if (info.part, info.sources, info.abi) == (part.name, sources, abi):
            return library
    return None


def copy_library(library: Library, target: Path) -> None:
    """Put the library where a user wants it. Raises RiverError where no file can be."""
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else f"has no folder {target.parent}"
        raise RiverError(f"cannot write the library to {target}: it {what}")
    replace_file(library.path, target)


def _run(
    command: Sequence[str], toolkit: Toolkit, log: list[str], report: Callable[[int, int], None]
) -> None:
    environment = os.environ | {"CUDACXX": str(toolkit.nvcc), "CXX": str(toolkit.cxx)}
    # A group of its own: a key press reaches this process alone, which ends the others in order.
    process = subprocess.Popen(  # noqa: S603 (an absolute path and our own options)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            match = PROGRESS.match(line)
            if match is not None:
                report(int(match[1]), int(match[2] or 100))
        code = process.wait()
    except BaseException:
        os.killpg(
            process.pid, signal.SIGTERM
        )  # ninja and make end their compilers, then themselves
        process.wait()
        raise
    if code != 0:
        _fail(log, toolkit)


def _fail(log: Sequence[str], toolkit: Toolkit) -> None:
    path = private_folder("plugin") / LOG_FILE
    path.write_text("".join(log), encoding="utf-8")
    errors = [line.strip() for line in log if re.search(r"\berror\b", line, re.IGNORECASE)]
    reason = errors[0] if errors else (log[-1].strip() if log else "it printed nothing")
    raise RiverError(
        f"the plugin does not compile with nvcc {toolkit.cuda_version}: {reason}; "
        f"the whole log is {path}"
    )
