"""Where output goes and how sizes and layers read: results to stdout, progress to stderr."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBars
from rich.table import Column

from river_trt.progress import Progress

UNLIMITED = 1_000_000  # columns


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # main handles it; rich would exit with its own code


def stdout_console() -> Console:
    """Of the terminal's width; where it is no terminal and COLUMNS is not set, without a limit."""
    # No markup: paths and model texts may hold square brackets.
    unlimited = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    width = UNLIMITED if unlimited else None
    return _Console(width=width, markup=False, highlight=False, emoji=False)


def stderr_console() -> Console:
    return _Console(stderr=True, markup=False, highlight=False, emoji=False)


def printable(text: str) -> str:
    """Text of a file or a library with what a terminal would obey, or cannot show, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar a stage on stderr; where that is no terminal, a line a stage."""
    console = stderr_console()
    whole = Column(no_wrap=True)  # in a narrow terminal the stage folds, and no figure is lost
    bars = ProgressBars(
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(bar_width=30),
        MofNCompleteColumn(table_column=whole),
        TimeElapsedColumn(table_column=whole),
        TextColumn("left", table_column=whole),
        TimeRemainingColumn(table_column=whole),
        console=console,
        disable=not console.is_terminal,
    )
    current: tuple[str, Any] | None = None
    started = False

    def report(stage: str, done: int, total: int) -> None:
        nonlocal current, started
        if not started:  # nothing to show draws nothing
            bars.start()
            started = True
        if current is None or current[0] != stage:
            if current is not None:
                bars.stop_task(current[1])
            current = (stage, bars.add_task(stage))
            if not console.is_terminal:
                console.print(stage, soft_wrap=True)
        bars.update(current[1], completed=done, total=total or None)

    try:
        yield report
    finally:
        if started:
            bars.stop()


class Stopwatch:
    """Passes progress on, and measures the time from the first word of a stage to its last."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._started = progress, 0.0
        self.seconds = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done == 0:
            self._started = time.perf_counter()
        elif done == total:
            self.seconds += time.perf_counter() - self._started
        self._progress(stage, done, total)


def format_bytes(size: float) -> str:
    """Decimal units, as memory bandwidth is quoted."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        value = size / factor
        if value >= 1:
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    return f"{size:.0f} B"


def format_seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def format_layers(layers: Iterable[int]) -> str:
    """Ascending layer numbers, runs joined: 1-3, 30."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1][1:] = [layer]
        else:
            runs.append([layer])
    return ", ".join("-".join(map(str, run)) for run in runs) or "none"
