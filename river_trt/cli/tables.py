"""Tables that lose nothing in a narrow terminal: they fold at spaces, then stand row by row."""

from collections.abc import Iterable

from rich import box
from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Column, Table

LEAST_BAR = 8
GAPS = (3, 2)  # between columns: as rich has it, and where that is too wide
EDGES = 2


def facts_table(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Two columns, name and value, without lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def plain_table(title: str | None = None) -> Table:
    """For `print_table`. Cells are texts, or a Bar in a column whose max_width is the longest bar.

    no_wrap is for columns whose cells stay on one line.
    """
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def print_table(console: Console, table: Table) -> None:
    """Every cell of a table, whatever the console's width.

    Columns share the width; headers fold at spaces, and so do cells unless their column says
    no_wrap. Where even that is too wide, each row stands alone, a line a column.
    """
    widths = [_widths(column) for column in table.columns]
    least = sum(low for low, _ in widths)
    for gap in GAPS:
        spare = console.width - EDGES - least - gap * (len(widths) - 1)
        if spare >= 0:
            table.padding = (0, 1, 0, gap - 2)  # and one for the line that is not drawn
            for column, (low, high) in zip(table.columns, widths, strict=True):
                column.width, column.no_wrap = low + min(spare, high - low), False
                spare -= column.width - low
            console.print(table)
            return
    console.print()
    if table.title:
        console.print(table.title, style="italic")
        console.print()
    names = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(facts_table(zip(names, cells, strict=True)))
        console.print()


def _widths(column: Column) -> tuple[int, int]:
    """The least that a column needs, and the most that it can use."""
    cells = list(column.cells)
    if any(isinstance(cell, Bar) for cell in cells):
        assert column.max_width is not None
        return LEAST_BAR, column.max_width
    texts = [str(cell) for cell in cells]
    whole = _longest(texts)
    header = str(column.header)
    least = whole if column.no_wrap else _longest(word for text in texts for word in text.split())
    return max(least, _longest(header.split())), max(whole, cell_len(header))


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)
