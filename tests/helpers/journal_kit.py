"""What the journal's tests share: jobs, a host that does nothing by itself, a killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from helpers import TESTS
from retryexec.journal import Entry, Journal
from retryexec.journal._engine import Engine
from retryexec.journal._file import JournalFile


@dataclass(frozen=True)
class Save:
    email: str
    n: int = 0

    def exec(self) -> None:
        """The tests run nothing."""


@dataclass
class Call:
    url: str
    tags: list[str] = field(default_factory=list)

    def exec(self) -> None:
        """The tests run nothing."""


JOBS: dict[str, type] = {"save": Save, "call": Call}


class FakeHost:
    """An executor that runs nothing: it keeps what it is given, and says what it is told to."""

    def __init__(self) -> None:
        self.recovered: list[Entry] = []
        self.hands: list[Sequence[Entry]] = []  # each time it was handed something
        self.at_work: list[Entry] = []
        self.lost: list[Entry] = []  # what another process runs
        self.journal: Any = None
        self._arrivals: SimpleQueue[Entry] = SimpleQueue()

    def recover(self, entries: Sequence[Entry]) -> None:
        self.hands.append(entries)
        self.recovered.extend(entries)
        for entry in entries:
            self._arrivals.put(entry)

    def moved(self, entries: Sequence[Entry]) -> None:
        self.lost.extend(entries)

    def running(self) -> Iterable[Entry]:
        return list(self.at_work)

    def next(self) -> Entry:
        """Return the next recovered entry, waiting for it, about to start."""
        entry = self._arrivals.get(timeout=10)
        if entry.suspect:
            self.journal.starting(entry)
        return entry

    @property
    def jobs(self) -> list[Any]:
        return [entry.job for entry in self.recovered]


def opened(directory: Path, **options: Any) -> tuple[Journal, FakeHost]:
    """Return an open journal that looks for the dead only when it is asked to."""
    host = FakeHost()
    journal = host.journal = Journal(directory, **{"jobs": JOBS, "poll": 3600, **options})
    journal.open(host)
    return journal, host


def left_by(directory: Path, **options: Any) -> list[Any]:
    """Return the jobs that the next process finds in *directory*, which stay there."""
    journal, host = opened(directory, **options)
    assert journal.flush(10)
    journal.close()
    return host.jobs


def die(journal: Journal, *jobs: Any) -> list[str]:
    """Let *jobs* fail for good, one after the other; return their ids."""
    ids = []
    for job in jobs:
        entry = journal.accept(job)
        try:
            raise ConnectionError(f"no {job}")
        except ConnectionError as error:
            journal.died(entry, "max_attempts", 3, error)
        assert journal.flush(10)
        ids.append(entry.id)
    return ids


class Process:
    """A process with an open journal, which runs a script and then waits to be killed."""

    START = """\
    import os, sys, threading
    from pathlib import Path
    from helpers.journal_kit import *
    journal, host = opened(Path(sys.argv[1]))

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    def wait_to_be_killed():
        say("ready")
        sys.stdin.read()

    """

    def __init__(self, directory: Path, script: str, wait: bool = True) -> None:
        source = textwrap.dedent(self.START) + textwrap.dedent(script)
        if wait:
            source += "\nwait_to_be_killed()\n"
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHONFAULTHANDLER": "1"},
        )
        self.lines: list[str] = []
        if wait:
            self.until("ready")

    def until(self, word: str) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.decode().strip())
            if self.lines[-1] == word:
                return
        raise AssertionError(f"{word!r} was never said, but {self.lines}")

    def kill(self) -> list[str]:
        """Kill it as nobody can prepare for; return what it had said."""
        self.popen.send_signal(signal.SIGKILL)
        return self.end()

    def end(self) -> list[str]:
        """Let it come to its end, and return what it has said.

        Where that takes longer than the test may, it says where its threads are.
        """
        try:
            out, _ = self.popen.communicate()
        except BaseException:
            with self.popen:
                self.popen.send_signal(signal.SIGABRT)
            raise
        return self.lines + out.decode().splitlines()


def killed(directory: Path, script: str) -> list[str]:
    """Run *script* with an open journal, kill the process, and return what it had said."""
    return Process(directory, script).kill()


def crash(journal: Journal, let_go: Iterable[Callable[[], object]] | None = None) -> None:
    """Let *journal* end as with its process, between two transactions: what it had not begun
    to write is not written, and its locks are free.

    Args:
        let_go: closes its connections in ways of its own; by default they are just closed.
    """
    engine = _cut_off(journal)
    for close in let_go or ():
        close()
    for file in engine.lanes.all():
        assert isinstance(file, JournalFile)
        if let_go is None:
            file.sql.close()
        file.lock.release()


def _cut_off(journal: Journal) -> Engine:
    """End the threads of *journal* between two transactions, and return what is left of it."""
    engine = journal._engine
    assert engine is not None
    journal._engine = journal._host = None
    writer = engine.writer

    def stop() -> None:
        writer.stopped = True

    engine.stopping = True
    with engine.taking_over, writer.io:
        writer.rest()
        writer.command(stop)
    engine.tasks.put(None)
    writer.thread.join()
    engine.runner.join()
    return engine


def crash_on_server(journal: Journal) -> int:
    """Let a *journal* on PostgreSQL end as with its process, just after it renewed its lease.

    Return the number of its life, whose lease has still to run out.
    """
    engine = _cut_off(journal)
    lane = journal._store.new_lane()
    lane._mark(lane._link)
    engine.lanes.own = None
    lane.abandon()
    journal._store.close()
    life: int = lane.life
    return life


def settled(journal: Journal) -> bool:
    """Let the tasks that are waiting be done; return whether no suspect is still to come."""
    engine, done = journal._engine, threading.Event()
    assert engine is not None
    assert journal.flush(20)
    engine.tasks.put(done.set)
    assert done.wait(20)
    assert journal.flush(20)  # a takeover, which is a task, leaves the turns to the writer
    return not any(lane.suspects or lane.turn for lane in engine.lanes.all())


def memory() -> Path | None:
    """Return a place for files where syncs cost nothing, if there is one."""
    place = Path("/dev/shm")  # noqa: S108
    return place if os.access(place, os.W_OK) else None
