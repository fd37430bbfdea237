"""Power cuts at every step of random workloads.

RETRYEXEC_POWER is the number of states, five hundred by default; RETRYEXEC_SEED the first
workload. Checkpoints come after fewer pages than in earnest, to have some.
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.journal_kit import JOBS, FakeHost, Save, crash, memory
from helpers.power_cut import Disk, State, states

from retryexec.journal import Entry, Journal
from retryexec.journal._codec import Codec
from retryexec.journal._directory import Directory, Lock
from retryexec.journal._file import JournalFile
from retryexec.journal._sqlite_store import SQLiteStore

STATES = int(os.environ.get("RETRYEXEC_POWER", "500"))
SEED = int(os.environ.get("RETRYEXEC_SEED", "1"))

CODEC = Codec(JOBS, max_bytes=10**6)
SHARE = 0.3  # of a workload's states that are looked at: rather more workloads

# Where a job may be.
LIVE, DEAD, OVER = "live", "dead", "over"


@dataclass
class Story:
    """What was asked and promised of a job, each time with how much of the log was through.

    A wish is told before it is uttered, and widens where the job may be from then on; a promise
    is told after it was given, and narrows it.
    """

    places: list[tuple[int, set[str]]] = field(default_factory=list)
    attempts: list[tuple[int, int]] = field(default_factory=list)

    def may_be(self, step: int) -> set[str]:
        return next((where for told, where in reversed(self.places) if told <= step), {OVER})

    def tried(self, step: int) -> int:
        return next((n for told, n in reversed(self.attempts) if told <= step), 0)


class Workload:
    """A journal at work on a remembering disk, doing this and that."""

    def __init__(self, directory: Path, disk: Disk, seed: int, durability: Any) -> None:
        self.disk = disk
        self.stories: dict[str, Story] = {}
        self._chance = random.Random(seed)
        self._live: dict[str, Entry] = {}
        self._dead: list[str] = []
        self._wishes: dict[str, str] = {}  # where ended jobs will be when all is on disk
        self._retried: dict[str, int] = {}
        self._count = 0
        self._journal = Journal(
            directory,
            jobs=JOBS,
            durability=durability,
            accept="async",
            poll=3600,
            max_crashes=10**6,
        )
        self._host = FakeHost()
        self._journal.open(self._host)

    def run(self, steps: int) -> None:
        acts = {
            self.accept: 6,
            self.end: 8,
            self.retry: 4,
            self.die: 5,
            self.flush: 4,
            self.rerun: 3,
            self.checkpoint: 1,
            self.crash: 1,
            self.reopen: 1,
        }
        for act in self._chance.choices([*acts], [*acts.values()], k=steps):
            act()
        self.flush()
        self._journal.close()

    def _told(self, name: str, *places: str) -> None:
        self.stories[name].places.append((len(self.disk.log), set(places)))

    def accept(self) -> None:
        before, entries = len(self.disk.log), []
        for _ in range(self._chance.choice((1, 1, 3, 40))):
            self._count += 1
            text = "x" * self._chance.choice((1, 10, 10, 100, 3000))
            entries.append(self._journal.accept(Save(text, self._count)))
        for entry in entries:
            self.stories[entry.id] = Story([(before, {OVER, LIVE})])
            entry.accepted.result(10)
            self._told(entry.id, LIVE)
            self._live[entry.id] = entry

    def end(self) -> None:
        for _ in range(self._chance.choice((1, 1, 5, 30))):
            for entry in self._some():
                self._told(entry.id, LIVE, OVER)
                self._wishes[entry.id] = OVER
                self._chance.choice((self._journal.succeeded, self._journal.cancelled))(entry)

    def die(self) -> None:
        for entry in self._some():
            self._told(entry.id, LIVE, DEAD)
            self._wishes[entry.id] = DEAD
            self._journal.died(entry, "permanent", entry.attempts + 1, OSError("no"))

    def _some(self) -> Iterator[Entry]:
        """Take one of the living, if there are any."""
        if self._live:
            yield self._live.pop(self._chance.choice([*self._live]))

    def retry(self) -> None:
        if self._live:
            entry = self._live[self._chance.choice([*self._live])]
            self._journal.retrying(entry, entry.attempts + 1, 60.0, OSError("busy"))
            self._retried[entry.id] = entry.attempts

    def flush(self) -> None:
        assert self._journal.flush(30)
        for name, attempts in self._retried.items():
            self.stories[name].attempts.append((len(self.disk.log), attempts))
        for name, place in self._wishes.items():
            self._told(name, place)
            if place == DEAD:
                self._dead.append(name)
        self._wishes.clear()
        self._retried.clear()

    def rerun(self) -> None:
        self.flush()
        if self._dead:
            name = self._dead.pop(self._chance.randrange(len(self._dead)))
            self.stories[name].attempts.append((len(self.disk.log), 0))
            self._told(name, DEAD, LIVE)
            self._journal.dead.rerun(name)
            self._told(name, LIVE)
            self._live[name] = next(e for e in reversed(self._host.recovered) if e.id == name)

    def checkpoint(self) -> None:
        assert self._journal._engine is not None
        engine = self._journal._engine
        engine.writer.command(engine.lanes.truncate_logs)
        self.flush()

    def crash(self) -> None:
        crash(self._journal, [connection.let_go for connection in self.disk.connections])
        self._again()

    def reopen(self) -> None:
        self.flush()
        expected = {*self._live}
        self._journal.close()
        self._again()
        assert {*self._live} == expected

    def _again(self) -> None:
        """Open the journal again, and take for true what is found there."""
        self.disk.connections.clear()
        self._host = FakeHost()
        self._journal.open(self._host)
        assert self._journal.flush(30)
        assert self._journal._engine is not None
        files = self._journal._engine.lanes.all()
        self._live = {entry.id: entry for file in files for entry in file.live.values()}
        self._dead = sorted(letter.id for letter in self._journal.dead)
        for name in {*self._wishes, *self._live}:
            place = LIVE if name in self._live else DEAD if name in self._dead else OVER
            assert place in self.stories[name].may_be(len(self.disk.log))
            self._told(name, place)
        self._wishes.clear()
        self._retried.clear()


def played(directory: Path, seed: int, durability: Any, steps: int = 40) -> Workload:
    """Run a workload in *directory*, and return it with its log."""
    chance = random.Random(seed)
    disk = Disk(chance.choice((5, 20, 1000)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retryexec.journal._sqlite.connect", disk.connect)
        sync, remove = Directory.sync, Lock.remove

        def synced(self: Directory) -> None:
            sync(self)
            disk.note("dirsync", "")

        def removed(self: Lock) -> None:
            remove(self)
            for suffix in (".db", ".db-wal", ".db-shm"):
                disk.note("delete", self.path.with_suffix(suffix))

        patch.setattr(Directory, "sync", synced)
        patch.setattr(Lock, "remove", removed)
        workload = Workload(directory, disk, seed, durability)
        workload.run(steps)
    return workload


class Found(NamedTuple):
    """What the next process makes of a state."""

    live: dict[str, int]  # attempts so far
    dead: set[str]


def recovered(directory: Path, *, power: bool) -> Found:
    """Adopt what is in *directory*, as a journal that is opened does."""
    place = Directory(directory)
    store = SQLiteStore(place, CODEC, power=False, max_crashes=10**6, wall=lambda: 0.0)
    live: dict[str, int] = {}
    seen: set[str] = set()
    while (taken := store.take(seen, set())) is not None:
        assert isinstance(taken.lane, JournalFile)
        for entry in taken.lane.live.values():
            # At "process" the old row of a letter that was rerun may be back after a power cut.
            assert entry.id not in live or not power, "it is in two files"
            live[entry.id] = entry.attempts
        taken.lane.close()
    assert not list(directory.glob("*corrupt*"))
    rows = store.letters.read(lambda sql: sql.execute("SELECT id FROM dead").fetchall(), [])
    for path in directory.glob("*.db"):
        with closing(sqlite3.connect(path)) as sql:
            assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return Found(live, {name for (name,) in rows})


def check(stories: dict[str, Story], state: State, found: Found, *, power: bool) -> int:
    """Compare what was *found* with the stories; return how many accepted jobs are missing."""
    # At "process" the old row of a letter may be back that was rerun elsewhere, and died again.
    assert not (power and found.live.keys() & found.dead), "both dead and alive"
    assert found.live.keys() | found.dead <= stories.keys()
    missing = 0
    for name, story in stories.items():
        place = LIVE if name in found.live else DEAD if name in found.dead else OVER
        if not power:
            missing += place not in story.may_be(state.step)
            continue
        assert place in story.may_be(state.step), (name, story)
        if place == LIVE:
            assert found.live[name] >= story.tried(state.step), (name, story)
    return missing


def cut_everywhere(enough: int, *, durability: str) -> tuple[int, int, int]:
    """Check *enough* states; return how many, of how many workloads, and with jobs missing."""
    total = missing = 0
    for seed in count(SEED):  # pragma: no branch
        with tempfile.TemporaryDirectory(dir=memory()) as name:
            workload = played(Path(name), seed, durability)
        told = {step for story in workload.stories.values() for step, _ in story.places}
        chance = random.Random(seed)
        for state in states(workload.disk.log, chance, told=told):
            if chance.random() > SHARE:
                continue
            with tempfile.TemporaryDirectory(dir=memory()) as name:
                state.write(Path(name))
                try:
                    found = recovered(Path(name), power=durability == "power")
                    lost = check(workload.stories, state, found, power=durability == "power")
                except Exception as error:
                    error.add_note(f"seed {seed}, step {state.step}: {state.how} was on disk")
                    raise
            total += 1
            missing += bool(lost)
            if total >= enough:
                return total, seed - SEED + 1, missing
    raise AssertionError


@pytest.mark.slow("hundreds of states of the disk, each opened by SQLite and by a journal")
@pytest.mark.timeout(60 + STATES * 2 // 5)
def test_power_loss_at_power_durability() -> None:
    """At "power" nothing is lost or done again that was promised not to be; all files are whole."""
    total, workloads, _ = cut_everywhere(STATES, durability="power")
    print(f"{total} states of {workloads} workloads, none with a loss")  # noqa: T201


@pytest.mark.slow("a hundred states of the disk, each opened by SQLite and by a journal")
@pytest.mark.timeout(60 + STATES * 2 // 5)
def test_power_loss_at_process_durability() -> None:
    """At "process" the latest may be lost, and does get lost: so this does cut the power."""
    total, workloads, missing = cut_everywhere(STATES // 4, durability="process")
    print(f"{total} states of {workloads} workloads, {missing} with a loss")  # noqa: T201
    assert missing
