"""Journal: accepts jobs from executors, and keeps them until they have ended."""

import threading
import time
import weakref
from _thread import allocate_lock
from collections.abc import Callable, Hashable, Iterable, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self

from retryexec._typing import override
from retryexec._validate import as_float, callable_or_none, whole_number
from retryexec.journal._codec import Codec
from retryexec.journal._engine import Engine, closed
from retryexec.journal._entry import (
    DONE,
    SUCCEEDED,
    Entry,
    EntryState,
    Host,
    Outcome,
    superseded,
)
from retryexec.journal._errors import JournalError
from retryexec.journal._failures import death, failed
from retryexec.journal._ids import ids
from retryexec.journal._keys import recorded
from retryexec.journal._letters import DeadLetters
from retryexec.journal._open import Place, one_of, open_place, positive
from retryexec.journal._process import never_finalize, register
from retryexec.journal._put import Putter
from retryexec.journal._redact import Redact
from retryexec.journal._stats import JournalStats, stats_of


class Journal:
    """Keeps accepted jobs on disk until they have ended.

    A directory serves any number of processes of one host. What a process leaves when it dies,
    or when it is shut down before its jobs have ended, is run by the others, or by the next.

    Args:
        directory: made if there is none, for its owner's eyes alone; on a local disk. Or the URL
            of a PostgreSQL server, ``postgresql://user@host/database``, for processes of any
            number of hosts (extra ``postgres``).
        jobs: the classes of the jobs it keeps, each under a name that its records will bear for
            good: ``{"user_saved": SaveUser}``. A dataclass, a msgspec.Struct, or whatever else
            msgspec makes of JSON, with ``exec()``. Its ``version`` (1 if it has none) is
            that of its fields; ``upcast(version, fields)``, on the class, makes today's fields
            of older ones.
        durability: ``"power"``: what is accepted survives a power cut. ``"process"``: it
            survives the death of the process alone, and is faster.
        accept: ``"wait"``: `submit` returns when the job is on disk. ``"async"``: at once.
        max_crashes: how many processes may die while a job is at work before it is a dead letter.
            Who killed them nobody can say: if yours are killed rather than closed when you
            deploy, and your jobs take long, allow for some more. A process that closes its
            journal has not died, and for the end of the whole machine no job is blamed.
        max_bytes: the most that one job's JSON may take.
        redact: called with a kind and its fields, returns what people may see of them.
        poll: seconds between two looks for what dead processes have left.
        schema: on PostgreSQL, where the tables are; made if there is none.
        lease: on PostgreSQL, seconds for which a process may go unheard before others take over
            its jobs.
        accept_timeout: on PostgreSQL, about how many seconds `submit` waits for a server that is
            away before it raises.
        allow_network: whether to go on even on a network file system, on your word that locks and
            shared memory work there.
        wall_clock: the time of day, in seconds; for what is kept on disk, and nothing else.

    Raises:
        TypeError, ValueError: an argument cannot be right; the message names it.
        JournalError: the directory, or the server, cannot be used.
    """

    def __init__(
        self,
        directory: "str | PathLike[str]",
        *,
        jobs: Mapping[str, type],
        durability: Literal["power", "process"] = "power",
        accept: Literal["wait", "async"] = "wait",
        max_crashes: int = 3,
        max_bytes: int = 1024 * 1024,
        redact: Redact | None = None,
        poll: float = 5.0,
        schema: str = "retryexec",
        lease: float = 30.0,
        accept_timeout: float = 5.0,
        allow_network: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        power = one_of("durability", durability, "power", "process") == "power"
        waits = one_of("accept", accept, "wait", "async") == "wait"
        codec = Codec(jobs, max_bytes=whole_number("max_bytes", max_bytes, least=1))
        crashes = whole_number("max_crashes", max_crashes, least=1)
        callable_or_none("redact", redact)
        pause = positive("poll", poll)
        callable_or_none("wall_clock", wall_clock)
        if not isinstance(schema, str):
            msg = f"schema takes the name of a schema (got {schema!r})"
            raise TypeError(msg)
        place = open_place(
            directory,
            codec,
            power=power,
            max_crashes=crashes,
            allow_network=allow_network,
            wall=wall_clock,
            schema=schema,
            lease=positive("lease", lease),
            patience=positive("accept_timeout", accept_timeout),
        )
        self._set_up(place, codec, waits, pause, redact)

    def _set_up(  # for the one in memory, too
        self, place: Place, codec: Codec, waits: bool, poll: float, redact: Redact | None
    ) -> None:
        self._waits = waits
        self._place = place
        self._store = place.store
        self._codec = codec
        self._poll = poll
        self._wall = place.wall
        self._new_id, self._follow_id = ids()
        # Guards _engine and _host. Nothing is waited for while it is held.
        self._lock = threading.RLock()
        self._engine: Engine | None = None
        self._host: Host | None = None  # whoever opened it, so that a forked child can
        self._dead = place.dead_letters(codec, self.poll, redact)
        # Connections that nobody closes would complain as they are collected.
        if place.leased is not None:
            weakref.finalize(self, place.store.close)
        register(self)

    @property
    def directory(self) -> "PathLike[str]":
        """Where it is.

        Raises:
            JournalError: it is on a server.
        """
        if self._place.directory is None:
            msg = f"the journal is on {self._place.name}, and in no directory"
            raise JournalError(msg)
        return self._place.directory

    @property
    def dead(self) -> DeadLetters:
        """The jobs that finally failed."""
        return self._dead

    @property
    def engine(self) -> Engine | None:
        """What writes while the journal is open; for the tests of its inside."""
        return self._engine

    # ---- opening and closing

    def open(self, host: Host) -> None:
        """Start writing for *host*, and hand it the jobs that dead processes have left.

        Raises:
            JournalError: it is open already.
        """
        with self._lock:
            if self._engine is not None:
                msg = f"{self!r} is open already: one executor has one journal object"
                raise JournalError(msg)
            engine = self._engine = self._new_engine(host)
            self._host = host
        try:
            engine.start(take_over=True)
        except BaseException:
            self.close()
            raise

    def _new_engine(self, host: Host) -> Engine:
        return Engine(
            self._store, host, self._name, poll=self._poll, wall=self._wall, follow=self._follow_id
        )

    @property
    def _name(self) -> str:
        return self._place.name

    def close(self, timeout: float | None = None) -> bool:
        """Write down what has ended, and leave the rest to the next process that opens the journal.

        Args:
            timeout: seconds after which that is given up; what is not written down runs again.

        Returns:
            whether all is written down.
        """
        with self._lock:
            engine, self._engine = self._engine, None
            self._host = None
        ended = engine is None or engine.stop(None if timeout is None else as_float(timeout))
        if ended:
            self._store.close()
        return ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def _running_engine(self) -> Engine:
        """Return the engine; in a forked child, one of its own."""
        with self._lock:
            engine, host = self._engine, self._host
            if engine is not None:
                return engine
            if host is None:
                raise closed()
            engine = self._engine = self._new_engine(host)
            engine.start(take_over=False)
            return engine

    # ---- for executors

    def accept(
        self, job: Any, *, key: Hashable = None, latest: bool = False, make: Any = Entry
    ) -> Entry:
        """Take *job*, and return it as an entry: on disk, or, with ``accept="async"``, soon.

        Args:
            key: None for none; else a str, a number, bytes, a UUID, a date, or a tuple of such.
            latest: whether a newer job of the key replaces this one while it waits.
            make: makes the entry, as `Entry` does.

        Raises:
            TypeError: *key* would not come back as it is.
            JobRefused: it would not come back from the disk as it is.
            JournalError: it could not be written down; nothing is half accepted.
        """
        kind, data = self._codec.encode(job)
        now = self._wall()
        entry: Entry = make(self._new_id(now), job, kind.name, kind.version, data, now)
        if key is not None:
            entry.key = recorded(key, latest=latest)
        engine = self._engine or self._running_engine()
        if not self._waits:  # as _show, for each job
            engine.writer.enqueue(entry)
            if engine.writer.stopped:
                engine.writer.refuse_rest(closed())
            return entry
        try:
            self._show_and_wait(entry, engine)
        except BaseException:  # a Ctrl-C: the caller will never hear of it
            self._end(entry, DONE)
            raise
        if entry.refusal is not None:
            raise entry.refusal
        return entry

    def _show(self, entry: Entry, engine: Engine) -> None:
        engine.writer.enqueue(entry)
        if engine.writer.stopped:
            engine.writer.refuse_rest(closed())

    def _show_and_wait(self, entry: Entry, engine: Engine) -> None:
        """Return once the writer has done what is to be done for *entry*, or refused to."""
        waiter = entry.waiter = allocate_lock()
        waiter.acquire()
        self._show(entry, engine)
        waiter.acquire()
        entry.waiter = None

    @property
    def may_start(self) -> Callable[[Entry, Callable[[], bool]], bool] | None:
        """As `JobJournal` has it: None for a directory, whose locks are not lost by the living."""
        return None if self._place.leased is None else self._place.leased.may_start

    def starting(self, entry: Entry) -> None:
        """Note that an attempt of *entry* is about to start; return once it may.

        For most that is nothing. One that was at work when a process died has to be marked on
        disk first, so that the next death can be held against it, and against nobody else.
        """
        engine = self._engine
        if entry.suspect and not entry.marked and engine is not None:
            self._show_and_wait(entry, engine)

    def retrying(
        self,
        entry: Entry,
        attempts: int,
        delay: float,
        error: BaseException | None,
        *,
        elapsed: float = 0.0,
    ) -> None:
        """Note that an attempt of *entry* failed, and that the next one follows.

        Args:
            attempts: how many have failed by now.
            delay: seconds until the next.
            error: what it raised, if it raised anything.
            elapsed: seconds since the first attempt began.
        """
        entry.failures = failed(entry, attempts, delay, error, elapsed=elapsed, now=self._wall())
        entry.attempts = attempts
        engine = self._engine
        if engine is not None:  # else the job runs again, which is all there is to do
            engine.writer.enqueue(entry)

    def succeeded(self, entry: Entry) -> None:
        """Note that *entry* has done its work."""
        if entry.outcome is None and (engine := self._engine) is not None:  # as _end, for each job
            entry.outcome = DONE if entry.key is None else SUCCEEDED
            engine.writer.enqueue(entry)

    def superseded(self, entry: Entry, by: Entry) -> None:
        """Note that *by*, a newer job of the same key, has replaced *entry*.

        Whatever happens, one of them is on disk until the newer one has ended.
        """
        self._end(entry, DONE if by.state is EntryState.STORED else superseded(by))

    def cancelled(self, entry: Entry) -> None:
        """Note that *entry* was cancelled."""
        self._end(entry, DONE)

    def died(
        self, entry: Entry, reason: str, attempts: int, error: BaseException | None = None
    ) -> None:
        """Note that *entry* has finally failed: it becomes a dead letter.

        Args:
            reason: why, in a word.
            attempts: how many have failed.
            error: what the last one raised, if it raised anything.
        """
        self._end(entry, death(entry, reason, attempts, error, self._wall()))

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        engine = self._engine
        # Its first end is the one that counts, and after the close the job runs again.
        if entry.outcome is None and engine is not None:
            entry.outcome = outcome
            engine.writer.enqueue(entry)

    # ---- for those who have no executor

    def put(self, job: Any, *, connection: Any = None) -> str:
        """Write *job* down for whichever process has an executor on this journal; return its id.

        It needs no executor here, and starts no thread. In a directory, the processes find it at
        their next look (``poll``); on PostgreSQL they are told. The job has no key.

        Args:
            connection: on PostgreSQL, your own connection of psycopg: the job is part of its
                transaction, and there exactly when that is committed.

        Raises:
            JobRefused: it would not come back as it is.
            JournalError: it could not be written down.
        """
        return self.put_many([job], connection=connection)[0]

    def put_many(self, jobs: Iterable[Any], *, connection: Any = None) -> list[str]:
        """Write *jobs* down as `put` does, all or none; return their ids.

        Raises:
            JobRefused: one of them would not come back as it is.
            JournalError: they could not be written down.
        """
        return Putter(self._place, self._codec, self._new_id, self.poll).put(jobs, connection)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was said so far is on disk; False if *timeout* seconds passed."""
        engine = self._engine
        limit = None if timeout is None else as_float(timeout)
        return engine is None or engine.flush(limit)

    def poll(self) -> int:
        """Take over now what dead processes have left, and return how many jobs that is."""
        engine = self._engine
        return 0 if engine is None else engine.take_over()

    def stats(self) -> JournalStats:
        """Return how many jobs and bytes there are, and whether the journal can be written."""
        return stats_of(self._engine, len(self._dead))

    @override
    def __repr__(self) -> str:
        state = "closed" if self._engine is None else "open"
        return f"<{type(self).__name__} {self._name!r}: {state}>"

    # ---- fork

    def before_fork(self) -> None:
        """Before a fork: take all locks, so that the child inherits none that is in use."""
        self._lock.acquire()
        if self._engine is not None:
            self._engine.taking_over.acquire()
            self._engine.writer.io.acquire()
        self._store.letters.io.acquire()

    def after_fork(self) -> None:
        """In the parent, after the fork: release all locks."""
        self._store.letters.io.release()
        if self._engine is not None:
            self._engine.writer.io.release()
            self._engine.taking_over.release()
        self._lock.release()

    def in_child(self) -> None:
        """In the child, after the fork: begin anew, and leave all there is to the parent."""
        # The threads that could use the old ones are not here.
        engine, self._engine = self._engine, None
        self._store.forget_after_fork()
        self._lock = threading.RLock()
        self._new_id, self._follow_id = ids()
        if engine is not None:
            engine.forget_after_fork()
            never_finalize(engine)
