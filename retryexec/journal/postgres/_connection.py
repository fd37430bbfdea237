"""Connections to the database of a journal: how they are made, and what their errors mean.

No thread waits for a server without limit. The sockets have limits of their own, and every
statement has one here too, for a server that is stopped while its sockets are alive.
"""

import random
import time
from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.abc import PQGen

from retryexec._typing import override
from retryexec.journal._errors import JournalError
from retryexec.journal.postgres import _arrays

T = TypeVar("T")

OLDEST = 13
"""The first version of PostgreSQL with all that is needed (``xid8``, generic plans)."""

_AGREED = 0.5  # seconds

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between two tries to connect

# Every statement here has one good plan. A plan from the statistics of a table that was empty
# then is a bad one for years, so nothing is left to them.
_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    # For how long the server keeps the session of a client that has vanished without a word, with
    # the locks of a transaction that it had half sent. By itself it would do so for two hours.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}


class Away(JournalError, OSError):
    """The server cannot be reached, or has not answered in time."""


class Connection(psycopg.Connection[Any]):
    """A connection whose statements take no longer than `limit` seconds.

    Attributes:
        limit: seconds for one statement, or one pipeline of them.
        pooled: whether there is a pooler in between, such as pgbouncer. It may give each
            transaction another session, so that nothing can be set for one, nor heard by it.
        began: identifies the session, with its process id: when it began.
    """

    limit: float = 30.0
    pooled: bool = False
    session: tuple[int, str] = (0, "")

    @override
    def wait(self, gen: "PQGen[T]", interval: float = 0.1, timeout: float | None = None) -> T:
        if timeout is not None:  # for notifications, which nobody has to send
            return super().wait(gen, interval, timeout)
        return super().wait(_limited(gen, monotonic() + self.limit), interval)


def _limited(gen: "PQGen[T]", due: float) -> "Generator[Any, Any, T]":
    """Do as *gen*, and raise if it is not done when it is *due*."""
    try:
        wish = next(gen)
        while True:
            ready = yield wish
            if not ready and monotonic() > due:
                msg = "the server did not answer in time"
                raise psycopg.OperationalError(msg)
            wish = gen.send(ready)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class Database:
    """Where a journal is: makes connections to it.

    Args:
        url: as libpq has it.
        schema: the schema of the journal's tables.
        patience: seconds after which a statement, or a try to connect, is given up.
        power: whether a commit is to survive a power cut.

    Attributes:
        name: the URL without its password.
        channel: where it is told that something was put.
        offset: seconds that the server's clock is ahead of this host's.
    """

    def __init__(self, url: str, schema: str, *, patience: float, power: bool) -> None:
        self.schema = schema
        self.patience = patience
        self._power = power
        self.offset = 0.0
        try:
            parts = conninfo.conninfo_to_dict(url)
        except psycopg.Error as error:
            msg = (
                f"this is not a URL of PostgreSQL, as postgresql://user@host:5432/database: {error}"
            )
            raise ValueError(msg) from None
        self.name = _without_password(parts)
        self.channel = f"retryexec {schema}"[:63]
        milliseconds = max(1000, int(patience * 1000))
        defaults: dict[str, Any] = {
            "application_name": "retryexec",
            "client_encoding": "UTF8",
            "connect_timeout": max(2, round(patience)),
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": milliseconds,
        }
        if "," in str(parts.get("host", "")):
            defaults["target_session_attrs"] = "read-write"
        self._conninfo = conninfo.make_conninfo("", **{**defaults, **parts})

    def connect(self) -> Connection:
        """Return a new connection.

        Raises:
            JournalError: with what is wrong, and the way out; `Away` if it may pass.
        """
        try:
            made = Connection.connect(self._conninfo, autocommit=True, prepare_threshold=0)
        except psycopg.Error as error:
            raise self._unreachable(error) from error
        try:
            self._prepare(made)
        except BaseException as error:
            made.close()
            if isinstance(error, psycopg.Error):
                raise self.explained(error) from error
            raise
        return made

    def _prepare(self, made: Connection) -> None:
        made.limit = self.patience
        _arrays.register(made)
        if made.info.server_version < OLDEST * 10000:
            version = made.info.server_version / 10000
            msg = f"{self.name} is PostgreSQL {version:.1f}, and a journal needs {OLDEST} or newer"
            raise JournalError(msg)
        (found,) = made.execute(
            "SELECT pg_backend_pid(), extract(epoch from clock_timestamp())::float8,"
            " pg_is_in_recovery(), current_setting('server_encoding'),"
            " current_setting('synchronous_commit'),"
            " (SELECT backend_start::text FROM pg_stat_activity WHERE pid=pg_backend_pid())",
            prepare=False,
        )
        pid, at, standby, encoding, commit, began = found
        self.agree_on_time(at)
        if standby:
            msg = f"{self.name} is a standby, which cannot be written to: name the primary"
            raise Away(msg)
        if encoding != "UTF8":
            msg = (
                f"the database of {self.name} is encoded in {encoding}, and a journal needs UTF8: "
                "make another one, with ENCODING 'UTF8'"
            )
            raise JournalError(msg)
        # A pooler makes up the process id that it tells its clients.
        made.pooled = pid != made.info.backend_pid
        made.session = (pid, str(began))
        if made.pooled:
            made.prepare_threshold = None
            return
        settings = dict(_SETTINGS)
        if not self._power:
            settings["synchronous_commit"] = "off"
        elif commit == "off":
            settings["synchronous_commit"] = "on"
        calls = ",".join("set_config(%s,%s,false)" for _ in settings)
        values = [part for pair in settings.items() for part in pair]
        made.execute(f"SELECT {calls}".encode(), values, prepare=False)

    def end_session(self, fresh: Connection, session: tuple[int, str]) -> None:
        """By a *fresh* connection, end a lost *session*: what it was told it must not do later."""
        if not fresh.pooled:
            # From version 14 on it waits until the other one has ended.
            wait = ",1000" if fresh.info.server_version >= 140000 else ""
            fresh.execute(
                f"SELECT pg_terminate_backend(pid{wait}) FROM pg_stat_activity"  # noqa: S608
                " WHERE pid=%s AND backend_start::text=%s AND usename=current_user",
                session,
                prepare=False,
            )

    def agree_on_time(self, at: float) -> None:
        """Note that it is *at* now, by the server's clock."""
        offset = at - time.time()
        # Two clocks that agree as well as clocks do are best left alone: the answer took its time.
        self.offset = offset if abs(offset) > _AGREED else 0.0

    # ---- errors

    def _unreachable(self, error: psycopg.Error) -> JournalError:
        text = " ".join(str(error).split())
        lower = text.lower()
        if "password" in lower:
            return JournalError(
                f"the password for {self.name} is wrong or missing: give it in the URL, in "
                f"PGPASSWORD or in ~/.pgpass ({text})"
            )
        if "pg_hba.conf" in lower or "authentication failed" in lower:
            return JournalError(f"{self.name} does not let this role in: {text}")
        if "does not exist" in lower:
            return JournalError(
                f"{self.name} has no such database or role: create it, or mend the URL ({text})"
            )
        return Away(f"{self.name} cannot be reached: {text}")

    def explained(self, error: psycopg.Error) -> JournalError:
        """Return *error* as what users hear."""
        text = " ".join(str(error).split())
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return JournalError(
                f"the role of {self.name} may not do what the journal needs ({text}): it needs "
                f'USAGE on the schema "{self.schema}", SELECT, INSERT, UPDATE and DELETE on its '
                "tables, and USAGE on its sequences; to make the schema, CREATE on the database; "
                "to look only, USAGE on the schema and SELECT on its tables"
            )
        if is_passing(error):
            return Away(f"{self.name} cannot be reached: {text}")
        return JournalError(f"{self.name}: {text}")


class Link:
    """A connection that is made when it is needed, and again when it was lost.

    For one thread at a time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self._lost: tuple[int, str] | None = None  # the session that may still be at work
        self.losses = 0

    def get(self) -> Connection:
        """Return the connection.

        Raises:
            JournalError: there is none to be had; `Away` if it may pass.
        """
        made = self._connection
        if made is not None and not made.closed:
            return made
        if monotonic() < self._not_before:
            msg = f"{self._database.name} cannot be reached"
            raise Away(msg)
        try:
            made = self._database.connect()
            if self._lost is not None:
                self._database.end_session(made, self._lost)
        except (JournalError, psycopg.Error):
            self._pause = min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
            self._not_before = monotonic() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311
            raise
        self._connection, self._pause, self._lost = made, 0.0, None
        return made

    def drop(self) -> None:
        """Have done with a connection that has failed; the next one ends its session first."""
        made, self._connection = self._connection, None
        if made is not None:
            self.losses += 1
            self._lost = made.session
            made.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        made, self._connection = self._connection, None
        if made is not None:
            made.close()

    def forget_after_fork(self) -> None:
        """In a forked child: leave the socket to the parent."""
        if self._connection is not None:
            _never_closed.append(self._connection)
        self._connection, self._lost = None, None


_never_closed: list[Connection] = []  # the parent's, in a child


def is_passing(error: BaseException) -> bool:
    """Return whether *error* is about the connection or the server's state, and may pass."""
    if isinstance(error, Away):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:  # not from the server
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    # Connections, resources, locks, deadlocks, shutdowns and time limits.
    return state[:2] in {"08", "40", "53", "55", "57"} or state in {"25006", "25P03"}


def _without_password(parts: dict[str, Any]) -> str:
    user = f"{parts['user']}@" if parts.get("user") else ""
    host = str(parts.get("host") or parts.get("hostaddr") or "")
    port = f":{parts['port']}" if parts.get("port") else ""
    database = parts.get("dbname", "")
    if host.startswith("/"):
        return f"postgresql://{user}{port}/{database}?host={host}"
    return f"postgresql://{user}{host}{port}/{database}"
