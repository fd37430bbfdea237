"""Keys in the journal: they come back after a crash, with the order of their jobs."""

from __future__ import annotations

import enum
import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers.jobs import Gate
from helpers.journal_kit import JOBS, FakeHost, Save, crash, killed, opened, settled
from hypothesis import given
from hypothesis import strategies as st
from journal.conftest import Open

from retryexec import (
    PermanentError,
    RetryingExecutor,
    RetryPolicy,
    StopReason,
)
from retryexec._core.followers import Followers
from retryexec.guards import ConcurrencyLimit
from retryexec.journal import Journal, JournalError, MemoryJournal
from retryexec.journal._job_table import JOBS as JOB_FORM
from retryexec.journal._keys import key_of_text, recorded
from retryexec.testing import VirtualClock

# ---- keys as text

parts = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.uuids()
parts |= st.floats(allow_nan=False) | st.dates() | st.datetimes()
keys = st.recursive(parts, lambda some: st.lists(some, max_size=3).map(tuple), max_leaves=8)


@given(keys)
def test_a_key_comes_back_equal_and_of_its_type(key: Any) -> None:
    text = recorded(key, latest=False).text
    text.encode()
    back = key_of_text(text)
    assert (back, type(back), hash(back)) == (key, type(key), hash(key))


class Plain(enum.Enum):
    ONE = 1


class Whole(enum.IntEnum):
    ONE = 1


def test_members_of_enums_that_are_numbers_or_texts_come_back_equal() -> None:
    assert key_of_text(recorded(("a", Whole.ONE), latest=False).text) == ("a", Whole.ONE)


@dataclass(frozen=True)
class Own:
    number: int


def deep(levels: int) -> Any:
    key: Any = 0
    for _ in range(levels):
        key = (key,)
    return key


@pytest.mark.parametrize(
    "key",
    [
        Own(1),
        Plain.ONE,
        ("a", Own(1)),
        math.nan,
        ("a", math.nan),
        frozenset({1}),
        "x" * 10**6,
        10**5000,
        deep(100_000),
        1j,
    ],
    ids=lambda key: type(key).__name__,
)
def test_a_key_that_cannot_be_kept_is_refused_with_the_way_out(directory: Path, key: Any) -> None:
    with RetryingExecutor(journal=Journal(directory, jobs=JOBS)) as executor:
        with pytest.raises(TypeError, match=r"(?s)key .* cannot be kept .* let key= return"):
            executor.using(key=lambda job: key).submit(Save("x"))
        assert executor.stats().queued == 0
    assert [*directory.glob("*.db")] == []


# ---- after a crash


@dataclass
class Store:
    """A save under a key, which tells that it has run, and waits or fails as told."""

    user: str
    number: int

    ran: ClassVar[list[tuple[str, int]]] = []
    gates: ClassVar[dict[tuple[str, int], Gate]] = {}
    errors: ClassVar[dict[tuple[str, int], Exception]] = {}

    def exec(self) -> int:
        name = (self.user, self.number)
        self.ran.append(name)
        if name in self.gates:
            self.gates[name].exec()
        if name in self.errors:
            raise self.errors[name]
        return self.number


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    for known in (Store.ran, Store.gates, Store.errors):
        known.clear()
    yield
    for gate in Store.gates.values():
        gate.open()


STORES: dict[str, type] = {"save": Save, "store": Store}


def by_user(job: Any) -> str:
    return str(job.user)


def accepted(directory: Path, *jobs: Store, latest: bool = False, **options: Any) -> None:
    """Let a process have accepted *jobs*, and died before it ran any."""
    journal, _ = opened(directory, jobs=STORES, **options)
    for job in jobs:
        journal.accept(job, key=job.user, latest=latest)
    assert journal.flush(10)
    crash(journal)


def test_the_order_of_a_key_is_that_of_acceptance_after_a_crash(directory: Path) -> None:
    jobs = [Store(user, n) for n in range(50) for user in "abc"]
    accepted(directory, *jobs)
    # By an executor that knows nothing of keys.
    with RetryingExecutor(8, journal=Journal(directory, jobs=STORES)) as executor:
        assert executor.recovered.wait(10)
    for user in "abc":
        assert [n for name, n in Store.ran if name == user] == [*range(50)]


def test_one_recovered_job_of_a_key_runs_at_a_time_and_new_ones_queue_behind(
    directory: Path,
) -> None:
    accepted(directory, Store("a", 1), Store("a", 2))
    gate = Store.gates["a", 1] = Gate()
    with RetryingExecutor(4, key=by_user, journal=Journal(directory, jobs=STORES)) as executor:
        gate.begun.wait(10)
        third = executor.submit(Store("a", 3))
        pending = {job.future.submitted.number: job for job in executor.pending()}  # type: ignore[attr-defined]
        assert {n: (job.key, job.held_by) for n, job in pending.items()} == {
            1: ("a", None),
            2: ("a", "key"),
            3: ("a", "key"),
        }
        gate.open()
        assert third.result(10) == 3
    assert Store.ran == [("a", 1), ("a", 2), ("a", 3)]


def test_jobs_that_wait_for_an_attempt_keep_their_place(directory: Path) -> None:
    journal, _ = opened(directory, jobs=STORES)
    first = journal.accept(Store("a", 1), key="a")
    journal.retrying(first, 1, 30.0, OSError("busy"))
    journal.accept(Store("a", 2), key="a")
    journal.accept(Store("b", 3), key="b")
    assert journal.flush(10)
    crash(journal)
    clock = VirtualClock()
    with RetryingExecutor(4, clock=clock, journal=Journal(directory, jobs=STORES)) as executor:
        clock.advance(20)
        assert Store.ran == [("b", 3)]
        clock.advance(20)
        assert executor.recovered.unfinished == 0
    assert Store.ran == [("b", 3), ("a", 1), ("a", 2)]


def test_of_a_latest_key_the_newest_remains_and_it_alone(directory: Path) -> None:
    accepted(directory, *(Store(user, n) for n in range(20) for user in "ab"), latest=True)
    with RetryingExecutor(4, journal=Journal(directory, jobs=STORES)) as executor:
        assert len(executor.recovered) == 2
        assert executor.recovered.wait(10)
    assert sorted(Store.ran) == [("a", 19), ("b", 19)]
    assert [*directory.glob("*.db")] == []


def test_only_a_latest_job_replaces_one_and_only_one_that_is_latest(directory: Path) -> None:
    journal, _ = opened(directory, jobs=STORES)
    for number, latest in enumerate([True, False, True, True, False]):
        journal.accept(Store("a", number), key="a", latest=latest)
    assert journal.flush(10)
    crash(journal)
    with RetryingExecutor(4, journal=Journal(directory, jobs=STORES)) as executor:
        assert executor.recovered.wait(10)
    assert Store.ran == [("a", 0), ("a", 1), ("a", 3), ("a", 4)]


def test_keys_that_are_equal_are_one_key_after_a_crash_too(directory: Path) -> None:
    journal, _ = opened(directory, jobs=STORES)
    for number, key in enumerate([1, 1.0, True]):
        journal.accept(Store("a", number), key=("n", key), latest=True)
    crash(journal)
    with RetryingExecutor(4, journal=Journal(directory, jobs=STORES)) as executor:
        assert executor.recovered.wait(10)
    assert Store.ran == [("a", 2)]


def test_an_older_job_from_another_file_does_not_replace_a_newer_one(directory: Path) -> None:
    gate = Store.gates["a", 2] = Gate()
    journal = Journal(directory, jobs=STORES, poll=3600)
    with RetryingExecutor(4, key=by_user, keep="latest", journal=journal) as executor:
        other, _ = opened(directory, jobs=STORES)
        other.accept(Store("a", 1), key="a", latest=True)
        blocking = executor.submit(Store("a", 2))
        gate.begun.wait(10)
        waiting = executor.submit(Store("a", 3))
        crash(other)
        assert journal.poll() == 1
        assert waiting.superseded_by is None
        assert executor.stats().superseded == 1
        gate.open()
        assert (blocking.result(10), waiting.result(10)) == (2, 3)
        assert executor.recovered.wait(10)
    assert Store.ran == [("a", 2), ("a", 3)]
    assert [*directory.glob("*.db")] == []


def test_an_older_job_ends_with_a_newer_one_that_ends_at_that_moment(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Store.gates["a", 2] = Gate()
    journal = Journal(directory, jobs=STORES, poll=3600)
    with RetryingExecutor(4, key=by_user, keep="latest", journal=journal) as executor:
        other, _ = opened(directory, jobs=STORES)
        other.accept(Store("a", 1), key="a", latest=True)
        newer = executor.submit(Store("a", 2))
        assert gate.reached()
        crash(other)
        add = Followers.add

        def late(followers: Followers, job: Any) -> None:
            gate.open()
            assert newer.result(10) == 2
            add(followers, job)

        monkeypatch.setattr(Followers, "add", late)
        assert journal.poll() == 1
        assert executor.recovered.wait(10)
    assert Store.ran == [("a", 2)]


def test_guards_hold_for_recovered_jobs(directory: Path) -> None:
    journal, _ = opened(directory, jobs=STORES)
    for number in range(3):
        Store.gates["", number] = Gate()
        journal.accept(Store("", number))
    crash(journal)
    limit = ConcurrencyLimit(1)
    with RetryingExecutor(4, guards=[limit], journal=Journal(directory, jobs=STORES)) as executor:
        for number in range(3):
            Store.gates["", number].begun.wait(10)
            assert len(Store.ran) == number + 1
            Store.gates["", number].open()
        assert executor.recovered.wait(10)


@pytest.mark.parametrize("accept", ["wait", "async"])
def test_a_replaced_job_leaves_the_journal_and_the_newer_one_stays(
    directory: Path, accept: Any
) -> None:
    gate = Store.gates["a", 0] = Gate()
    journal = Journal(directory, jobs=STORES, accept=accept)
    executor = RetryingExecutor(2, key=by_user, keep="latest", journal=journal)
    executor.submit(Store("a", 0))
    gate.begun.wait(10)
    futures = [executor.submit(Store("a", n)) for n in range(1, 300)]
    assert journal.flush(10)
    assert journal.stats().unfinished == 2  # the running one, and the newest
    crash(journal)
    gate.open()
    executor.shutdown()
    assert {future.stop_reason for future in futures[:-1]} == {StopReason.SUPERSEDED}
    Store.ran.clear()
    with RetryingExecutor(2, journal=Journal(directory, jobs=STORES)) as after:
        assert after.recovered.wait(10)
    assert Store.ran == [("a", 299)]


def test_a_kill_at_any_moment_leaves_the_newest(tmp_path: Path) -> None:
    """After each transaction, as of the file that it has left."""
    from retryexec.journal import _file

    gate = Store.gates["a", 0] = Gate()
    journal = Journal(tmp_path / "journal", jobs=STORES)
    executor = RetryingExecutor(2, key=by_user, keep="latest", journal=journal)
    moments: list[tuple[int, set[int]]] = []
    apply = _file.JournalFile._apply
    newest = 0

    def look(self: Any, changes: Any) -> int:
        missing = apply(self, changes)
        jobs = {key for (key,) in self.sql.execute("SELECT json_extract(data,'$.number') FROM job")}
        moments.append((newest, jobs))
        return missing

    executor.submit(Store("a", 0))
    gate.begun.wait(10)
    _file.JournalFile._apply = look  # type: ignore[method-assign]
    try:
        for newest in range(1, 50):
            executor.submit(Store("a", newest))
        assert journal.flush(10)
    finally:
        _file.JournalFile._apply = apply  # type: ignore[method-assign]
    assert len(moments) >= 50
    # What `submit` has returned from is there, or a newer one.
    assert all(max(jobs) >= before - 1 for before, jobs in moments)
    gate.open()
    executor.shutdown()


# ---- a newer job that could not be written down


class NoInserts:
    """Makes each insert of a lane fail while it is on, with an error of SQLite's *code*."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        from retryexec.journal import _file

        self.on = False
        insert = _file.JournalFile._insert

        def refuse(lane: Any, entries: Any) -> None:
            if self.on:
                error = sqlite3.OperationalError("not now")
                error.sqlite_errorcode = code
                raise error
            insert(lane, entries)

        monkeypatch.setattr(_file.JournalFile, "_insert", refuse)


@pytest.mark.parametrize("code", [13, 19], ids=["full disk", "one bad row"])
@pytest.mark.parametrize("end", ["crash", "success", "death"])
def test_the_older_job_stays_on_disk_while_the_newer_one_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch, end: str, code: int
) -> None:
    disk = NoInserts(monkeypatch, code)
    gate = Store.gates["a", 0] = Gate()
    policy = RetryPolicy.never()
    if end == "death":
        Store.errors["a", 2] = PermanentError(ValueError("no"))
    journal = Journal(directory, jobs=STORES, accept="async")
    executor = RetryingExecutor(
        2, policy=policy, key=by_user, keep="latest", journal=journal, on_give_up=lambda _: None
    )
    executor.submit(Store("a", 0))
    gate.begun.wait(10)
    executor.submit(Store("a", 1))
    assert journal.flush(10)
    disk.on = True
    assert journal.engine is not None
    both_queued = threading.Event()  # so that they are in one batch
    journal.engine.writer.command(both_queued.wait)
    newer = executor.submit(Store("a", 2))
    both_queued.set()
    with pytest.raises(JournalError):
        newer.accepted.result(10)
    assert journal.flush(10)
    disk.on = False
    if end == "crash":
        assert journal.flush(10)
        crash(journal)
    gate.open()
    executor.shutdown()
    Store.ran.clear()
    with RetryingExecutor(2, journal=Journal(directory, jobs=STORES)) as after:
        assert after.recovered.wait(10)
        letters = Journal(directory, jobs=STORES).dead.list()
    assert Store.ran == ([("a", 1)] if end == "crash" else [])
    assert [letter.fields["number"] for letter in letters] == ([1] if end == "death" else [])


# ---- suspects


def test_no_job_overtakes_a_suspect_of_its_key(directory: Path) -> None:
    """Two jobs were at work when their process died, and are tried one at a time."""
    killed(
        directory,
        """
        for n in range(2):
            for key in "ab":
                entry = journal.accept(Save(key, n), key=key)
                if not n:
                    host.at_work.append(entry)
        journal._engine.poll()
        journal.flush(10)
        """,
    )
    ran: list[tuple[str, int]] = []
    gates = {("a", 0): Gate(), ("b", 0): Gate()}

    @dataclass(frozen=True)
    class Run(Save):
        def exec(self) -> None:
            ran.append((self.email, self.n))
            if (self.email, self.n) in gates:
                gates[self.email, self.n].exec()

    journal = Journal(directory, jobs={"save": Run}, poll=3600)
    with RetryingExecutor(4, key=lambda job: job.email, journal=journal) as executor:
        gates["a", 0].begun.wait(10)
        third = executor.submit(Run("b", 2))
        assert {
            (job.key, job.future.submitted.n): (job.state, job.held_by)  # type: ignore[attr-defined]
            for job in executor.pending()
        } == {
            ("a", 0): ("running", None),
            ("a", 1): ("held", "key"),
            ("b", 0): ("held", "journal"),
            ("b", 1): ("held", "key"),
            ("b", 2): ("held", "key"),
        }
        assert len(executor.recovered) == 4
        gates["a", 0].open()
        gates["b", 0].begun.wait(10)
        # The file that was taken over says who is at work now.
        assert journal.flush(10)
        gates["b", 0].open()
        third.result(10)
        assert executor.recovered.wait(10)
        assert executor.stats().held == 0
    assert [n for key, n in ran if key == "a"] == [0, 1]
    assert [n for key, n in ran if key == "b"] == [0, 1, 2]


def test_a_suspect_behind_another_of_its_key_keeps_nobody_waiting(directory: Path) -> None:
    """Owners crashed in a row and left no mark, so the first jobs run one at a time."""
    accepted(directory, *(Store(user, n) for n in range(3) for user in "ab"))
    (path,) = directory.glob("*.db")
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("UPDATE meta SET adoptions=1")
        sql.execute("UPDATE job SET crashes=1 WHERE seq=1")  # tried after those without crashes
    with RetryingExecutor(4, journal=Journal(directory, jobs=STORES)) as executor:
        assert executor.recovered.wait(10)
    for user in "ab":
        assert [n for name, n in Store.ran if name == user] == [0, 1, 2]


@pytest.mark.parametrize("end", ["cancel", "replace", "shut down"])
def test_a_suspect_that_is_held_can_end_before_its_turn(directory: Path, end: str) -> None:
    killed(
        directory,
        """
        for key in "ab":
            host.at_work.append(journal.accept(Save(key), key=key, latest=True))
        journal._engine.poll()
        journal.flush(10)
        """,
    )
    gate = Gate()
    ran: list[tuple[str, int]] = []

    @dataclass(frozen=True)
    class Run(Save):
        def exec(self) -> None:
            ran.append((self.email, self.n))
            if self == Run("a"):
                gate.exec()

    journal = Journal(directory, jobs={"save": Run}, poll=3600)
    executor = RetryingExecutor(4, key=lambda job: job.email, keep="latest", journal=journal)
    gate.begun.wait(10)
    (held,) = [job for job in executor.pending() if job.held_by == "journal"]
    if end == "cancel":
        assert held.future.cancel()
    elif end == "replace":
        assert executor.submit(Run("b", 2)).result(10) is None
        assert held.future.stop_reason is StopReason.SUPERSEDED
    else:
        executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    executor.shutdown()
    assert ran == [("a", 0), ("b", 2)] if end == "replace" else [("a", 0)]
    with RetryingExecutor(4, journal=Journal(directory, jobs={"save": Run})) as after:
        assert len(after.recovered) == 0
        assert after.recovered.wait(10)


# ---- dead letters


def test_a_letter_knows_its_key_and_becomes_stale(open_journal: Open) -> None:
    journal, _ = open_journal()
    old = journal.accept(Save("old"), key=("user", 7))
    other = journal.accept(Save("other"), key="other")
    none = journal.accept(Save("none"))
    for entry in (old, other, none):
        journal.died(entry, "permanent", 1)
    journal.succeeded(journal.accept(Save("newer"), key=("user", 7)))
    assert journal.flush(10)
    found = {letter.fields["email"]: (letter.key, letter.stale) for letter in journal.dead}
    assert found == {
        "old": (("user", 7), True),
        "other": ("other", False),
        "none": (None, False),
    }
    with pytest.raises(JournalError, match=r"\('user', 7\) has succeeded.*force=True"):
        journal.dead.rerun(old.id)
    with pytest.raises(JournalError, match="stale"):
        journal.dead.rerun_some([other.id, old.id])
    assert len(journal.dead) == 3
    assert journal.dead.rerun_all() == 2
    assert [letter.id for letter in journal.dead] == [old.id]


def test_a_rerun_job_has_its_key_again(open_journal: Open) -> None:
    journal, host = open_journal()
    old = journal.accept(Save("old"), key=("user", 7), latest=True)
    journal.died(old, "permanent", 1)
    journal.succeeded(journal.accept(Save("newer"), key=("user", 7)))
    assert journal.flush(10)
    journal.dead.rerun(old.id, force=True)
    entry = host.next()
    assert entry.key is not None
    assert (entry.id, entry.key.value, entry.key.latest) == (old.id, ("user", 7), True)
    journal.died(entry, "permanent", 1)
    assert journal.flush(10)
    (letter,) = journal.dead
    assert (letter.key, letter.stale) == (("user", 7), True)  # as before


@pytest.mark.parametrize("how", ["cancelled", "died", "earlier", "no key", "another key"])
def test_a_letter_stays_fresh_where_no_later_job_of_its_key_succeeds(
    open_journal: Open, how: str
) -> None:
    journal, _ = open_journal()
    first = journal.accept(Save("first"), key="k")
    old = journal.accept(Save("old"), key="k")
    journal.died(old, "permanent", 1)
    if how == "earlier":
        journal.succeeded(first)
    elif how == "died":
        journal.died(journal.accept(Save("newer"), key="k"), "permanent", 1)
    elif how == "cancelled":
        journal.cancelled(journal.accept(Save("newer"), key="k"))
    else:
        key = None if how == "no key" else "another"
        journal.succeeded(journal.accept(Save("newer"), key=key))
    assert journal.flush(10)
    assert not any(letter.stale for letter in journal.dead)


def test_a_success_in_one_process_makes_a_letter_of_another_stale(open_journal: Open) -> None:
    one, _ = open_journal()
    two, _ = open_journal()
    for _ in range(3):  # each time by the other one's changes to the file
        old = one.accept(Save("old"), key="k")
        one.died(old, "permanent", 1)
        assert one.flush(10)
        two.succeeded(two.accept(Save("newer"), key="k"))
        assert two.flush(10)
        assert two.dead.get(old.id).stale


def test_a_stale_letter_is_on_disk_before_the_success_is_forgotten(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retryexec.journal._letter_file import LetterFile

    journal, _ = open_journal()
    old = journal.accept(Save("old"), key="k")
    journal.died(old, "permanent", 1)
    newer = journal.accept(Save("newer"), key="k")
    assert journal.flush(10)
    outdate = LetterFile.outdate
    tries: list[int] = []

    def busy(self: Any, succeeded: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = 5
            raise error
        assert journal.stats().unfinished == 1
        outdate(self, succeeded)

    monkeypatch.setattr(LetterFile, "outdate", busy)
    journal.succeeded(newer)
    assert journal.flush(10)
    assert journal.dead.get(old.id).stale
    assert journal.stats().unfinished == 0
    assert len(tries) == 3


def test_letters_without_keys_cost_a_success_no_look_at_them(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retryexec.journal._letter_file import LetterFile

    journal, _ = open_journal()
    journal.died(journal.accept(Save("old")), "permanent", 1)
    assert journal.flush(10)
    monkeypatch.setattr(LetterFile, "outdate", None)
    for number in range(10):
        journal.succeeded(journal.accept(Save("", number)))
    assert journal.flush(10)
    assert journal.stats().healthy


# ---- files of older versions


def make_old(path: Path) -> None:
    """Make the table of jobs anew, as version 1 has it."""
    lines = JOB_FORM.schema.split(";\n")[0].strip().splitlines()
    keys = [n for n, line in enumerate(lines) if line.split()[0] in {"key", "latest", "stale"}]
    old = "\n".join(line for n, line in enumerate(lines) if n not in keys)
    old = old.replace("parked TEXT, ", "parked TEXT ")
    columns = ",".join(JOB_FORM.tables["job"].split(",")[:-3])
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("ALTER TABLE job RENAME TO new")
        sql.execute(old)
        sql.execute(f"INSERT INTO job SELECT {columns} FROM new")  # noqa: S608
        sql.execute("DROP TABLE new")
        sql.execute("PRAGMA user_version=1")
        sql.commit()


def test_files_of_version_1_are_taken_over_and_go_on(directory: Path) -> None:
    accepted(directory, *(Store("a", n) for n in range(3)))
    journal, _ = opened(directory.with_name("other"), jobs=STORES)
    journal.close()
    (path,) = directory.glob("*.db")
    make_old(path)
    from retryexec.journal import Inspector
    from retryexec.journal._check import check

    assert [*check(Inspector(directory))] == []
    assert [(job.fields["number"], job.key) for job in Inspector(directory).jobs()] == [
        (0, None),
        (1, None),
        (2, None),
    ]
    journal, host = opened(directory, jobs=STORES)
    assert [entry.key for entry in host.recovered] == [None] * 3
    journal.retrying(host.recovered[0], 1, 5.0, OSError("busy"))
    journal.accept(Store("a", 3), key="a")
    journal.close()
    journal, host = opened(directory, jobs=STORES)
    found = {entry.job.number: entry.key and entry.key.value for entry in host.recovered}
    assert found == {0: None, 1: None, 2: None, 3: "a"}
    journal.close()


def test_dead_letters_of_version_1_stay_so_until_one_has_a_key(directory: Path) -> None:
    def version() -> int:
        with closing(sqlite3.connect(directory / "dead.db")) as sql:
            return int(sql.execute("PRAGMA user_version").fetchone()[0])

    journal, _ = opened(directory)
    journal.died(journal.accept(Save("plain")), "permanent", 1)
    journal.succeeded(journal.accept(Save("newer"), key="k"))
    assert journal.flush(10)
    assert version() == 1
    keyed = journal.accept(Save("keyed"), key="k")
    journal.died(keyed, "permanent", 1)
    assert journal.flush(10)
    assert version() == 2
    journal.succeeded(journal.accept(Save("newer"), key="k"))
    assert journal.flush(10)
    assert sorted((d.fields["email"], d.key, d.stale) for d in journal.dead) == [
        ("keyed", "k", True),
        ("plain", None, False),
    ]
    journal.close()


def test_a_key_that_somebody_has_meddled_with_parks_its_record_alone(
    directory: Path,
) -> None:
    accepted(directory, *(Store("a", n) for n in range(6)))
    (path,) = directory.glob("*.db")
    texts = ["nonsense", '{"uuid":"x"}', "{}", '{"a":1,"b":2}', '{"eval":"1"}']
    with closing(sqlite3.connect(path)) as sql, sql:
        for seq, text in enumerate(texts, 1):
            sql.execute("UPDATE job SET key=? WHERE seq=?", (text, seq))
    journal, host = opened(directory, jobs=STORES)
    assert [entry.job.number for entry in host.recovered] == [5]
    assert journal.stats().parked == 5
    journal.close()


# ---- in memory, and what it costs


def test_a_journal_in_memory_keeps_keys_too() -> None:
    journal, host = MemoryJournal(jobs=JOBS), FakeHost()
    journal.open(host)
    for number in range(3):
        journal.accept(Save("latest", number), key="a", latest=True)
        journal.accept(Save("all", number), key="b")
    old = journal.accept(Save("old"), key="c")
    journal.died(old, "permanent", 1)
    journal.succeeded(journal.accept(Save("newer"), key="c"))
    journal.close()
    again = FakeHost()
    journal.open(again)
    assert [(entry.job.email, entry.job.n) for entry in again.recovered] == [
        ("all", 0),
        ("all", 1),
        ("latest", 2),
        ("all", 2),
    ]
    assert settled(journal)
    with pytest.raises(JournalError, match="force"):
        journal.dead.rerun(old.id)
    journal.dead.rerun(old.id, force=True)
    assert again.recovered[-1].id == old.id
    journal.close()


def test_jobs_without_keys_take_the_same_statements_and_two_bytes_more(
    open_journal: Open,
) -> None:
    journal, _ = open_journal()
    for key in (None, "a"):
        entry = journal.accept(Save("first"), key=key)
        lane = entry.lane
        statements: list[str] = []
        lane.sql.set_trace_callback(statements.append)
        done = [journal.accept(Save("", n), key=key) for n in range(3)]
        for entry in done:
            journal.succeeded(entry)
        assert journal.flush(10)
        lane.sql.set_trace_callback(None)
        verbs = [statement.split()[0] for statement in statements]
        assert verbs[:3] == ["BEGIN", "INSERT", "COMMIT"]
        assert {*verbs} == {"BEGIN", "INSERT", "DELETE", "COMMIT"}
        assert verbs.count("INSERT") == 3
