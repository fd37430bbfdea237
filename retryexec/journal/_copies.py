"""Looking at what dead owners have left, without SQLite touching it.

To read a log, SQLite makes anew the memory that it shares. That of a dead owner is evidence: it
tells how long the log was when its process died. So a file that has a log is read as a copy.
"""

import fcntl
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from retryexec.journal._log import shared_frames
from retryexec.journal._sqlite import SMALLEST_PAGE, check_kind, is_plain, reading, size_of

_Stamp = tuple[int, ...]


class Copies:
    """Copies of files, kept for as long as this object is, and the files are as they were."""

    def __init__(self) -> None:
        self._place: Path | None = None
        self._stamps: dict[Path, _Stamp] = {}

    @contextmanager
    def reading(self, path: Path) -> Generator[sqlite3.Connection]:
        """Open *path* for looking only; raises as `_sqlite.reading` does."""
        copy = None
        check_kind(path)
        has_log = size_of(f"{path}-wal") or shared_frames(path).complete
        if has_log and is_plain(path) and size_of(path) >= SMALLEST_PAGE:
            with suppress(OSError):  # of a full disk, say
                copy = self._copied(path)
        with reading(copy or path) as sql:
            yield sql

    def _copied(self, path: Path) -> Path | None:
        """Return a copy of *path*; None if it has a living owner, or if that is unknown."""
        fd = os.open(path.with_suffix(".lock"), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # Shared: nobody takes the file over meanwhile.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if self._place is None:
                self._place = Path(tempfile.mkdtemp(prefix="retryexec-"))
                weakref.finalize(self, shutil.rmtree, self._place, ignore_errors=True)
            copy = self._place / path.name
            stamp = _stamp(path)
            if self._stamps.get(path) != stamp:
                for suffix in ("-wal", "-shm", "-journal"):
                    Path(f"{copy}{suffix}").unlink(missing_ok=True)
                for suffix in ("", "-wal"):
                    with suppress(FileNotFoundError):
                        shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
                self._stamps[path] = stamp
        except BlockingIOError:
            return None
        else:
            return copy
        finally:
            os.close(fd)


def _stamp(path: Path) -> _Stamp:
    parts = [part for suffix in ("", "-wal") if (part := Path(f"{path}{suffix}")).exists()]
    return tuple(n for s in map(os.stat, parts) for n in (s.st_ino, s.st_size, s.st_mtime_ns))
