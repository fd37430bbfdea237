"""The life of accepted jobs against a model of it, through crashes, adoptions and clock jumps.

Two processes share the directory of a journal, as two journals of this one; a `MemoryJournal` has
but one. What was said and not flushed when one crashes may be on disk or not, and from then on the
model takes what it finds.
"""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar

import pytest
from helpers.journal_kit import JOBS, FakeHost, Save, crash, crash_on_server, memory
from helpers.postgres import Schema, Server
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from retryexec.journal import Entry, Journal, JournalError, MemoryJournal

YEAR = 365 * 86400.0
LIVE, DEAD, OVER = "live", "dead", "over"
MAX_CRASHES = 3

# To make a failure small takes minutes: RETRYEXEC_SHRINK=1 when there is one.
PHASES = [
    phase for phase in Phase if phase is not Phase.shrink or os.environ.get("RETRYEXEC_SHRINK")
]


@dataclass
class Past:
    attempts: int = 0
    delay: float = 0.0
    due_at: float = 0.0
    first_at: float | None = None


@dataclass
class Known:
    """What the model knows of a job."""

    n: int
    places: set[str] = field(default_factory=lambda: {LIVE})
    pasts: list[Past] = field(default_factory=lambda: [Past()])  # more than one: either of them
    blame: int = 0  # crashes of a process that was running it
    key: str | None = None
    latest: bool = False
    replaced: bool = False  # a takeover may forget it, for a newer one of its key


class Side:
    """One process: a journal, or what is left of it."""

    def __init__(self, journal: Any) -> None:
        self.journal = journal
        self.host = FakeHost()
        self.open = False
        self.hands: dict[str, Entry] = {}  # what it may work on
        self.seen = 0
        self.wishes: dict[str, str] = {}  # ended, and where to; not flushed yet
        # By successes that are not flushed yet: letters that are stale after that.
        self.outdated: dict[str, set[str]] = {}


class TwoProcesses(RuleBasedStateMachine):
    """The SQLite journal."""

    sides_count = 2

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000_000.0
        self.known: dict[str, Known] = {}
        self.count = 0
        self.sides: list[Side] = []
        self.just_read = False
        self.successes: set[tuple[str, str]] = set()  # keys and ids

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=memory())
        self.sides = [Side(self.make()) for _ in range(self.sides_count)]
        for side in self.sides:
            self.opened(side)

    def make(self) -> Any:
        return Journal(
            self.directory.name,
            jobs=JOBS,
            wall_clock=lambda: self.time,
            poll=3600,
            max_crashes=MAX_CRASHES,
        )

    # ---- what they do

    side = st.integers(0, 1)
    pick = st.integers(0, 10**6)

    def at(self, number: int) -> Side:
        return self.sides[number % len(self.sides)]

    def one(self, number: int, pick: int) -> tuple[Side, Entry | None]:
        side = self.at(number)
        names = sorted(side.hands)
        return side, side.hands[names[pick % len(names)]] if names else None

    def some_open(self) -> bool:
        return any(side.open for side in self.sides)

    @rule(
        number=side,
        count=st.integers(1, 3),
        key=st.sampled_from((None, "a", "a", "b")),
        latest=st.booleans(),
        replaces=st.booleans(),
    )
    def accept(
        self, number: int, count: int, key: str | None, latest: bool, replaces: bool
    ) -> None:
        side = self.at(number)
        if not side.open:
            return
        for _ in range(count):
            self.count += 1
            entry = side.journal.accept(Save("", self.count), key=key, latest=latest)
            assert entry.id not in self.known
            if key is not None and latest:
                for known in self.known.values():  # whoever has taken them over since
                    known.replaced = known.replaced or (known.latest and known.key == key)
            self.known[entry.id] = Known(self.count, key=key, latest=latest)
            # The last one of the key that it may work on, which may have come by a takeover.
            older = None if key is None else self.last_of_key(side, key)
            side.hands[entry.id] = entry
            if older is None or not (older.key.latest and latest):
                continue
            if replaces:  # else it is at work, say; after a crash of both the newer one remains
                self.ended(side, older, OVER)
                side.journal.superseded(older, entry)

    def last_of_key(self, side: Side, key: str) -> Entry | None:
        found = [e for e in side.hands.values() if e.key is not None and e.key.value == key]
        return found[-1] if found else None

    @rule(number=side, pick=pick, how=st.sampled_from(["succeeded", "cancelled", "died"]))
    def end(self, number: int, pick: int, how: str) -> None:
        side, entry = self.one(number, pick)
        if entry is None:
            return
        self.ended(side, entry, DEAD if how == "died" else OVER)
        if how == "died":
            side.journal.died(entry, "permanent", entry.attempts + 1, OSError("no"))
            return
        if how == "succeeded" and entry.key is not None:
            self.successes.add((entry.key.value, entry.id))
            side.outdated[entry.id] = {
                letter.id
                for letter in side.journal.dead
                if letter.key == entry.key.value and letter.id < entry.id
            }
        getattr(side.journal, how)(entry)

    def ended(self, side: Side, entry: Entry, place: str) -> None:
        del side.hands[entry.id]
        side.host.at_work = [other for other in side.host.at_work if other is not entry]
        self.known[entry.id].places.add(place)
        side.wishes[entry.id] = place

    @rule(number=side, pick=pick, delay=st.sampled_from([0.0, 1.0, 60.0]))
    def retry(self, number: int, pick: int, delay: float) -> None:
        side, entry = self.one(number, pick)
        if entry is None:
            return
        side.host.at_work = [other for other in side.host.at_work if other is not entry]
        known = self.known[entry.id]
        before = known.pasts[-1]
        first = self.time - 5.0 if before.first_at is None else before.first_at
        attempts = entry.attempts + 1
        side.journal.retrying(entry, attempts, delay, OSError("busy"), elapsed=5.0)
        known.pasts.append(Past(attempts, delay, self.time + delay, first))

    @rule(number=side, picks=st.lists(pick, max_size=3))
    def work(self, number: int, picks: list[int]) -> None:
        side = self.at(number)
        found = {
            entry.id: entry for _, entry in (self.one(number, pick) for pick in picks) if entry
        }
        side.host.at_work = [*found.values()]

    @rule(number=side)
    def flush(self, number: int) -> None:
        side = self.at(number)
        if side.open:
            self.settle(side)
            for name, place in side.wishes.items():
                self.known[name].places = {place}
            side.wishes.clear()
            for letter in side.journal.dead:
                assert letter.stale or not any(letter.id in ids for ids in side.outdated.values())
            side.outdated.clear()
            for name in side.hands:
                del self.known[name].pasts[:-1]

    @rule(number=side)
    def crash(self, number: int) -> None:
        side = self.at(number)
        if side.open:
            self.die(side)
            for entry in side.hands:
                self.known[entry].blame += 1
            for entry in side.wishes:  # which may have been at work still, as far as the disk knows
                self.known[entry].blame += 1
            self.gone(side)

    def die(self, side: Side) -> None:
        crash(side.journal)

    @rule(number=side)
    def close(self, number: int) -> None:
        side = self.at(number)
        if side.open:
            self.flush(number)
            side.journal.close()
            self.gone(side)

    def gone(self, side: Side) -> None:
        side.open = False
        side.hands.clear()
        side.wishes.clear()
        side.outdated.clear()

    @rule(number=side)
    def open(self, number: int) -> None:
        side = self.at(number)
        if not side.open:
            self.opened(side)

    def opened(self, side: Side) -> None:
        side.host, side.seen = FakeHost(), 0
        side.journal.open(side.host)
        side.open = True
        self.look(side)

    @rule(number=side)
    def adopt(self, number: int) -> None:
        side = self.at(number)
        if side.open:
            self.settle(side)
            side.journal.poll()
            self.look(side)

    @rule(jump=st.sampled_from([-YEAR, -1.0, 0.5, 30.0, YEAR]))
    def jump(self, jump: float) -> None:
        self.time += jump

    @precondition(some_open)
    @rule(number=side, pick=pick)
    def rerun(self, number: int, pick: int) -> None:
        side = self.at(number)
        if not side.open:
            return
        self.flush(number)
        names = sorted(letter.id for letter in side.journal.dead)
        for other in self.sides:  # as long as it is not sure where it is, leave it
            names = [name for name in names if name not in other.wishes]
        if names:
            name = names[pick % len(names)]
            known = self.known[name]
            assert DEAD in known.places
            known.places, known.pasts, known.blame = {LIVE}, [Past()], 0
            for other in self.sides:
                for letters in other.outdated.values():
                    letters.discard(name)
            if side.journal.dead.get(name).stale:
                with pytest.raises(JournalError, match="force=True"):
                    side.journal.dead.rerun(name)
            side.journal.dead.rerun(name, force=True)
            self.look(side)
            assert name in side.hands

    # ---- what must hold

    def settle(self, side: Side) -> None:
        """Wait until the journal has done what it has to, and look at what it has handed out."""
        assert side.journal.flush(30)
        engine = side.journal._engine
        done = threading.Event()
        engine.tasks.put(done.set)
        assert done.wait(30)
        self.arrived(side)

    def look(self, side: Side) -> None:
        """After an adoption: what was unsure of the adopted is known now."""
        self.just_read = True
        self.settle(side)
        self.just_read = False
        for file in side.journal._engine.lanes.all():
            for entry in file.live.values():
                if entry.outcome is None:
                    self.found(entry)
        self.buried(side)

    def found(self, entry: Entry) -> None:
        known = self.known[entry.id]
        assert LIVE in known.places, entry
        for side in self.sides:
            if side.open and entry.id in side.wishes:
                return  # shown as ended, and about to be
        known.places = {LIVE}

    def buried(self, side: Side) -> None:
        letters = {letter.id: letter for letter in side.journal.dead}
        for name, letter in letters.items():
            known = self.known[name]
            assert letter.key == known.key
            assert not letter.stale or any(
                key == letter.key and success > name for key, success in self.successes
            )
            if letter.reason == "crashes":
                assert known.blame >= MAX_CRASHES, (letter, known)
                known.places = {DEAD}
            assert DEAD in known.places, letter

    def arrived(self, side: Side) -> None:
        """Look at what has been handed to *side* since."""
        for entry in side.host.recovered[side.seen :]:
            known = self.known[entry.id]
            assert LIVE in known.places
            assert entry.job.n == known.n
            assert (entry.key and entry.key.value) == known.key
            if entry.key is not None and entry.key.held:
                continue  # it comes again at its turn
            if entry.id in side.hands:  # it was held before
                continue
            assert all(entry.id not in other.hands for other in self.sides), "in two hands"
            past = next(past for past in known.pasts if past.attempts == entry.attempts)
            known.pasts = [past]
            self.compare(entry, past)
            side.hands[entry.id] = entry
        side.seen = len(side.host.recovered)

    def compare(self, entry: Entry, past: Past) -> None:
        # A suspect had to wait for its turn, and was read from the disk at another time.
        assert 0.0 <= entry.due_in <= past.delay
        assert entry.elapsed >= 0.0
        assert entry.crashes <= self.known[entry.id].blame
        if self.just_read:
            assert entry.due_in == min(max(0.0, past.due_at - self.time), past.delay)
            failed_at = past.due_at - past.delay
            started = failed_at if past.first_at is None else past.first_at
            assert entry.elapsed == max(0.0, failed_at - started)

    def teardown(self) -> None:
        if not self.sides:
            return
        for number, side in enumerate(self.sides):
            if side.open:
                self.flush(number)
                side.journal.close()
                self.gone(side)
        last = self.sides[0]
        self.opened(last)
        done = set()
        while last.hands:  # suspects come one after the other
            for name, entry in [*last.hands.items()]:
                assert name not in done
                done.add(name)
                del last.hands[name]
                last.journal.succeeded(entry)
            self.settle(last)
        letters = {letter.id for letter in last.journal.dead}
        assert not letters & done
        for name, known in self.known.items():
            place = DEAD if name in letters else LIVE if name in done else OVER
            crashed = place == DEAD and known.blame >= MAX_CRASHES
            forgotten = place == OVER and known.replaced
            assert place in known.places or crashed or forgotten, (place, known)
        last.journal.close()
        self.directory.cleanup()


class OnPostgres(TwoProcesses):
    """The journal on PostgreSQL, where the lease of a dead process runs out at once."""

    server: ClassVar[Server]
    numbers = count(1)

    @initialize()
    def start(self) -> None:
        self.schema = Schema(self.server.url, f"model {next(self.numbers)}")
        super().start()

    def make(self) -> Any:
        return self.schema(
            jobs=JOBS, wall_clock=lambda: self.time, poll=3600, max_crashes=MAX_CRASHES
        )

    def die(self, side: Side) -> None:
        self.schema.expire(crash_on_server(side.journal))

    def teardown(self) -> None:
        super().teardown()
        if self.sides:
            self.schema.drop()


class InMemory(TwoProcesses):
    """The journal in memory: a crash takes nothing with it, and nobody is suspected."""

    sides_count = 1

    def make(self) -> Any:
        return MemoryJournal(jobs=JOBS, wall_clock=lambda: self.time)

    def die(self, side: Side) -> None:
        side.journal.close()


@pytest.mark.parametrize(("machine", "examples"), [(TwoProcesses, 150), (InMemory, 100)])
@pytest.mark.timeout(300)
def test_jobs_end_as_in_the_model(machine: type[RuleBasedStateMachine], examples: int) -> None:
    play(machine, examples)


@pytest.mark.timeout(300)
def test_jobs_on_a_server_end_as_in_the_model(server: Server) -> None:
    OnPostgres.server = server
    play(OnPostgres, 30)


def play(machine: type[RuleBasedStateMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
