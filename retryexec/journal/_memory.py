"""A journal that is gone with its process: for tests, and to show the contract without a disk.

It takes and refuses the same jobs as the one on disk, and hands over what was left unfinished
when it is opened again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from retryexec._validate import whole_number
from retryexec.journal._codec import Codec, fields_of_json
from retryexec.journal._dead import DeadLetter, edited, no_letter, plain_id
from retryexec.journal._engine import closed
from retryexec.journal._entry import DONE, OVER, End, Entry, Host
from retryexec.journal._errors import JournalError
from retryexec.journal._journal import death, failed, ids

_KEPT = 1  # an entry's `_row` while it is kept here


class MemoryJournal:
    """A journal in memory, with the methods of `Journal` that an executor uses.

    Args:
        jobs, max_bytes, wall_clock: as `Journal` has them.
    """

    def __init__(
        self,
        *,
        jobs: Mapping[str, type],
        max_bytes: int = 1024 * 1024,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._codec = Codec(jobs, max_bytes=whole_number("max_bytes", max_bytes, least=1))
        self._wall = wall_clock
        self._new_id = ids()
        # Guards _kept, _host and the letters; never held while the host is told anything.
        self._lock = threading.RLock()
        self._kept: dict[str, Entry] = {}
        self._host: Host | None = None
        self.dead = MemoryDeadLetters(self._codec, self._lock, self._revive)

    def open(self, host: Host) -> None:
        """Begin to keep jobs, for *host*; what is unfinished is handed to it at once."""
        with self._lock:
            if self._host is not None:
                msg = "the journal is open already: one executor has one journal object"
                raise JournalError(msg)
            self._host = host
            left = [self._recalled(entry) for entry in self._kept.values()]
            self._kept = {entry.id: entry for entry in left}
        if left:
            host.recover(left)

    def close(self) -> None:
        """Take no more jobs; what has not ended is kept."""
        with self._lock:
            self._host = None

    def _recalled(self, entry: Entry) -> Entry:
        job = self._codec.decode(entry.kind, entry._version, entry._data)
        new = Entry(entry.id, job, entry.kind, entry._version, entry._data, entry.accepted_at)
        new._row, new._file, new._past = _KEPT, self, entry._past
        if (past := entry._past) is not None:
            now = self._wall()
            new.attempts = past.attempts
            new.due_in = min(max(0.0, past.due_at - now), past.delay)
            if past.first_at is not None:
                new.elapsed = past.elapsed
        return new

    def accept(self, job: Any) -> Entry:
        """Take *job*, and return it as an entry.

        Raises:
            JobRefused: it would not come back as it is.
            JournalError: the journal is not open.
        """
        kind, data = self._codec.encode(job)
        now = self._wall()
        entry = Entry(self._new_id(now), job, kind.name, kind.version, data, now)
        with self._lock:
            if self._host is None:
                raise closed()
            entry._row, entry._file = _KEPT, self
            self._kept[entry.id] = entry
        return entry

    def retrying(
        self,
        entry: Entry,
        attempts: int,
        delay: float,
        error: BaseException | None,
        *,
        elapsed: float = 0.0,
    ) -> None:
        """Note that an attempt of *entry* failed, and that the next one follows."""
        entry._past = failed(entry, attempts, delay, error, elapsed=elapsed, now=self._wall())
        entry.attempts = attempts

    def succeeded(self, entry: Entry) -> None:
        """Note that *entry* has done its work."""
        self._end(entry, DONE)

    def cancelled(self, entry: Entry) -> None:
        """Note that *entry* is not wanted any more."""
        self._end(entry, DONE)

    def died(
        self, entry: Entry, reason: str, attempts: int, error: BaseException | None = None
    ) -> None:
        """Note that *entry* has finally failed: it becomes a dead letter."""
        now = self._wall()
        end = death(entry, reason, attempts, error, now)
        if self._end(entry, end):
            self.dead.bury(entry, end, now)

    def _end(self, entry: Entry, end: End) -> bool:
        with self._lock:
            if self._host is None or self._kept.get(entry.id) is not entry:
                return False  # closed by now: it is run again
            del self._kept[entry.id]
            entry._end, entry._row = end, OVER
            return True

    def flush(self, timeout: float | None = None) -> bool:  # noqa: ARG002  nothing to wait for
        """Return True: there is no disk."""
        return True

    def poll(self) -> int:
        """Return 0: nobody else leaves anything here."""
        return 0

    def _revive(self, letter: DeadLetter, data: bytes | str) -> None:
        entry = Entry(letter.id, None, letter.kind, letter.version, data, letter.accepted_at)
        recalled = self._recalled(entry)
        with self._lock:
            self._kept[entry.id] = recalled
            host = self._host
        if host is not None:
            host.recover([recalled])


class MemoryDeadLetters:
    """The jobs of a `MemoryJournal` that finally failed."""

    def __init__(
        self,
        codec: Codec,
        lock: "threading.RLock",
        revive: Callable[[DeadLetter, bytes | str], None],
    ) -> None:
        self._codec = codec
        self._lock = lock
        self._revive = revive
        self._letters: dict[str, tuple[DeadLetter, bytes | str]] = {}

    def bury(self, entry: Entry, end: End, now: float) -> None:
        """Add *entry*."""
        assert end.reason is not None
        letter = DeadLetter(
            entry.id,
            entry.kind,
            entry._version,
            fields_of_json(entry._data),
            end.reason,
            end.attempts,
            entry.crashes,
            entry.accepted_at,
            now,
            end.errors,
        )
        with self._lock:
            self._letters[entry.id] = (letter, entry._data)

    def list(self, kind: str | None = None, *, limit: int | None = None) -> "list[DeadLetter]":
        """Return the letters, the latest first."""
        with self._lock:
            letters = [letter for letter, _ in self._letters.values()]
        found = [letter for letter in reversed(letters) if kind in (None, letter.kind)]
        return found[:limit]

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self._letters)

    def __bool__(self) -> bool:
        return True

    def get(self, letter_id: str, /) -> DeadLetter:
        """Return the letter *letter_id*; LookupError if there is none."""
        return self._found(letter_id)[0]

    def _found(self, letter_id: str, /) -> tuple[DeadLetter, bytes | str]:
        try:
            return self._letters[plain_id(letter_id)]
        except KeyError:
            raise no_letter(letter_id) from None

    def rerun(self, letter_id: str, /) -> None:
        """Give the job of letter *letter_id* all its attempts again, under the same id."""
        with self._lock:
            letter, data = self._found(letter_id)
            del self._letters[letter.id]
        self._revive(letter, data)

    def rerun_all(self, kind: str | None = None) -> int:
        """Rerun all letters, or all of one kind; return how many."""
        letters = self.list(kind)
        for letter in letters:
            self.rerun(letter.id)
        return len(letters)

    def edit(self, letter_id: str, /, **changes: Any) -> DeadLetter:
        """Change fields of letter *letter_id*, and return it as it is then."""
        letter, _ = self._found(letter_id)
        version, data = edited(self._codec, letter, changes)
        new = DeadLetter(
            letter.id,
            letter.kind,
            version,
            fields_of_json(data),
            letter.reason,
            letter.attempts,
            letter.crashes,
            letter.accepted_at,
            letter.died_at,
            letter.errors,
        )
        with self._lock:
            self._letters[letter.id] = (new, data)
        return new

    def discard(self, letter_id: str, /) -> None:
        """Remove letter *letter_id* for good."""
        with self._lock:
            del self._letters[self._found(letter_id)[0].id]

    def discard_all(self, kind: str | None = None) -> int:
        """Remove all letters, or all of one kind, for good; return how many."""
        letters = self.list(kind)
        for letter in letters:
            self.discard(letter.id)
        return len(letters)
