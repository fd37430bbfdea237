"""What becomes of a dead process's jobs: which run, which are suspects, which are dead.

A row bears a mark while its job is seen running. Whoever takes it over finds there who was at work
when the process died: those, and nobody else, may have ended it. They are run one at a time from
then on, each marked on disk before it starts, so that the next death tells the culprit from those
who only happened to be there.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from heapq import nsmallest
from itertools import islice
from operator import attrgetter
from types import NoneType
from typing import Any, NamedTuple

from retryexec._collector import BATCH, collector_off
from retryexec.journal._codec import Codec
from retryexec.journal._entry import Entry, EntryState, FailureRecord, Outcome
from retryexec.journal._errors import Undecodable
from retryexec.journal._keys import EntryKey, read_key
from retryexec.journal._rows import DAMAGED, JobRow, printable, read_job
from retryexec.journal._store import Findings, Lane, Taken

CRASHES = "crashes"
"""The reason of a job that dies because processes did."""

FIRST_SERIAL = 64

# Of the jobs of a lane that were due for another attempt while nobody was there, so many may
# start at once, and so many in each second after; none later than it would have been.
BURST = 100
RATE = 100

TRACE_PAUSE = 1.0
"""Seconds that a job of which a trace is known waits before its first attempt.

An executor takes jobs over as it is made, and can be instrumented only after that, which ends the
pause.
"""

# Of the columns of a job of which nothing has become yet.
_TYPES = (int, str, str, int, str, int, int, int, float, *[NoneType] * 8)
_is_id = re.compile("[0-9a-f]{32}").fullmatch
_REASON_LIMIT = 500  # characters of why a record is parked


class Mark(NamedTuple):
    """A row that was at work when its owner died, and how often that was so before."""

    row: int
    crashes: int


class Verdict(NamedTuple):
    """What becomes of a dead owner's rows.

    Attributes:
        blamed: the rows whose crashes are one more now.
        serial: how many rows, the first that are due, run one at a time although there is nothing
            against them: their owners crash, and none left a mark.
    """

    blamed: frozenset[int]
    serial: int


NOBODY = Verdict(frozenset(), 0)


def judge(marks: Sequence[Mark], adoptions: int) -> Verdict:
    """Return whom to blame for the end of an owner.

    Args:
        marks: the rows that were at work.
        adoptions: how many owners of the lane have crashed in a row, this one included.
    """
    if not marks and adoptions >= 2:
        # Jobs run in the order in which they are due, so a job too quick for any mark was among
        # the first. The others need not pay for it, unless it goes on.
        return Verdict(frozenset(), FIRST_SERIAL << min(adoptions - 2, 32))
    # Those at work beside an old suspect are most likely its victims, for the second time.
    old = [mark.row for mark in marks if mark.crashes]
    return Verdict(frozenset(old or [mark.row for mark in marks]), 0)


class Found(NamedTuple):
    """What reading a lane has come upon, beside entries."""

    marks: list[Mark]
    parked: list[tuple[str | None, int]]  # why it is now, or None if it is no more, and a row
    gone: list[int]


def revive(
    lane: Lane,
    rows: Iterable[Sequence[Any]],
    codec: Codec,
    now: float,
    died: AbstractSet[str] = frozenset(),
) -> Found:
    """Make entries of the rows of *lane*; what cannot be made one is counted as parked.

    Args:
        died: ids of jobs that are dead letters by now.
    """
    reader = _Reader(lane, codec, now, died)
    source = iter(rows)
    more = True
    while more:
        with collector_off():
            more = reader.read(islice(source, BATCH))
    return reader.found


class _Reader:
    """Makes entries of rows."""

    def __init__(self, lane: Lane, codec: Codec, now: float, died: AbstractSet[str]) -> None:
        self.found = Found([], [], [])
        self._lane = lane
        self._codec = codec
        self._now = now
        self._died = died
        self._ids: set[str] = set()
        # Of each kind that is known here its name, the same object for all its rows, its version
        # and its decoder.
        self._kinds: dict[Any, tuple[str, int, Callable[[str], Any]]] = {}
        self._overdue = 0
        self._last_of_key: dict[Hashable, Entry] = {}

    def read(self, rows: Iterable[Sequence[Any]]) -> bool:
        """Make entries of *rows*; return whether there were any."""
        ids, died, live, lane = self._ids, self._died, self._lane.live, self._lane
        stored = EntryState.STORED
        values: Sequence[Any] = ()
        for values in rows:
            seq, id_, kind, ver, data, attempts, crashes, started, at = values[:9]
            known = self._kinds.get(kind) or self._look_up(kind)
            # Most are records of jobs of which nothing has become yet, with all in them as
            # `JobRow` has it. They take this short way; all others are read with care.
            if (
                known is None
                or ver != known[1]
                or attempts
                or crashes
                or started
                or (*map(type, values),) != _TYPES
                or not -1e12 <= at <= 1e12
                or not _is_id(id_)
                or id_ in ids
                or id_ in died
            ):
                self._read_with_care(values)
                continue
            try:
                job = known[2](data)
            except Exception:
                self._read_with_care(values)  # which finds out why
                continue
            live[seq] = entry = Entry(id_, job, known[0], known[1], data, at)
            entry.row, entry.lane, entry.state = seq, lane, stored
            ids.add(id_)
        return bool(values)

    def _look_up(self, kind: Any) -> tuple[str, int, Callable[[str], Any]] | None:
        known = self._codec.decoder(kind)
        if known is not None:
            self._kinds[kind] = known
        return known

    def _read_with_care(self, values: Sequence[Any]) -> None:
        row, wrong = read_job(values)
        if row.id in self._died:
            self.found.gone.append(row.seq)
            return
        if wrong is None and row.parked is not None and row.parked.startswith(DAMAGED):
            wrong = row.parked  # what was wrong with it has been replaced by something harmless
        if wrong is None and row.id in self._ids:
            wrong = f"{DAMAGED}another record has the same id"
        if wrong is None:
            try:
                job = self._codec.decode(row.kind, row.ver, row.data)
                key = None if row.key is None else read_key(row.key, row.latest, row.stale)
            except Undecodable as error:
                wrong = printable(error, _REASON_LIMIT)
            except ValueError as error:  # of the key
                wrong = f"{DAMAGED}{printable(error, _REASON_LIMIT)}"
            else:
                self._add(row, job, key)
        if wrong is not None:
            self._lane.parked += 1
        if wrong != row.parked:
            self.found.parked.append((wrong, row.seq))

    def _add(self, row: JobRow, job: Any, key: EntryKey | None) -> None:
        self._ids.add(row.id)
        kind = self._kinds[row.kind][0]
        entry = Entry(row.id, job, kind, row.ver, row.data, row.accepted_at)
        entry.row, entry.lane, entry.state = row.seq, self._lane, EntryState.STORED
        entry.crashes = row.crashes
        if row.started:
            self.found.marks.append(Mark(row.seq, row.crashes))
        failures = FailureRecord.of_row(row)
        if failures is not None:
            self._recall(entry, failures)
        self._lane.live[row.seq] = entry
        if key is not None:
            entry.key = key
            self._replace_older(entry, key)

    def _replace_older(self, entry: Entry, key: EntryKey) -> None:
        """Forget the older one of *entry* and the job before it of its *key*, if it is replaced.

        It was, or was about to be, when the owner died before the removal was on disk.
        """
        newer, older = entry, self._last_of_key.get(key.value)
        if older is not None and older.key is not None and older.key.latest and key.latest:
            if newer.id < older.id:  # it is another process's, or a dead letter that is rerun
                newer, older = older, newer
            assert older.row is not None
            del self._lane.live[older.row]
            self.found.gone.append(older.row)
        self._last_of_key[key.value] = newer

    def _recall(self, entry: Entry, failures: FailureRecord) -> None:
        """Tell *entry* where it was."""
        entry.failures, entry.attempts = failures, failures.attempts
        # No longer than was asked for, whichever way the wall clock has jumped.
        entry.due_in = min(max(0.0, failures.due_at - self._now), failures.delay)
        if failures.first_at is not None:
            entry.elapsed = failures.elapsed
        if failures.attempts == 0 and entry.trace is not None:
            entry.due_in = TRACE_PAUSE
            return
        if not entry.due_in:
            self._overdue += 1
            # What failed before would fail again if all of it came at the same moment.
            entry.due_in = min(max(0, self._overdue - BURST) / RATE, failures.delay)


def findings(found: Found, verdict: Verdict, adoptions: int | None) -> Findings:
    """Return what is to be written down of a takeover."""
    gone = {*found.gone}
    blamed = sorted(row for row in verdict.blamed if row not in gone)
    return Findings(blamed, found.parked, found.gone, adoptions)


def _is_first(entry: Entry, keys: set[Hashable]) -> bool:
    """Return whether *entry* is the first of its key, if it has one; add that to *keys*."""
    if entry.key is None:
        return True
    before = len(keys)
    keys.add(entry.key.value)
    return len(keys) > before


def sort(
    lane: Lane, verdict: Verdict, max_crashes: int, alone: AbstractSet[int] = frozenset()
) -> Taken:
    """Sort the entries of *lane* into those to run, suspects, and dead letters.

    Args:
        alone: further rows to be run one at a time.
    """
    taken = Taken(lane, [], [])
    for row in verdict.blamed & lane.live.keys():
        lane.live[row].crashes += 1
    serial: AbstractSet[Entry] = {lane.live[row] for row in alone & lane.live.keys()}
    if verdict.serial:
        serial = {*nsmallest(verdict.serial, lane.live.values(), key=attrgetter("due_in"))}
    seen: set[Hashable] = set()
    for entry in lane.live.values():
        if entry.crashes >= max_crashes:
            entry.outcome = Outcome(CRASHES, entry.errors, entry.attempts)
            taken.dead.append(entry)
            continue
        entry.suspect = bool(entry.crashes) or entry in serial
        if entry.suspect and entry.due_in == TRACE_PAUSE and not entry.attempts:
            entry.due_in = 0.0  # it waits for its turn, which takes a moment, too
        # One that is not due, or is behind another of its key, holds up nobody: it waits like any
        # other, and is marked when it starts.
        is_first = _is_first(entry, seen)
        held = entry.suspect and is_first and not entry.due_in
        if held:
            lane.suspects.append(entry)
        if entry.key is not None:
            entry.key.held = held
        if not held or entry.key is not None:
            taken.free.append(entry)
    # Those that crashed least first: a bystander clears itself by finishing.
    lane.suspects.sort(key=attrgetter("crashes"))
    lane.suspects.reverse()  # the next one is taken from the end
    return taken
