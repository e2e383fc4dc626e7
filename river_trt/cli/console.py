"""Where output goes and how sizes and layers read: results to stdout, progress to stderr."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBars
from rich.table import Table

from river_trt.progress import Progress


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # main handles it; rich would exit with its own code


def stdout_console() -> Console:
    # No markup: paths and model texts may hold square brackets.
    return _Console(markup=False, highlight=False, emoji=False)


def stderr_console() -> Console:
    return _Console(stderr=True, markup=False, highlight=False, emoji=False)


def printable(text: str) -> str:
    """Text of a file or a library with what a terminal would obey, or cannot show, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def facts_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Two columns, name and value, without lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def plain_table(title: str | None = None) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar a stage on stderr; where that is no terminal, a line a stage."""
    console = stderr_console()
    bars = ProgressBars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    current: tuple[str, Any] | None = None

    def report(stage: str, done: int, total: int) -> None:
        nonlocal current
        if current is None or current[0] != stage:
            if current is not None:
                bars.stop_task(current[1])
            current = (stage, bars.add_task(stage))
            if not console.is_terminal:
                console.print(stage, soft_wrap=True)
        bars.update(current[1], completed=done, total=total or None)

    with bars:
        yield report


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
