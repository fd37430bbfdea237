"""Files and writers of a journal that fail as they hardly ever do, each staged."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_faults import databases, full
from helpers.journal_kit import FakeHost, Save, crash, killed, left_by, opened
from journal.conftest import Open

from retryexec.journal import JobRefused, Journal, JournalError, _sqlite
from retryexec.journal._directory import Directory
from retryexec.journal._file import JournalFile
from retryexec.journal._sqlite import is_damaged

# ---- files


def test_a_file_of_another_program_is_set_aside(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "journal.accept(Save(''))")
    (database,) = databases(directory)
    with closing(sqlite3.connect(database)) as sql:
        sql.execute("PRAGMA application_id=7")
    _, host = open_journal(directory)
    assert "is not a file of a journal" in caplog.text
    # What can be read of it is read.
    assert left_by(directory.parent / "none") == []
    assert len(list(directory.glob("*.corrupt-*"))) >= 1
    assert host.jobs in ([], [Save("")])


def test_a_check_that_finds_something_is_damage(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubtful(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if "quick_check" in sql:
                sql = "SELECT 'row 3 missing from index'"
            return super().execute(sql, *args)

    journal, _ = opened(directory)
    journal.accept(Save(""))
    crash(journal)
    lock = Directory(directory).claim(databases(directory)[0].stem)
    assert lock is not None
    monkeypatch.setattr(
        _sqlite,
        "connect",
        lambda path, **options: sqlite3.connect(path, factory=Doubtful, **options),
    )
    with pytest.raises(sqlite3.DatabaseError, match="row 3") as caught:
        JournalFile.open(lock, power=True)
    assert is_damaged(caught.value)
    lock.release()


def test_transaction_left_open_by_a_failed_rollback_is_ended_first(
    open_journal: Open, directory: Path
) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("", 0))
    engine = journal._engine
    assert engine is not None
    own = engine.lanes.own
    assert own is not None
    with engine.writer.io:
        own.sql.execute("BEGIN IMMEDIATE")
        own.sql.execute("DELETE FROM job")
    journal.accept(Save("", 1))
    assert repr(own) == f"<JournalFile {own.path.name}: 2 live, 0 parked>"
    crash(journal)
    assert left_by(directory) == [Save("", 0), Save("", 1)]


def test_a_log_that_is_not_there_has_no_size(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save(""))
    engine = journal._engine
    assert engine is not None
    (file,) = engine.lanes.all()
    Path(f"{file.path}-wal").rename(directory / "elsewhere")
    assert file.log_bytes() == 0
    (directory / "elsewhere").rename(f"{file.path}-wal")


def test_errors_that_are_damaged_are_left_out(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    entry = journal.accept(Save(""))
    journal.retrying(entry, 3, 0.0, OSError("busy"))
    assert journal.flush(10)
    journal.close()
    (database,) = databases(directory)
    with closing(sqlite3.connect(database)) as sql, sql:
        sql.execute("UPDATE job SET errors='[{'")
    _, host = open_journal(directory)
    assert [(e.attempts, e.errors) for e in host.recovered] == [(3, ())]


# ---- the writer


def test_outcomes_that_cannot_be_written_before_close_are_logged(
    open_journal: Open,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    entry = journal.accept(Save("again"))
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "apply", full)
        journal.succeeded(entry)
        waiting = threading.Thread(target=journal.flush)
        waiting.start()
        assert not journal.flush(0.2)
        journal.close()
        waiting.join(10)  # who waits for it is let go
        assert not waiting.is_alive()
    assert "is closed before 1 ends of jobs could be written" in caplog.text
    assert left_by(directory) == [Save("again")]


def test_a_file_that_cannot_be_left_in_order_is_left_as_it_is(
    open_journal: Open,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("again"))
    monkeypatch.setattr(JournalFile, "mark_clean_exit", full)
    journal.close()
    monkeypatch.undo()
    assert "is left as it is" in caplog.text
    assert left_by(directory) == [Save("again")]


def test_failed_checkpoint_does_no_harm(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("here"))
    engine = journal._engine
    assert engine is not None
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "truncate_log", full)
        engine.writer.command(engine.lanes.truncate_logs)
        assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("here")]


def test_suspects_of_a_lost_file_are_run_all_the_same(open_journal: Open, directory: Path) -> None:
    killed(
        directory,
        """
        host.at_work = [journal.accept(Save("", n)) for n in range(3)]
        journal.accept(Save("", 3))
        """,
    )
    journal, host = open_journal(directory)
    assert {host.next().job.n for _ in range(2)} == {0, 3}  # and one suspect at a time
    for path in directory.iterdir():
        path.unlink()
    assert journal._engine is not None
    journal._engine.poll()
    assert {host.next().job.n for _ in range(2)} == {1, 2}
    for entry in host.recovered:
        journal.succeeded(entry)
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == []


def test_a_suspect_that_cannot_be_marked_waits(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mark on disk it must not start."""
    killed(directory, "host.at_work = [journal.accept(Save('suspect'))]; journal.accept(Save(''))")
    apply, refused = JournalFile.apply, []

    def no_marks(self: JournalFile, changes: Any) -> int:
        if changes.marks and len(refused) < 3:
            refused.append(changes)
            full()
        return apply(self, changes)

    monkeypatch.setattr(JournalFile, "apply", no_marks)
    journal, host = open_journal(directory)
    assert {host.next().job.email for _ in range(2)} == {"", "suspect"}
    assert len(refused) == 3
    assert journal.flush(10)
    assert journal.stats().healthy


def test_calls_after_close_are_refused(open_journal: Open, directory: Path) -> None:
    """By a thread that had the engine in its hand when it was closed."""
    journal, _ = open_journal(directory)
    for accept in (False, True):
        engine = journal._engine
        assert engine is not None
        journal.close()
        journal._engine, journal._waits = engine, accept
        if accept:
            with pytest.raises(JournalError, match="closed"):
                journal.accept(Save(""))
        else:
            refused = journal.accept(Save("")).accepted
            assert isinstance(refused.exception(10), JournalError)
        assert journal.flush(10)  # nobody is kept waiting either
        journal._engine = None
        journal.open(FakeHost())
    journal.close()


def test_background_task_that_fails_is_logged_and_the_next_one_runs(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    engine, done = journal._engine, threading.Event()
    assert engine is not None

    def fail() -> None:
        raise ZeroDivisionError

    engine.tasks.put(fail)
    engine.tasks.put(done.set)
    assert done.wait(10)
    assert "a task of the journal failed" in caplog.text


def test_polling_journal_takes_over_by_itself(open_journal: Open, directory: Path) -> None:
    _, host = open_journal(directory, poll=0.01)
    killed_one, _ = opened(directory)
    killed_one.accept(Save("left"))
    crash(killed_one)
    assert host.next().job == Save("left")


def test_journal_may_be_closed_by_its_own_background_task(
    open_journal: Open, directory: Path
) -> None:
    """A future's callback runs on that thread, and may do anything."""
    journal, _ = open_journal(directory)
    engine, closed = journal._engine, threading.Event()
    assert engine is not None

    def close() -> None:
        journal.close()
        closed.set()

    engine.tasks.put(close)
    assert closed.wait(10)


# ---- the codec


def test_classes_that_cannot_be_json_are_named(directory: Path) -> None:
    @dataclass
    class Odd:
        one: dict[tuple[int, ...], Callable[[], int]] | set[int] | list[str]

        def exec(self) -> None:
            """The tests run nothing."""

    with pytest.raises(TypeError, match="cannot be JSON"):
        Journal(directory, jobs={"odd": Odd})


def test_what_cannot_be_compared_is_refused(directory: Path) -> None:
    from retryexec.journal import _codec

    kind = _codec.Kind("save", Save)
    with pytest.raises(JobRefused, match="cannot be compared"):
        kind.check(object.__new__(Save), b'{"email":"x","n":0}')


def test_imports_without_msgspec_say_so_but_other_failures_are_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import builtins
    import importlib

    real = builtins.__import__

    def failing(name: str, *args: Any) -> Any:
        if name == "msgspec":
            raise ModuleNotFoundError("no msgspec._core", name="msgspec._core")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", failing)
    for name in [name for name in sys.modules if name.startswith("retryexec.journal")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="_core"):
        importlib.import_module("retryexec.journal")
