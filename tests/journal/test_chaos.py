"""Several processes accept and run jobs, and the world is against them.

They are killed and stopped at random, they fork, their clocks jump, the disk is full for a while,
files are removed under the living and damaged among the dead's. A ledger outside, appended to
by all of them, says afterwards what was accepted, run, and when.

RETRYEXEC_CHAOS is the number of seconds, a few by default; RETRYEXEC_SEED repeats the choices, as
far as that goes with processes. Where no small disk can be mounted, none gets full.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.journal_kit import Process, opened

SECONDS = float(os.environ.get("RETRYEXEC_CHAOS", "5"))
PROCESSES = 4
MEGABYTES = 24

YEAR = 365 * 86400


class Worker(Process):
    """Accepts and runs jobs until it is killed."""

    START = """\
    import os, random, sys, threading, time
    from pathlib import Path
    from helpers.journal_kit import *
    from retryexec.journal import JournalError

    offset = [random.choice((0, 0, -1, 1)) * random.uniform(0, 365 * 86400)]
    place = Path(sys.argv[1]).parents[1]
    ledger = os.open(place / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        try:
            journal, host = opened(Path(sys.argv[1]), wall_clock=lambda: time.time() + offset[0])
            break
        except JournalError:  # the disk is full
            time.sleep(0.05)

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())
    """

    SCRIPT = """
    def note(what, id):
        os.write(ledger, f"{what} {id} {os.getpid()}\\n".encode())

    def run(entry):
        note("starts", entry.id)
        host.at_work.append(entry)
        dice = random.random()
        if dice < 0.01:
            time.sleep(0.1)
        host.at_work.remove(entry)
        if dice < 0.05 and entry.attempts < 3:
            journal.retrying(entry, entry.attempts + 1, 0.0, OSError("busy"))
            note("fails", entry.id)
            return run(entry)
        if dice < 0.07:
            note("dies", entry.id)
            journal.died(entry, "permanent", entry.attempts + 1)
        else:
            note("ends", entry.id)
            journal.succeeded(entry)

    def recovered():
        while True:
            run(host._arrivals.get())

    def submit():
        n = 0
        while True:
            n += 1
            try:
                entry = journal.accept(Save("x" * random.choice((1, 10, 1000)), n))
            except JournalError:
                note("refused", "-")
                time.sleep(0.01)
                continue
            note("accepted", entry.id)
            if random.random() < 0.001:
                continue  # it is never run here
            run(entry)

    def adopt():
        while True:
            time.sleep(0.05)
            try:
                journal.poll()
                journal._engine.poll()
            except Exception as error:
                note("troubled", type(error).__name__)
            if random.random() < 0.05:
                offset[0] += random.uniform(-1, 1) * 365 * 86400

    def fork():
        while True:
            time.sleep(random.uniform(0.2, 2.0))
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
                continue
            try:
                for n in range(random.randrange(3)):
                    entry = journal.accept(Save("child", n))
                    note("accepted", entry.id)
                note("forked", "-")
            finally:
                os.kill(os.getpid(), 9)

    say("up")
    for target in (recovered, submit, submit, adopt, fork):
        threading.Thread(target=target, daemon=True).start()
    threading.Event().wait()
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, self.SCRIPT, wait=False)
        self.pid = str(self.popen.pid)
        self.until("up")


class Told(NamedTuple):
    """What the ledger says."""

    accepted: set[str]
    ended: set[str]
    died: set[str]
    runs: Counter[str]
    events: Counter[str]
    overlaps: list[str]  # starts of a job that was at work in a living process


def read(ledger: Path) -> Told:
    told = Told(set(), set(), set(), Counter(), Counter(), [])
    at_work: dict[str, str] = {}
    gone: set[str | None] = {None}
    for line in ledger.read_text().splitlines():
        what, job, pid = line.split()
        told.events[what] += 1
        if what == "killed":
            gone.add(pid)
        elif what == "accepted":
            told.accepted.add(job)
        elif what == "starts":
            if at_work.get(job) not in gone | {pid}:
                told.overlaps.append(line)
            at_work[job] = pid
            told.runs[job] += 1
        elif what in {"fails", "ends", "dies"}:
            at_work.pop(job, None)
            if what != "fails":
                (told.died if what == "dies" else told.ended).add(job)
    return told


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """Mount a small disk at *place*, if that is allowed; say whether it was."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(place)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
        mounted = done.returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


class World:
    """What happens to the processes."""

    def __init__(self, place: Path, ledger: Path, full: bool) -> None:
        self.directory = place / "journal"
        self.chance = random.Random(int(os.environ.get("RETRYEXEC_SEED", "1")))
        self.processes: list[Worker] = []
        self.done: Counter[str] = Counter()
        self.excused: set[str] = set()  # jobs that were in a file we damaged
        self._place = place
        self._ledger = ledger
        self._acts = {self.kill: 10, self.stop: 4, self.remove: 1, self.damage: 1}
        if full:
            self._acts[self.fill] = 1

    def start(self) -> None:
        for _ in range(PROCESSES):
            self.processes.append(Worker(self.directory))

    def act(self) -> None:
        (act,) = self.chance.choices([*self._acts], [*self._acts.values()])
        act()
        self.done[act.__name__] += 1

    def _one(self) -> Worker:
        return self.chance.choice(self.processes)

    def end(self, victim: Worker) -> None:
        with self._ledger.open("a") as file:
            file.write(f"killed - {victim.pid}\n")
        victim.kill()
        self.processes.remove(victim)

    def kill(self) -> None:
        self.end(self._one())
        self.processes.append(Worker(self.directory))

    def stop(self) -> None:
        victim = self._one()
        victim.popen.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.05, 0.3))
        victim.popen.send_signal(signal.SIGCONT)

    def fill(self) -> None:
        """Leave no room on the disk for a while."""
        filler = self._place / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            for _ in range(MEGABYTES * 16):
                file.write(bytes(65536))
        time.sleep(self.chance.uniform(0.05, 0.5))
        filler.unlink()

    def _files_of(self, victim: Worker) -> list[Path]:
        found = []
        for path in self.directory.glob("*.lock"):
            with suppress(OSError):
                if path.read_text().split()[:1] == [victim.pid]:
                    found.append(path.with_suffix(".db"))
        return found

    def remove(self) -> None:
        """Take a file from a living process, which has all that was in it in memory."""
        victim = self._one()
        for database in self._files_of(victim)[:1]:
            held = ids_in(database)
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    Path(f"{database}{suffix}").unlink()
            # It finds out at its next commit; nobody is killed before.
            until = time.monotonic() + 10
            while not any(path != database and path.exists() for path in self._files_of(victim)):
                if time.monotonic() > until:
                    self.excused |= held
                    break
                time.sleep(0.02)
            time.sleep(0.2)

    def damage(self) -> None:
        """Write something over a page of a dead process's file."""
        victim = self._one()
        files = self._files_of(victim)
        self.end(victim)
        for database in files[:1]:
            self.excused |= ids_in(database)
            with suppress(OSError), database.open("r+b") as file:
                size = database.stat().st_size
                file.seek(self.chance.randrange(max(1, size // 4096)) * 4096)
                file.write(os.urandom(4096))
        self.processes.append(Worker(self.directory))


def ids_in(database: Path) -> set[str]:
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql,
    ):
        return {name for (name,) in sql.execute("SELECT id FROM job")}
    return set()


def finish(directory: Path, ledger: Path) -> tuple[int, set[str]]:
    """Run what is left; return how many jobs that was, and the ids of the dead letters."""
    journal, host = opened(directory)
    left = 0
    while journal.poll() or journal.stats().unfinished:
        while not host._arrivals.empty():
            entry = host.next()
            with ledger.open("a") as file:
                file.write(f"starts {entry.id} 0\nends {entry.id} 0\n")
            journal.succeeded(entry)
            left += 1
        assert journal.flush(10)
    dead = {letter.id for letter in journal.dead}
    journal.close()
    return left, dead


@pytest.mark.slow("goes on for RETRYEXEC_CHAOS seconds, five by default")
@pytest.mark.timeout(SECONDS * 3 + 120)
def test_processes_killed_at_random(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with small_disk(tmp_path / "disk") as full:
        world = World(tmp_path / "disk", ledger, full)
        try:
            world.start()
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                time.sleep(world.chance.uniform(0.02, 0.3))
                world.act()
        finally:
            for process in [*world.processes]:
                world.end(process)
        left, dead = finish(world.directory, ledger)
        names = {path.name for path in world.directory.iterdir() if ".corrupt-" not in path.name}
        with closing(sqlite3.connect(world.directory / "dead.db")) as sql:
            whole = sql.execute("PRAGMA integrity_check").fetchone()

    told = read(ledger)
    crashed = dead - told.died  # suspected once too often
    again = sum(n - 1 for n in told.runs.values())
    lost = told.accepted - told.ended - dead
    print(  # noqa: T201  for whoever runs it with -s
        f"\n{dict(world.done)}, {told.events['forked']} forks, {told.events['refused']} refused, "
        f"{told.events['troubled']} troubled\n"
        f"{len(told.accepted)} accepted, {len(lost - world.excused)} lost "
        f"(and {len(lost & world.excused)} of {len(world.excused)} in damaged files), "
        f"{len(told.overlaps)} at the same time, {again} attempts after a first, "
        f"{len(dead)} dead ({len(crashed)} by crashes), {left} left at the end"
    )
    assert sum(world.done.values()) > 2
    assert len(told.accepted) > 100
    assert lost <= world.excused, "lost"
    assert told.overlaps == []
    # The dead letters are all that is left, and whole: a journal that some process had only begun
    # to write stays until the next one writes.
    assert names <= {"dead.db", "dead.db-journal"}
    assert whole == ("ok",)
