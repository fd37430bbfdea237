"""What can be read of a damaged SQLite file, row by row; and where the file goes."""

import sqlite3
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from retryexec.journal._log import mended
from retryexec.journal._sqlite import SUFFIXES, Format, as_text, make_tables

_PAGE = 4096  # bytes
_LEAF = 13  # the first byte of a page that holds rows
_FIRST = -(2**63)  # the least row number


class Salvaged(NamedTuple):
    """What could be read of a damaged file, and about how many records could not."""

    rows: list[tuple[Any, ...]]
    lost: int


def set_aside(path: Path) -> Path:
    """Rename a damaged file, with all that belongs to it, and return its new name."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 0
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    for suffix in SUFFIXES:
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def salvage(path: Path, form: Format) -> Salvaged:
    """Return all records that can be read of a damaged file, which is left as it is.

    They are read one by one where a scan fails, of a copy: opening a file may change it. If its
    first page does not say what it is, a page of a file that we have just made takes its place.
    """
    if not any(Path(f"{path}{suffix}").is_file() for suffix in ("", "-wal")):
        return Salvaged([], 0)
    with tempfile.TemporaryDirectory(prefix="retryexec-") as name:
        place, best = Path(name), Salvaged([], 0)
        # The later ways take more of it for granted. Without a log, nothing of it can be mended.
        mends = (True, False) if Path(f"{path}-wal").is_file() else (False,)
        ways = [(False, mend) for mend in mends] + [(True, mend) for mend in reversed(mends)]
        for graft, mend in ways:
            copy = place / f"{graft:d}{mend:d}.db"
            _copy(path, copy, graft=graft, mend=mend)
            if graft:
                _graft(copy, form, place / f"model{mend:d}.db")
            found = _salvage(copy, form)
            if len(found.rows) > len(best.rows):
                best = found
            if best.rows and not best.lost:
                break
        if not best.rows:
            whole = (place / "00.db").read_bytes().startswith(b"SQLite format 3\0")
            copy = place / ("00.db" if whole else f"1{mends[0]:d}.db")
            best = Salvaged(_by_leaves(copy, form), best.lost)
        return best


def _copy(path: Path, copy: Path, *, graft: bool, mend: bool) -> None:
    """Copy a file, with its log mended or as it is."""
    for suffix in ("", "-wal", "-journal"):
        source = Path(f"{path}{suffix}")
        # All rows may be in the log of a file that is not there.
        if source.is_file() or not suffix:
            content = source.read_bytes() if source.is_file() else b""
            if mend and suffix == "-wal":
                content = mended(content, first_page=not graft)
            Path(f"{copy}{suffix}").write_bytes(content)


def _graft(copy: Path, form: Format, model: Path) -> None:
    """Give *copy* the first page of a new file of the same form."""
    with closing(sqlite3.connect(model, isolation_level=None)) as sql:
        for pragma in form.pragmas:
            sql.execute(f"PRAGMA {pragma}").fetchall()
        make_tables(sql, form)
    page = bytearray(model.read_bytes()[:_PAGE])
    content = copy.read_bytes()
    page[28:32] = bytes(4)  # how many pages there are, the file and its log say
    copy.write_bytes(bytes(page) + content[_PAGE:])


def _by_leaves(path: Path, form: Format) -> list[tuple[Any, ...]]:
    """Return the rows of all pages that hold any: the page that leads to them is damaged.

    Each in turn is made the root of the table. Rows of another table, or of nothing at all, are
    for the reader of rows to find out. A page that is free now would give rows that have gone.
    """
    rows: dict[int, tuple[Any, ...]] = {}
    columns, table = form.tables[form.records], form.records
    at = columns.split(",").index("id")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as sql:
            sql.execute("PRAGMA journal_mode=DELETE")
        content = path.read_bytes()
        free = _free_pages(content)
        for number in range(2, len(content) // _PAGE + 1):
            if content[(number - 1) * _PAGE] != _LEAF or number in free:
                continue
            with closing(sqlite3.connect(path, isolation_level=None)) as sql:
                sql.execute("PRAGMA writable_schema=ON")
                change = "UPDATE sqlite_schema SET rootpage=? WHERE type='table' AND name=?"
                sql.execute(change, (number, table))
            with closing(sqlite3.connect(path)) as sql, suppress(sqlite3.Error, ValueError):
                sql.text_factory = as_text
                for key, *values in sql.execute(f"SELECT rowid,{columns} FROM {table}"):  # noqa: S608
                    if _was_written(*values[at : at + 2]):
                        rows[key] = tuple(values)
    except (sqlite3.Error, OSError, ValueError):
        pass
    return [rows[key] for key in sorted(rows)]


def _free_pages(content: bytes) -> set[int]:
    """Return the pages that hold nothing any more, as the file itself says."""
    free: set[int] = set()
    trunk = int.from_bytes(content[32:36], "big")
    while trunk and trunk not in free and trunk * _PAGE <= len(content):
        free.add(trunk)
        place = (trunk - 1) * _PAGE
        after, count = struct.unpack_from(">2I", content, place)
        free.update(struct.unpack_from(f">{min(count, _PAGE // 4 - 2)}I", content, place + 8))
        trunk = after
    return free


def _was_written(name: Any, kind: Any) -> bool:
    """Return whether a row with this id and this kind can have been written as a record.

    Where a file ends within a page, or a sector is blank, SQLite reads zeros. A row that begins
    there has NULLs alone, and one of which the end is there has an id that ends in zeros: it says
    of no job that it was there, and the columns after the id are zeros, too. A row of another
    table has fewer columns, and so no kind. All other rows are kept: `read_job` and `read_letter`
    find those that are not as they must be, which are parked under their ids.
    """
    if isinstance(name, str):
        return "\0" not in name
    if isinstance(name, bytes):
        return b"\0" not in name
    return kind is not None


def _salvage(path: Path, form: Format) -> Salvaged:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as sql:
            sql.text_factory = as_text
            sql.execute("PRAGMA writable_schema=ON")
            sql.execute("PRAGMA trusted_schema=OFF")
            return _Salvage(sql, form, path).run()
    except (sqlite3.Error, OSError, ValueError):
        return Salvaged([], 0)


class _Salvage:
    """Reads a table by its row numbers, and leaves out what raises."""

    _MOST_PROBES = 200_000

    def __init__(self, sql: sqlite3.Connection, form: Format, path: Path) -> None:
        with path.open("rb") as file:
            self._pages = int.from_bytes(file.read(32)[28:], "big")  # as it was
        table = form.records
        there = {str(row[1]) for row in sql.execute(f"PRAGMA table_info({table})")}
        names = form.tables[table].split(",")
        self._at = names.index("id")  # the kind comes after it
        columns = ",".join(name if name in there else "NULL" for name in names)
        self._sql = sql
        self._scan = f"SELECT {columns} FROM {table}"  # noqa: S608  ours
        self._query = f"SELECT rowid,{columns} FROM {table} WHERE rowid BETWEEN ? AND ? "  # noqa: S608
        # By row number and id: a damaged row number may be that of another row, too.
        self._rows: dict[tuple[int, Any], tuple[Any, ...]] = {}
        # How many rows were never written, by their row numbers.
        self._blank: Counter[int] = Counter()
        # Ranges of row numbers within which nothing is read.
        self._lost: list[tuple[int, int]] = []
        self._size = path.stat().st_size
        self._probes = self._MOST_PROBES
        self._most = self._size // 32 + 1000  # rows that a file of this size may hold
        self._repeats = self._most  # how often a row may be read again, all in all

    def run(self) -> Salvaged:
        low, high = _FIRST, 2**63 - 1
        try:
            self._sql.execute(self._query, (0, 0)).fetchall()
        except sqlite3.OperationalError:  # a table of another kind, without row numbers
            found = self._sql.execute(self._scan).fetchall()
            rows = [row for row in found if self._was_written(row)]
            return Salvaged(rows, len(found) - len(rows))
        up = self._read(low, high, "ASC")
        ends = True  # whether the last row is known
        if up is not None:  # it raised, after row `up`
            start = 1 if up < low else up + 1
            down = self._read(start, high, "DESC")
            if down is not None:
                ends = down <= high
                self._between(start, down - 1 if ends else start + self._most)
        rows = [self._rows[key] for key in sorted(self._rows, key=itemgetter(0))]
        last = max((number for number, _ in self._rows), default=0)
        lost = sum(to - first + 1 for first, to in self._lost if to <= last)
        lost += self._blank.total()
        return Salvaged(rows, lost if ends else lost + self._beyond())

    def _beyond(self) -> int:
        """Return about how many rows were on the pages that are not there any more."""
        there = max(1, self._size // _PAGE)
        return len(self._rows) * max(0, self._pages - there) // there

    def _read(self, low: int, high: int, order: str) -> int | None:
        """Read in *order*; return None at the end, or the last row number before an error.

        The row numbers on a damaged page need not be in order, and a damaged page may lead back
        to one before it: rows that are read again are left out, until there are too many.
        """
        last: int | None = None
        blank: Counter[int] = Counter()
        # SQLite ends a scan without an error at the first row beyond the bound. On the way down
        # that may be a blank row, whose number is 0, so that scan has no lower bound.
        bounds = (low, high) if order == "ASC" else (_FIRST, high)
        try:
            for number, *values in self._sql.execute(
                f"{self._query}ORDER BY rowid {order}", bounds
            ):
                if low <= number <= high:
                    last = number
                key = number, values[self._at]
                if not self._was_written(values):
                    blank[number] += 1
                elif key not in self._rows:
                    self._rows[key] = tuple(values)
                    continue
                self._repeats -= 1
                if self._repeats < 0:
                    break
            else:
                return None
        except (sqlite3.Error, OverflowError, UnicodeDecodeError):
            pass
        finally:
            self._blank |= blank
        if last is not None:
            return last
        return low - 1 if order == "ASC" else high + 1

    def _was_written(self, values: Sequence[Any]) -> bool:
        return _was_written(*values[self._at : self._at + 2])

    def _between(self, low: int, high: int) -> None:
        """Read what can be read of a range that cannot be read in one go."""
        pending = [(low, high)]
        while pending and self._probes > 0:
            low, high = pending.pop()
            if low > high:
                continue
            self._probes -= 1
            last = self._read(low, high, "ASC")
            if last is None:
                continue
            low = last + 1
            if low >= high:
                self._lost.append((low, low))
                continue
            middle = (low + high) // 2
            pending += [(middle + 1, high), (low, middle)]
        self._lost += pending
