"""The store that keeps jobs in a PostgreSQL database, for the processes of any number of hosts."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from time import monotonic
from typing import Any

import psycopg

from retryexec.journal._codec import Codec
from retryexec.journal._entry import Entry
from retryexec.journal._errors import JournalError, Lost
from retryexec.journal._rows import JobRow
from retryexec.journal._store import Lane, Taken
from retryexec.journal.postgres import _schema
from retryexec.journal.postgres._connection import Database, Link
from retryexec.journal.postgres._keeper import Keeper
from retryexec.journal.postgres._lane import PostgresLane
from retryexec.journal.postgres._letters import Desk, LetterTable
from retryexec.journal.postgres._statements import Statements
from retryexec.journal.postgres._taker import Taker

logger = logging.getLogger("retryexec.journal")


_TELL_AGAIN = 0.02  # seconds; less than after which those who hear of it look again


class PostgresStore:
    """Jobs and dead letters in the tables of one schema.

    Args:
        url: as libpq has it.
        schema: where the tables are; made if there is none.
        lease: seconds that a process may go unheard before others take over its jobs.
        patience: seconds that a submitter waits at most while the server is away.
        power: whether what is accepted is to survive a power cut.
        max_crashes: as `Journal` has it.
        wall: the time of day; by default this host's, corrected to agree with the server's.

    Raises:
        JournalError: the database cannot be used; the message says why.
    """

    def __init__(
        self,
        url: str,
        codec: Codec,
        *,
        schema: str,
        lease: float,
        patience: float,
        power: bool = True,
        max_crashes: int = 3,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.database = database = Database(url, schema, patience=patience, power=power)
        self.wall = wall if wall is not time.time else self._server_time
        self.lease = lease
        self.statements = Statements(schema)
        self.desk = Desk(database)
        self.letters = LetterTable(self.desk, self._lane_or_raise)
        self._taker = Taker(
            database, self.statements, codec, lease=lease, max_crashes=max_crashes, wall=self.wall
        )
        # Guards the making of `_lane` and `_keeper`.
        self._lock = threading.Lock()
        self._lane: PostgresLane | None = None
        self._keeper: Keeper | None = None
        self._told_at = -1.0  # when it was last told that something was put
        self._wake: Callable[[], object] = _nothing
        self._lost: Callable[[], object] = _nothing
        try:
            self.desk.use(lambda connection: _schema.prepare(connection, schema))
        except BaseException:
            self.desk.close()
            raise

    @property
    def name(self) -> str:
        """The URL, without its password."""
        return self.database.name

    def _server_time(self) -> float:
        return time.time() + self.database.offset

    # ---- as a `Store`

    def serve(self, wake: Callable[[], object], lost: Callable[[], object]) -> None:
        """Have *wake* called when there may be something to take, *lost* when a lane is lost."""
        self._wake, self._lost = wake, lost

    def new_lane(self) -> PostgresLane:
        """Return the life of this process, which is begun if it has none.

        Raises:
            JournalError: that cannot be, now.
        """
        with self._lock:
            lane = self._lane
            if lane is not None and not lane.left and not lane.lost:
                return lane
            if lane is not None and lane.lost and not lane.left and lane.live:
                msg = f"{lane} was declared dead, and its jobs have not been let go of yet"
                raise JournalError(msg)
            if self._keeper is not None:
                self._keeper.stop()
            link = Link(self.database)
            try:
                lane = PostgresLane(self.database, self.statements, self.lease, link)
            except psycopg.Error as error:
                link.close()
                raise self.database.explained(error) from error
            keeper = Keeper(
                self.database,
                self.statements,
                lane,
                wake=self._wake,
                lost=self._lost,
                reconnected=self._taker.wait_a_lease,
            )
            lane.on_low, lane.look_at = self._wake, keeper.look_at
            self._lane, self._keeper = lane, keeper
            keeper.start()
            return lane

    def _lane_or_raise(self) -> PostgresLane:
        return self._lane or self.new_lane()

    def take(self, seen: set[str], left: AbstractSet[str]) -> Taken | None:  # noqa: ARG002
        """Take over one lot of what dead processes have left, or of what was put.

        Raises:
            OSError: the server cannot be asked now.
        """
        try:
            return self._taker.take(self.new_lane(), seen)
        except JournalError as error:
            if isinstance(error, OSError):
                raise
            raise OSError(str(error)) from error

    def may_start(self, entry: Entry, stopping: Callable[[], bool]) -> bool:
        """Wait until an attempt of *entry* may start; False if its job is another process's now.

        While it is not sure that this process still owns its jobs, none of them starts.

        Args:
            stopping: whether none is to start any more, so that there is no use in waiting.
        """
        while not entry.moved:
            if entry.refusal is not None:
                return True  # it was never written down, and so is nobody else's
            lane, home = self._lane, entry.lane
            # One of a life that is over is another process's, and is about to be told so.
            is_ours = home is None or home is lane
            if is_ours and lane is not None and lane.is_sure():
                return not entry.moved
            if stopping():
                return True  # the executor will not start it
            if not is_ours or lane is None or lane.left or lane.lost:
                threading.Event().wait(0.02)  # the next life is about to begin
            else:
                lane.wait_until_sure(0.2)
        return False

    def set_aside(self, lane: Lane, error: Exception) -> None:
        """Do nothing: what this process has lost is another's."""

    def is_unavailable(self, error: Exception) -> bool:
        """Return whether *error* comes from the server, and not from what was to be written."""
        if isinstance(error, psycopg.Error):
            state = error.sqlstate or ""
            return not (isinstance(error, psycopg.DataError) or state[:2] in {"22", "54"})
        return isinstance(error, (JournalError, Lost, OSError))

    def is_full(self, error: Exception) -> bool:
        """Return whether *error* means that the server's disk is full."""
        return isinstance(error, psycopg.errors.DiskFull)

    def close(self) -> None:
        """Let go of the life that is left, if any, and of all connections."""
        with self._lock:
            lane, self._lane = self._lane, None
            keeper, self._keeper = self._keeper, None
        self._wake = self._lost = _nothing  # they lead to the executor
        if keeper is not None:
            keeper.stop()
        if lane is not None and not lane.left:
            try:
                lane.leave()
            except (psycopg.Error, JournalError) as error:
                logger.error("%s is left as it is: %s", lane, error)  # noqa: TRY400
                lane.abandon()
        self._taker.close()
        self.desk.close()

    def forget_after_fork(self) -> None:
        """In a forked child: leave lives and connections to the parent."""
        self._lock = threading.Lock()
        self.desk.forget_after_fork()
        self._taker.forget_after_fork()
        lane, self._lane = self._lane, None
        keeper, self._keeper = self._keeper, None
        if lane is not None:
            lane.forget_after_fork()
        if keeper is not None:
            keeper.forget_after_fork()

    # ---- what is put

    def put(self, rows: Sequence[JobRow], connection: Any = None) -> None:
        """Write *rows* for whichever process takes them first, all or none.

        Args:
            connection: the caller's own; they are part of its transaction.

        Raises:
            JournalError: they could not be written down.
        """
        values = (
            [row.id for row in rows],
            [row.kind for row in rows],
            [row.ver for row in rows],
            [row.data for row in rows],
            [row.accepted_at for row in rows],
            self.database.channel,
        )
        if connection is not None:
            if not isinstance(connection, (psycopg.Connection, psycopg.Cursor)):
                msg = (
                    "connection takes a psycopg.Connection, or a cursor of one (got a "
                    f"{type(connection).__qualname__}): the job is part of its transaction"
                )
                raise TypeError(msg)
            try:
                connection.execute(self.statements["put"], values)
            except psycopg.Error as error:
                raise self.database.explained(error) from error
            return
        # Each notification takes a lock of the whole database, so there are not many of them. Who
        # hears one looks once more a moment later.
        now = monotonic()
        if now - self._told_at < _TELL_AGAIN:
            self.desk.use(lambda c: c.execute(self.statements["put_quietly"], values[:-1]))
        else:
            self._told_at = now
            self.desk.use(lambda c: c.execute(self.statements["put"], values))


def _nothing() -> None:
    pass
