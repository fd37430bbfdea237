"""One life of a process in a journal on PostgreSQL: its lease, its rows, and how they are written.

A process has one lane, and its number in the table of owners is the fence: each statement names it,
and does nothing once it has been declared dead. A life is never revived. A process that has lost
one begins another.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from time import monotonic
from typing import Any, TypeVar

import psycopg

from retryexec._typing import override
from retryexec.journal._entry import Entry
from retryexec.journal._errors import Fenced, JournalError
from retryexec.journal._rows import JobRow, ranges_of, values_of
from retryexec.journal._store import Changes
from retryexec.journal.postgres._arrays import Int8s, Texts, UUIDs
from retryexec.journal.postgres._columns import columns_of, failures_of
from retryexec.journal.postgres._connection import Away, Connection, Database, Link, is_passing
from retryexec.journal.postgres._schema import LIFE_BITS
from retryexec.journal.postgres._statements import Statements

T = TypeVar("T")

SURE = 0.7
"""The part of its lease for which a process may start attempts after it has renewed it."""

_RANGES = 16  # so many ranges of rows are deleted one by one; of more, an array is made
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def awake() -> float:
    """Return seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(_CLOCK)


class PostgresLane:
    """A life of this process. It is a `Lane`; all but what says so is for the writer's thread.

    Attributes:
        life: its number in the table of owners.
        lost: it has been declared dead; by any thread.
        hand: rows that were put by somebody, and have not been run here yet.
        foreign: rows that came from owners that have crashed.
        marked: rows at work, each with the attempts that had failed by then. The next renewal of
            the lease tells of them, so that no row has to be written for it.
        crashes: how many owners of those in `foreign` have crashed in a row.
        runs: how many of those that were put have been run here.
        low: how many are left in `hand` when `on_low` is called; 0 for never.
        look_at: has a look taken at a moment of the monotonic clock.
    """

    shared = True

    def __init__(
        self, database: Database, statements: Statements, lease: float, link: Link
    ) -> None:
        self._database = database
        self._sql = statements
        self._link = link
        self.lease = lease
        self.live: dict[int, Entry] = {}
        self.parked = 0
        self.suspects: list[Entry] = []
        self.turn: tuple[Entry, int] | None = None
        self.lost = False
        self.left = False
        self.hand: set[int] = set()
        self.foreign: set[int] = set()
        self.marked: dict[int, int] = {}
        self.crashes = 0
        self._inheriting = False
        self.runs = 0
        self.low = 0
        self._below = 0
        self.on_low: Callable[[], object] | None = None
        self.look_at: Callable[[float], object] | None = None
        self._down_since: float | None = None
        self._answer_lost = False  # of the latest transaction, which was given up
        # Guards `_sure_until`; notified when it is moved, and when the life is lost or left.
        self._renewed = threading.Condition()
        self._sure_until = 0.0
        began = awake()
        found = self._asked("join", socket.gethostname(), os.getpid(), lease)
        assert found is not None
        self.life: int = found[0]
        self.name = str(self.life)
        self.next_row = (self.life << LIFE_BITS) + 1
        self.renewed(began)

    # ---- the lease; by any thread

    def renewed(self, asked: float) -> None:
        """Note that the lease was renewed by a statement that was sent at *asked*."""
        with self._renewed:
            self._sure_until = asked + SURE * self.lease
            self._renewed.notify_all()

    def lose(self) -> None:
        """Note that somebody has declared this life dead."""
        with self._renewed:
            self.lost = True
            self._renewed.notify_all()

    def is_sure(self) -> bool:
        """Return whether an attempt may start: nobody can have taken over its job."""
        return not (self.lost or self.left) and awake() < self._sure_until

    def wait_until_sure(self, seconds: float) -> None:
        """Wait until that may have changed, for *seconds* at most."""
        with self._renewed:
            if not self.is_sure():
                self._renewed.wait(seconds)

    # ---- what is taken over; by the thread that does

    def inherit(self, crashes: int) -> None:
        """Note that jobs are being taken so many owners of which have crashed; 0: no more."""
        with self._renewed:
            self._inheriting = crashes > 0
            if self._inheriting or self.foreign:
                self.crashes = max(self.crashes, crashes)
            else:
                self.crashes = 0

    def join(self, live: dict[int, Entry], suspects: list[Entry], *, put: bool) -> bool:
        """Take in rows that have been taken; False if this life is over, and they with it.

        Args:
            put: whether they were put, and had no owner.
        """
        with self._renewed:  # so that `lose` comes before, or finds them here
            if self.lost or self.left:
                return False
            if put:
                self.hand.update(live)
            elif self._inheriting:
                self.foreign.update(live)
            self.live.update(live)
            self.suspects[0:0] = suspects
            return True

    def call_when_low(self, low: int) -> None:
        """Call `on_low` once fewer than *low* of those that were put are left in hand."""
        self.low = low
        if len(self.hand) < low and self.on_low is not None:  # by now
            self.on_low()

    def call_when_below(self, few: int) -> None:
        """Call `on_low` once this process has fewer than *few* jobs in its hands."""
        self._below = few

    # ---- transactions

    def apply(self, changes: Changes) -> int:
        """Do all *changes*, or none; return how many rows to be deleted were not there any more.

        Marks of jobs at work are told with the next renewal of the lease; only those that somebody
        waits for are written now.

        Raises:
            Fenced: this life has been declared dead, and nothing was done.
            JournalError, psycopg.Error: nothing was done or, if the server went away, it is not
                known.
        """
        self._check()
        for entry in changes.marks:
            assert entry.row is not None
            self.marked[entry.row] = entry.attempts
        rows = {entry.row for entry in changes.deletes if entry.row is not None}
        missing = 0
        writes = self._writes(changes, rows)
        if writes:
            missing = self._patiently(
                lambda link, again: self._write(link, changes, writes, rows, again)
            )
        if any(entry.waiter is not None for entry in changes.marks):
            self._patiently(lambda link, _: self._mark(link))
        for entry in changes.updates:
            self._not_at_work(entry.row)
        for row in rows:
            self._not_at_work(row)
        if len(self.live) < self._below and self.on_low is not None:
            self._below = 0
            self.on_low()
        return missing

    def _not_at_work(self, row: Any) -> None:
        self.marked.pop(row, None)
        if row in self.foreign:
            with self._renewed:
                self.foreign.discard(row)
                if not self.foreign and not self._inheriting:
                    self.crashes = 0  # they did no harm here
        if row in self.hand:
            self.hand.discard(row)
            self.runs += 1
            if len(self.hand) < self.low and self.on_low is not None:
                self.low = 0
                self.on_low()

    def _writes(self, changes: Changes, rows: set[int]) -> list[tuple[str, Any]]:
        writes: list[tuple[str, Any]] = []
        if changes.inserts:
            keyed = any(entry.key is not None for entry in changes.inserts)
            columns = {"me": self.life, **columns_of(changes.inserts, keyed=keyed)}
            writes.append(("insert_keyed" if keyed else "insert", columns))
        if changes.updates:
            failed = {entry.row: entry for entry in changes.updates}.values()
            writes.append(("update", (*failures_of(failed), self.life)))
        if rows:
            ranges = ranges_of(rows)
            if len(ranges) <= _RANGES:
                writes += [("delete", (self.life, first, last)) for first, last in ranges]
            else:
                writes.append(("delete_some", (self.life, Int8s.of(rows))))
        return writes

    def _write(
        self,
        link: Link,
        changes: Changes,
        writes: Sequence[tuple[str, Any]],
        rows: set[int],
        again: bool,
    ) -> int:
        """Make one transaction of *writes*; return how many of *rows* were not there any more."""
        connection = link.get()
        texts = self._sql
        if again:  # it may have been committed although nobody said so
            writes = [(f"{name}_again" if "insert" in name else name, v) for name, v in writes]
        if len(writes) == 1:
            counts = [connection.execute(texts[writes[0][0]], writes[0][1]).rowcount]
        else:
            with connection.pipeline():
                cursors = [connection.execute(texts[name], values) for name, values in writes]
            counts = [cursor.rowcount for cursor in cursors]
        inserted = counts[0] if changes.inserts else 0
        deleted = sum(
            count for (name, _), count in zip(writes, counts, strict=True) if "delete" in name
        )
        short = inserted < len(changes.inserts) or deleted < len(rows)
        if short and not self._is_alive(connection):
            self.lose()
            raise self._fenced(changes, connection, again)
        # What a lost answer has deleted is not there now.
        return 0 if again else len(rows) - deleted

    def _is_alive(self, connection: Connection) -> bool:
        return connection.execute(self._sql["is_alive"], [self.life]).rowcount > 0

    def _fenced(self, changes: Changes, connection: Connection, again: bool) -> Fenced:
        landed = frozenset[int]()
        if again and changes.inserts:
            # Some may have been written before, and taken over with the others.
            wanted = Int8s.of([entry.row for entry in changes.inserts])  # type: ignore[misc]
            found = connection.execute(self._sql["whereabouts"], [wanted]).fetchall()
            landed = frozenset(row for (row,) in found)
        return Fenced(self._last_words(), landed, unsure=again)

    def _last_words(self) -> str:
        return f"another process has declared {self} dead, as it did not renew its lease in time"

    def _mark(self, link: Link) -> None:
        connection = link.get()
        if connection.execute(self._sql["mark"], [self.running(), self.life]).rowcount < 1:
            self.lose()
            raise Fenced(self._last_words())

    def running(self) -> Int8s:
        """Return what is at work, for the table of owners; by any thread."""
        return Int8s.of(chain.from_iterable(list(self.marked.items())))

    def insert_rows(self, rows: Iterable[JobRow], sources: Sequence[str] = ()) -> None:  # noqa: ARG002
        """Write whole records in one transaction; raises as `apply`."""
        self._check()
        known = list(rows)

        def insert(link: Link, _: bool) -> None:
            connection = link.get()
            with connection.transaction():
                for row in known:
                    values = (self.life, *values_of(row), self.life)
                    connection.execute(self._sql["insert_row"], values)
            if not self._is_alive(connection):
                self.lose()
                raise Fenced(self._last_words(), unsure=True)

        self._patiently(insert)

    def outdate(self, succeeded: Sequence[Entry]) -> None:
        """Mark older letters of the keys of *succeeded* as stale; raises as `apply`."""
        self._check()
        keyed = [entry for entry in succeeded if entry.key is not None]
        values = {
            "me": self.life,
            "keys": Texts.of([entry.key.text for entry in keyed if entry.key is not None]),
            "ids": UUIDs.of([entry.id for entry in keyed]),
        }
        self._patiently(lambda link, _: link.get().execute(self._sql["outdate"], values))

    def write_letters(self, letters: dict[str, Any]) -> None:
        """Write dead *letters*; raises as `apply`."""
        self._check()

        def insert(link: Link, _: bool) -> None:
            connection = link.get()
            found = connection.execute(
                self._sql["write_letters"], {**letters, "me": self.life}
            ).rowcount
            if found < 1 and not self._is_alive(connection):
                self.lose()
                raise Fenced(self._last_words())

        self._patiently(insert)

    def holds(self, entry: Entry) -> bool:
        """Return whether *entry* is in the table."""
        if self._is_given_up():
            msg = f"{self._database.name} cannot be reached"
            raise Away(msg)
        try:
            connection = self._link.get()
            values = [self.life, entry.row, entry.id]
            return connection.execute(self._sql["holds"], values).rowcount > 0
        except psycopg.Error as error:
            if is_passing(error):
                self._link.drop()
            raise

    # ---- patience

    def _asked(self, name: str, *values: Any) -> Any:
        return self._patiently(
            lambda link, _: link.get().execute(self._sql[name], values).fetchone()
        )

    def _is_given_up(self) -> bool:
        """Return whether the server has been away for longer than submitters wait."""
        since = self._down_since
        return since is not None and monotonic() - since >= self._database.patience

    def _patiently(self, do: Callable[[Link, bool], T]) -> T:
        """Return *do()*; while the server is away, try again, as long as submitters may wait.

        Whether a transaction was made whose answer was lost, nobody asks: all that is done here may
        be done twice, also by a later call.
        """
        again = self._answer_lost
        while True:
            began = monotonic()
            try:
                result = do(self._link, again)
            except (psycopg.Error, JournalError) as error:
                if not is_passing(error):
                    raise
                self._down_since = self._down_since or began
                if isinstance(error, psycopg.Error):
                    again = self._answer_lost = True
                    self._link.drop()
                if self._is_given_up() or self.lost:
                    raise
                threading.Event().wait(0.02)
            else:
                self._down_since, self._answer_lost = None, False
                return result

    # ---- looking after it

    def _check(self) -> None:
        if self.lost:
            raise Fenced(self._last_words())

    def verify(self) -> None:
        """Make sure that this life goes on; raises Fenced."""
        self._check()

    def is_in_place(self) -> bool:
        """Return whether this life goes on, as far as is known; by any thread."""
        return not self.lost

    def truncate_log(self) -> None:
        """Do nothing: the server sees to its logs."""

    def log_bytes(self) -> int:
        """Return 0: the logs are the server's."""
        return 0

    def leave(self) -> None:
        """End this life in order; its rows are anybody's at once."""
        self.stop()
        self._patiently(lambda link, _: link.get().execute(self._sql["leave"], [self.life]))
        self._patiently(lambda link, _: link.get().execute(self._sql["forget"], [self.life]))
        self._link.close()

    def abandon(self) -> None:
        """Have done with this life without a word; its lease runs out."""
        self.stop()
        self._link.close()

    def stop(self) -> None:
        """Start nothing any more, and renew nothing; by any thread."""
        with self._renewed:
            self.left = True
            self._renewed.notify_all()

    def forget_after_fork(self) -> None:
        """In a forked child: leave it to the parent."""
        self.left = True
        self._renewed = threading.Condition()
        self._link.forget_after_fork()

    @override
    def __repr__(self) -> str:
        return f"owner {self.life} of {self._database.name}"
