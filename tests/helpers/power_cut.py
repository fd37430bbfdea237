"""Power cuts, without cutting any: a disk that remembers what it was told, and in which order.

SQLite runs on a VFS of apsw's that writes all its writes, syncs, truncations and deletions into
a log. From the log come the states in which a power cut could have left the disk at any moment:
of what had not been synced nothing, everything, or some sectors and not others; of the names
that were made or removed since the directory was last synced, likewise some.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw

SECTOR = 512
_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL


class Event(NamedTuple):
    """What the disk was told: open, write, truncate, sync, delete, or dirsync."""

    what: str
    name: str
    place: int = 0  # of a write; of a truncation, the new size
    data: bytes = b""


class Disk(apsw.VFS):
    """A VFS that keeps a log; one for each workload.

    Args:
        every: after how many pages of log SQLite makes a checkpoint, which workloads as short
            as ours would not live to see.
    """

    def __init__(self, every: int = 1000) -> None:
        self.name = f"disk-{id(self)}"
        self.every = every
        self.log: list[Event] = []
        self.connections: list[Connection] = []
        super().__init__(self.name, "")

    def note(self, what: str, path: str | Path, place: int = 0, data: bytes = b"") -> None:
        self.log.append(Event(what, Path(path).name, place, data))

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.note("delete", filename)
        if syncdir:
            self.note("dirsync", "")

    def connect(self, path: Path, **options: Any) -> Connection:
        """Open *path* as `sqlite3.connect` would."""
        made = Connection(self, path, **options)
        self.connections.append(made)
        return made


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name
        # As SQLite's own VFS: the first sync of a new journal syncs its name as well.
        self._name_syncs = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _JOURNALS)
        if self._name:
            disk.note("open", self._name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        if self._name:
            self._disk.note("write", self._name, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        if self._name:
            self._disk.note("truncate", self._name, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        if self._name:
            self._disk.note("sync", self._name)
        if self._name_syncs:
            self._name_syncs = False
            self._disk.note("dirsync", "")


class _Counted(NamedTuple):
    """As much of a `sqlite3.Cursor` as is asked after `executemany`."""

    rowcount: int


class Connection:
    """As much of a `sqlite3.Connection` as the journal uses, on a `Disk`."""

    def __init__(self, disk: Disk, path: Path, *, timeout: float = 5.0, **_: Any) -> None:
        self._disk = disk
        self._db = apsw.Connection(str(path), vfs=disk.name)
        self._db.set_busy_timeout(int(timeout * 1000))
        self._wal = path.name != "dead.db"
        if self._wal:
            # apsw's files share no memory; one connection alone needs none.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, sql: str, values: Any = None) -> apsw.Cursor:
        if sql.startswith("PRAGMA wal_autocheckpoint"):
            sql = f"PRAGMA wal_autocheckpoint={self._disk.every}"
        return self._db.execute(sql, values)

    def executemany(self, sql: str, values: Any) -> _Counted:
        before = self._db.total_changes()
        self._db.executemany(sql, values)
        return _Counted(self._db.total_changes() - before)

    def close(self) -> None:
        self._db.close()

    def let_go(self) -> None:
        """Close it as the death of the process would: nothing is tidied up."""
        with suppress(apsw.ConnectionClosedError):
            self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._db.close()


class State(NamedTuple):
    """What may be on the disk after a power cut, when *step* events of the log were through."""

    step: int
    how: str
    files: dict[str, bytes]

    def write(self, directory: Path) -> None:
        """Make *directory*, which is empty, look like this."""
        for name, data in self.files.items():
            (directory / name).write_bytes(data)
            if name.endswith(".db") and name != "dead.db":
                (directory / name).with_suffix(".lock").touch()


class _Contents:
    """A file: what is on the disk for sure, and what has been written since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.now = bytearray()
        self.pending: list[Event] = []

    def sync(self) -> None:
        self.synced[:] = self.now
        self.pending.clear()

    def do(self, event: Event) -> None:
        self.pending.append(event)
        _do(self.now, event)

    def torn(self, chance: random.Random) -> bytes:
        """Return what is there when only some sectors of what is pending have been written."""
        data = bytearray(self.synced)
        often = chance.choice((0.1, 0.5, 0.9))
        for event in self.pending:
            if event.what == "truncate":
                if chance.random() < often:
                    _do(data, event)
                continue
            start = event.place
            while start < event.place + len(event.data):
                end = min((start // SECTOR + 1) * SECTOR, event.place + len(event.data))
                part = event.data[start - event.place : end - event.place]
                if chance.random() < often:
                    _do(data, Event("write", event.name, start, part))
                start = end
        return bytes(data)


def _do(data: bytearray, event: Event) -> None:
    if event.what == "truncate":
        del data[event.place :]
        data.extend(bytes(event.place - len(data)))
        return
    if len(data) < event.place:
        data.extend(bytes(event.place - len(data)))
    data[event.place : event.place + len(event.data)] = event.data


class _Names:
    """A directory: the names that are on the disk for sure, and what has become of them since."""

    def __init__(self) -> None:
        self.safe: dict[str, _Contents] = {}
        self.now: dict[str, _Contents] = {}
        self._pending: list[tuple[str, _Contents | None]] = []  # made, or, with None, removed

    def do(self, event: Event) -> None:
        name, now = event.name, self.now
        if event.what == "dirsync":
            self.safe = dict(now)
            self._pending.clear()
        elif event.what == "open":
            if name not in now:
                now[name] = _Contents()
                self._pending.append((name, now[name]))
        elif event.what == "delete":
            if now.pop(name, None) is not None:
                self._pending.append((name, None))
        elif event.what == "sync":
            now[name].sync()
        else:
            now[name].do(event)

    def torn(self, chance: random.Random) -> dict[str, bytes]:
        """Return what is there when only some of what is pending has been written."""
        there = dict(self.safe)
        for name, made in self._pending:
            if chance.random() < 0.5:
                there.pop(name, None)
                if made is not None:
                    there[name] = made
        return {name: file.torn(chance) for name, file in there.items()}


def states(
    log: list[Event], chance: random.Random, *, told: Iterable[int] = (), torn: int = 2
) -> Iterator[State]:
    """Yield the states in which a power cut could leave the disk, each once.

    Args:
        told: the steps at which something was promised: the same bytes may be right before, and
            wrong after.
        torn: how many states with torn writes for each step.
    """
    told = sorted(set(told))
    names = _Names()
    seen = set()
    for step, event in enumerate(log, 1):
        names.do(event)
        found = [
            ("nothing", {name: bytes(file.synced) for name, file in names.safe.items()}),
            ("everything", {name: bytes(file.now) for name, file in names.now.items()}),
            *(("torn", names.torn(chance)) for _ in range(torn)),
        ]
        for how, files in found:
            key = hash((tuple(sorted(files.items())), bisect_right(told, step)))
            if key not in seen:
                seen.add(key)
                yield State(step, how, files)
