"""Standard output and error: what the command says, and the words for times, sizes and errors."""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from typing import Any, TextIO

from retryexec._outcome import qualified_name

_TEXT_LIMIT = 500  # characters kept of an exception's text; some carry a whole page
_PIPE_WIDTH = 10_000  # columns of a table in a pipe: whoever reads it can fold lines themselves
_CELL_LIMIT = 64  # characters of a cell of a table, but for the last one of a line
_LAST_LIMIT = 200  # of that one, in a pipe; a terminal has a width


def open_missing_streams() -> None:
    """Put the null device where a daemon's parent has closed standard input, output or error.

    Otherwise the next file that is opened takes the free number, and what some library writes to
    standard error ends in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest free number, which is this one; processes of jobs get it, too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def show(text: str) -> None:
    """Print *text*, whatever standard output can or cannot encode, and whether it still listens."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """Write *text* as a line of standard error, from any thread, even if it is closed."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        # One write, so that lines of several threads do not mix.
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):
        # Nobody reads any more: `head` has seen enough, the terminal is gone, the file was closed.
        # The interpreter would flush again at its exit, and complain.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_json(value: Any) -> None:
    """Print *value* as one line of JSON."""
    show(json.dumps(value, ensure_ascii=True, default=str))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print *rows* below the names of *columns*; numbers are set to the right.

    The last column gives way where a terminal is too narrow; the others are shown whole, as far as
    they are not of a length that nobody has meant.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    limits = [*[_CELL_LIMIT] * (len(columns) - 1), _LAST_LIMIT]
    cells = [[_cell(*pair) for pair in zip(row, limits, strict=True)] for row in rows]
    numeric = [all(number for _, number in column) for column in zip(*cells, strict=True)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(columns):
        last = place == len(columns) - 1
        table.add_column(
            name,
            justify="right" if numeric and numeric[place] else "left",
            no_wrap=True,
            overflow="ellipsis" if last else "crop",
            min_width=None if last else max([len(name), *(len(row[place][0]) for row in cells)]),
        )
    for row in cells:
        table.add_row(*(Text(text) for text, _ in row))
    terminal = sys.stdout.isatty()
    out = StringIO()
    width = None if terminal else _PIPE_WIDTH
    Console(file=out, width=width, force_terminal=terminal or None).print(table)
    show("\n".join(line.rstrip() for line in out.getvalue().splitlines()))


def _cell(value: Any, limit: int) -> tuple[str, bool]:
    """Return *value* as text of at most *limit* characters, and whether it is a number."""
    if isinstance(value, (int, float)):
        return f"{value:,}", True
    text = clean(str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…", False


# ---- words


def clean(text: str) -> str:
    """Return *text* with whatever could play with a terminal written as an escape.

    Lone surrogates, as in a file name that is not valid text, are escaped as well; so any stream
    or file can take the result.
    """
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


def describe(error: BaseException) -> str:
    """Return type and text of *error* on one line: ``sqlite3.OperationalError: no such table``.

    Never raises, whatever the error's ``__str__`` does, and gives text that any file can hold.
    """
    kind = type(error)
    name = qualified_name(kind)
    with suppress(Exception):  # a metaclass may have code of its own for it
        if kind.__module__ not in {"builtins", "__main__"}:
            name = f"{kind.__module__}.{name}"
    try:
        text = str.__str__(str(error))
    except BaseException as broken:
        text = f"<str() raised {type(broken).__name__}>"
    text = " ".join(text[: 2 * _TEXT_LIMIT].split())
    if len(text) > _TEXT_LIMIT:
        text = text[: _TEXT_LIMIT - 1] + "…"
    return clean(f"{name}: {text}" if text else name)


def counted(number: int, noun: str) -> str:
    """Return ``1 record``, ``2 records``, ``3,000 records``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def ordinal(number: int) -> str:
    """Return ``1st`` for 1, ``2nd`` for 2 and so on."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if number % 100 in {11, 12, 13} else endings.get(number % 10, "th")
    return f"{number}{ending}"


def format_duration(seconds: float) -> str:
    """Return *seconds* for people: ``45 ms``, ``7.3 s``, ``2 min 05 s``, ``3 h 20 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_time(at: float | None) -> str:
    """Return a time of the wall clock, in UTC: ``2026-11-22 02:19:23Z``."""
    if at is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):  # a clock that was far off
        return str(at)


def format_age(at: float | None) -> str:
    """Return how long *at* is ago: ``3 min 05 s``."""
    return "-" if at is None else format_duration(max(0.0, time.time() - at))


def format_due(at: float | None) -> str:
    """Return how long it takes until *at*: ``in 5.0 s``, ``now``."""
    if at is None or at <= (now := time.time()):
        return "now"
    return f"in {format_duration(at - now)}"


def format_size(number: int) -> str:
    """Return a number of bytes: ``512 B``, ``4.1 kB``, ``1.3 GB``."""
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"
