"""The thread that renews a life's lease, and hears when there may be something to take.

It has a connection of its own, so that a renewal never waits behind a batch.
"""

import logging
import math
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic

import psycopg
from psycopg import sql

from retryexec.journal._errors import JournalError
from retryexec.journal.postgres._connection import Connection, Database, Link, is_passing
from retryexec.journal.postgres._lane import PostgresLane, awake
from retryexec.journal.postgres._statements import Statements

logger = logging.getLogger("retryexec.journal")

_RENEWALS = 4  # in the time of one lease
_AGAIN = 0.2  # seconds after a renewal that failed
_ECHO = 0.05  # seconds after which something put in the same moment is looked for


class Keeper:
    """Keeps one life alive.

    Args:
        wake: called when there may be something to take; quick.
        lost: called when the life has been declared dead.
        reconnected: called when the server had been away, and is back.
    """

    def __init__(
        self,
        database: Database,
        statements: Statements,
        lane: PostgresLane,
        *,
        wake: Callable[[], object],
        lost: Callable[[], object],
        reconnected: Callable[[], object],
    ) -> None:
        self._database = database
        self._sql = statements
        self._lane = lane
        self._wake = wake
        self._lost = lost
        self._reconnected = reconnected
        self._link = Link(database)
        self._listening: Connection | None = None
        # When to wake without being told: what others ask for, and what this thread knows of.
        self._asked: SimpleQueue[float] = SimpleQueue()
        self._looks = [math.inf]
        # Guards the ends of the pipe, which wakes the thread, until they are closed.
        self._piping = threading.Lock()
        self._ended = False
        self._stopped = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(
            target=self._run, name="retryexec-journal-lease", daemon=True
        )

    def start(self) -> None:
        """Begin: whatever is put from now on is heard of."""
        try:
            self._listen(self._link.get())
        except (psycopg.Error, JournalError) as error:
            self._failed(error)  # the thread tries again
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for that."""
        self._stopped = True
        self._poke()
        if threading.current_thread() is not self._thread:
            self._thread.join(self._database.patience * 2)

    def look_at(self, moment: float) -> None:
        """Wake at *moment*, of the monotonic clock; by any thread."""
        self._asked.put(moment)
        self._poke()

    def _poke(self) -> None:
        with self._piping, suppress(BlockingIOError):
            if not self._ended:
                os.write(self._writer, b".")

    def forget_after_fork(self) -> None:
        """In a forked child: leave it to the parent."""
        self._link.forget_after_fork()
        self._listening = None
        if not self._ended:
            os.close(self._reader)
            os.close(self._writer)

    # ---- the thread

    def _run(self) -> None:
        due, lane = monotonic(), self._lane
        while not (self._stopped or lane.lost or lane.left):
            if monotonic() >= due:
                try:
                    due = monotonic() + self._renew()
                except Exception:
                    logger.exception("the lease of %s could not be renewed", lane)
                    due = monotonic() + _AGAIN
            self._wait(max(0.0, min(due, *self._looks) - monotonic()))
            self._look_if_due()
        self._link.close()
        with self._piping:
            self._ended = True
            os.close(self._reader)
            os.close(self._writer)
        if lane.lost and not (self._stopped or lane.left):
            self._lost()

    def _look_if_due(self) -> None:
        while not self._asked.empty():
            self._looks.append(self._asked.get())
        now = monotonic()
        if any(at <= now for at in self._looks):
            self._looks = [at for at in self._looks if at > now]
            self._wake()

    def _renew(self) -> float:
        """Renew the lease; return in how many seconds to do it again."""
        lane, losses = self._lane, self._link.losses
        asked = awake()
        try:
            connection = self._link.get()
            self._listen(connection)
            values = (lane.lease, lane.running(), lane.crashes, lane.life)
            found = connection.execute(self._sql["renew"], values).fetchone()
            self._hear(connection)  # what came with the answer
        except (psycopg.Error, JournalError) as error:
            self._failed(error)
            return _AGAIN
        if found is None:
            lane.lose()
            return 0.0
        lane.renewed(asked)
        if losses:
            self._link.losses = 0
            self._reconnected()
        at, soonest = found
        self._database.agree_on_time(at)
        if soonest is not None and soonest < lane.lease / 2:
            # Somebody has not renewed for a while: look when that lease ends.
            self._looks.append(monotonic() + max(0.05, soonest + 0.05))
        return lane.lease / _RENEWALS

    def _failed(self, error: Exception) -> None:
        if not is_passing(error):
            logger.error("the lease of %s cannot be renewed: %s", self._lane, error)
        if isinstance(error, psycopg.Error):
            self._link.drop()

    def _listen(self, connection: Connection) -> None:
        if connection is not self._listening and not connection.pooled:
            channel = sql.Identifier(self._database.channel)
            connection.execute(sql.SQL("LISTEN {}").format(channel), prepare=False)
            if self._thread.is_alive():
                self._wake()  # of what was put since the last connection, nobody has told us
        # A renewal that hangs must not take the time of those that follow.
        connection.limit = min(connection.limit, max(1.0, self._lane.lease / _RENEWALS))
        self._listening = connection

    def _wait(self, seconds: float) -> None:
        """Wait for a notification, for `stop`, or until *seconds* have passed."""
        connection = self._listening
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if connection is not None and not connection.closed and not connection.pooled:
            poll.register(connection.fileno(), select.POLLIN)
        ready = poll.poll(int(seconds * 1000) + 1)
        if any(fd == self._reader for fd, _ in ready):
            os.read(self._reader, 4096)
        if connection is None or not any(fd != self._reader for fd, _ in ready):
            return
        try:
            self._hear(connection)
        except psycopg.Error as error:
            self._failed(error)

    def _hear(self, connection: Connection) -> None:
        """Wake if anybody has told that something was put."""
        if list(connection.notifies(timeout=0.0)):
            self._wake()
            # Who puts more in the same moment does not tell of it again.
            self._looks.append(monotonic() + _ECHO)
