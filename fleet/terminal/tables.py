"""Tables that fit the terminal and lose nothing: no number, day or name is ever cut.

A table that is too wide goes without the columns that it can spare, then without its lines and with shorter headers,
and is at last a list of records. Only names may go over several lines. In a pipe there is no width to keep to.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column as RichColumn
from rich.table import Table as RichTable
from rich.text import Text

from fleet.terminal.foreign_text import in_one_line

_NO_LIMIT = 100_000
_NARROWEST_NAME = 12


@dataclass(frozen=True, slots=True)
class Column:
    """How a column is shown."""

    header: str
    short: str = ""
    """The header where there is little room; empty: the same."""
    right: bool = False
    """Whether its cells stand to the right, as numbers do."""
    folds: bool = False
    """Whether a cell may go over several lines."""
    spared: bool = False
    """Whether a table may go without it where there is little room."""


def number(header: str, *, short: str = "", spared: bool = False) -> Column:
    """A column of numbers, which are never cut or folded."""
    return Column(header, short, right=True, spared=spared)


def name(header: str) -> Column:
    """A column of names, which may go over several lines."""
    return Column(header, folds=True)


def cell(text: str) -> Text:
    """What others wrote, for rich: no markup, no control characters."""
    return Text(in_one_line(text), overflow="fold")


def console() -> Console:
    """A console for stdout: as wide as the terminal is; in a pipe as wide as COLUMNS says, else without limit."""
    found = Console(highlight=False)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=_NO_LIMIT)


class Table:
    """Rows with a cell for each column, and perhaps a row of totals at the end."""

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        *,
        totals: Sequence[str] | None = None,
        title: str | None = None,
    ) -> None:
        self._columns = columns
        self._rows = [list(row) for row in rows]
        self._totals = list(totals) if totals is not None else None
        self._title = title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        everything = range(len(self._columns))
        needed = [at for at in everything if not self._columns[at].spared]
        for shown, tight in ((everything, False), (needed, False), (needed, True)):
            if widths := self._widths(shown, tight=tight, within=options.max_width):
                yield self._table(shown, widths, tight=tight)
                return
        yield from self._records()

    def _widths(self, shown: Sequence[int], *, tight: bool, within: int) -> list[int] | None:
        """The width of each column; None when they do not fit. Names share what the others leave, and may get less
        than they need: then they go over several lines."""
        between = 2 * len(shown) - 1 if tight else 3 * len(shown) + 1
        widths: list[int] = []
        for at in shown:
            header = max(map(cell_len, self._header(at, tight=tight).split()))
            cells = (row[at] for row in (*self._rows, *([self._totals] if self._totals else [])))
            widths.append(max(header, *(cell_len(in_one_line(text)) for text in cells), 1))
        names = [place for place, at in enumerate(shown) if self._columns[at].folds]
        left = within - between - sum(width for place, width in enumerate(widths) if place not in names)
        for done, place in enumerate(sorted(names, key=lambda place: widths[place])):
            share = left // (len(names) - done)
            if share < min(widths[place], _NARROWEST_NAME):
                return None
            widths[place] = min(widths[place], share)
            left -= widths[place]
        return widths if left >= 0 else None

    def _header(self, at: int, *, tight: bool) -> str:
        column = self._columns[at]
        return (tight and column.short) or column.header

    def _table(self, shown: Sequence[int], widths: Sequence[int], *, tight: bool) -> RichTable:
        columns = [
            RichColumn(
                self._header(at, tight=tight),
                cell(self._totals[at]) if self._totals else "",
                width=width,
                justify="right" if self._columns[at].right else "left",
                overflow="fold",
            )
            for at, width in zip(shown, widths, strict=True)
        ]
        table = RichTable(*columns, title=self._title, show_footer=self._totals is not None)
        if tight:
            table.box, table.show_edge, table.padding = box.SIMPLE, False, (0, 1, 0, 0)
        for row in self._rows:
            table.add_row(*(cell(row[at]) for at in shown))
        return table

    def _records(self) -> Iterator[RenderableType]:
        """The rows as lines of header and cell, where no table fits."""
        if self._title:
            yield Text(self._title)
        longest = max(cell_len(column.header) for column in self._columns)
        for row in (*self._rows, *([self._totals] if self._totals else [])):
            for at, column in enumerate(self._columns):
                if row[at]:
                    header = f"{column.header.ljust(longest)}  "
                    yield Text.assemble((header, "dim"), cell(row[at]), overflow="fold")
            yield ""
