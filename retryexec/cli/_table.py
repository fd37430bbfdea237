"""Tables and times for people: plain where there is no terminal, and safe to look at."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from retryexec.cli._output import show
from retryexec.cli._summary import span

_WIDE = 10_000  # columns of a pipe: whoever reads it can fold lines themselves


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print *rows* below the names of *columns*; numbers are set to the right.

    The last column gives way where a terminal is too narrow; the others are shown whole.
    """
    rows = [
        [cell if isinstance(cell, (int, float)) else clean(str(cell)) for cell in row]
        for row in rows
    ]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[place], (int, float)) for row in rows)
        last = place == len(columns) - 1
        table.add_column(
            name,
            justify="right" if numbers else "left",
            no_wrap=True,
            overflow="ellipsis" if last else "crop",
            min_width=None if last else max([len(name), *(len(_text(row[place])) for row in rows)]),
        )
    for row in rows:
        table.add_row(*(Text(_text(cell)) for cell in row))
    show(rendered(table))


def rendered(table: Table) -> str:
    """Return *table* as text, in colour where standard output is a terminal."""
    terminal = sys.stdout.isatty()
    out = StringIO()
    console = Console(file=out, width=None if terminal else _WIDE, force_terminal=terminal or None)
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def clean(text: str) -> str:
    """Return *text* with whatever could play with a terminal written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable()
        else c.encode("unicode_escape").decode()
        if c < "\ud800" or c > "\udfff"
        else f"\\u{ord(c):04x}"
        for c in text
    )


def show_json(value: Any) -> None:
    """Print *value* as one line of JSON."""
    show(json.dumps(value, ensure_ascii=True, default=str))


def moment(at: float | None) -> str:
    """Return a time of the wall clock, in UTC: ``2026-11-22 02:19:23Z``."""
    if at is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):  # a clock that was far off
        return str(at)


def age(at: float | None) -> str:
    """Return how long *at* is ago: ``3 min 05 s``."""
    return "-" if at is None else span(max(0.0, time.time() - at))


def due(at: float | None) -> str:
    """Return how long it takes until *at*: ``in 5.0 s``, ``now``."""
    if at is None or at <= (now := time.time()):
        return "now"
    return f"in {span(at - now)}"


def size(number: int) -> str:
    """Return a number of bytes: ``512 B``, ``4.1 kB``, ``1.3 GB``."""
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def _text(cell: Any) -> str:
    return f"{cell:,}" if isinstance(cell, (int, float)) else str(cell)
