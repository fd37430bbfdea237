"""Which store a journal has: files in a directory, or tables of a PostgreSQL server."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retryexec._validate import seconds
from retryexec.journal._codec import Codec
from retryexec.journal._directory import Directory
from retryexec.journal._letters import DeadLetters
from retryexec.journal._redact import Redact
from retryexec.journal._sqlite import tell_of_sqlite
from retryexec.journal._sqlite_store import SQLiteStore

if TYPE_CHECKING:
    from retryexec.journal.postgres._store import PostgresStore

_SCHEMES = ("postgresql://", "postgres://")


class Place(NamedTuple):
    """Where a journal is.

    Attributes:
        store: keeps the jobs.
        name: what messages call it.
        directory: None if it is in none.
        wall: the time of day.
        leased: the store, if a process may lose its jobs to another one while it lives.
    """

    store: Any
    name: str
    directory: Path | None
    wall: Callable[[], float]
    leased: "PostgresStore | None" = None

    def dead_letters(
        self, codec: Codec, take_over: Callable[[], object], redact: Redact | None
    ) -> DeadLetters:
        """Return the dead letters."""
        if self.leased is None:
            return DeadLetters(self.store, codec, take_over, redact)
        from retryexec.journal.postgres._letters import PostgresLetters

        return PostgresLetters(self.leased.desk, self.leased.statements, codec, take_over, redact)


def is_url(where: object) -> bool:
    """Return whether *where* is the URL of a PostgreSQL server, and no directory."""
    return isinstance(where, str) and where.startswith(_SCHEMES)


def open_place(
    where: "str | PathLike[str]",
    codec: Codec,
    *,
    power: bool,
    max_crashes: int,
    allow_network: bool,
    wall: Callable[[], float],
    schema: str,
    lease: float,
    patience: float,
) -> Place:
    """Return the store that *where* names.

    Raises:
        TypeError, ValueError: it names none.
        JournalError: it cannot be used.
    """
    if not isinstance(where, (str, PathLike)):
        msg = f"directory takes a path, or the URL of a PostgreSQL server (got {where!r})"
        raise TypeError(msg)
    if is_url(where):
        from retryexec.journal.postgres._store import PostgresStore

        tables = PostgresStore(
            str(where),
            codec,
            schema=schema,
            lease=lease,
            patience=patience,
            power=power,
            max_crashes=max_crashes,
            wall=wall,
        )
        return Place(tables, tables.name, None, tables.wall, tables)
    if isinstance(where, str) and "://" in where:
        msg = (
            f"{where.partition('://')[0]!r} is not a kind of journal: name a directory, or a "
            "PostgreSQL server as postgresql://user@host/database"
        )
        raise ValueError(msg)
    directory = Directory(where, allow_network=allow_network)
    store = SQLiteStore(directory, codec, power=power, max_crashes=max_crashes, wall=wall)
    if directory.is_new:
        tell_of_sqlite()
    return Place(store, str(directory.path), directory.path, wall)


def positive(name: str, value: Any) -> float:
    """Return *value*, which is seconds above 0; raise for anything else."""
    found = seconds(name, value)
    if found == 0.0:
        msg = f"{name} takes seconds above 0 (got {value!r})"
        raise ValueError(msg)
    return found


def one_of(name: str, value: Any, *allowed: str) -> str:
    """Return *value*, which is one of *allowed*; raise ValueError for anything else."""
    if value not in allowed:
        words = " or ".join(map(repr, allowed))
        msg = f"{name} takes {words} (got {value!r})"
        raise ValueError(msg)
    return str(value)
