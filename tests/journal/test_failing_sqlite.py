"""SQLite: locks, errors, logs that grow, and bugs of its own."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from helpers.journal_faults import Faulty, databases, error, own_file
from helpers.journal_kit import Process, Save, left_by
from journal.conftest import Open

from retryexec.journal import Journal, JournalError, _sqlite
from retryexec.journal._file import JournalFile

# ---- 7: locked by somebody else


def test_reader_does_not_block_the_writer(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("", 0))
    (database,) = databases(directory)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM job").fetchone() == (1,)
        journal.accept(Save("", 1))
        assert reader.execute("SELECT count(*) FROM job").fetchone() == (1,)
        reader.execute("ROLLBACK")
        assert reader.execute("SELECT count(*) FROM job").fetchone() == (2,)


def test_foreign_write_lock_refuses_jobs_and_keeps_outcomes(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite, "BUSY_MS", 1)
    journal, _ = open_journal(directory)
    entry = journal.accept(Save("", 0))
    (database,) = databases(directory)
    with closing(sqlite3.connect(database, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="locked"):
            journal.accept(Save("refused"))
        journal.succeeded(entry)
        stranger.execute("ROLLBACK")
    journal.accept(Save("", 1))
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("", 1)]


# ---- 8: an error that is none


def test_error_after_the_commit_is_not_a_refusal(
    open_journal: Open, directory: Path, faults: type[Faulty]
) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("", 0))

    def lie(sql: str) -> None:
        if sql == "COMMIT":
            faults.after = None
            raise error(sqlite3.SQLITE_IOERR, "disk I/O error")

    faults.after = lie
    entry = journal.accept(Save("", 1))
    assert faults.after is None  # it was told
    journal.succeeded(entry)
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("", 0)]


def test_unknown_commit_is_a_refusal_for_good(
    open_journal: Open, directory: Path, faults: type[Faulty]
) -> None:
    """It was committed, nobody can read that, the caller hears no: so it must go."""
    journal, _ = open_journal(directory)
    journal.accept(Save("", 0))

    def dark(sql: str) -> None:
        raise error(sqlite3.SQLITE_IOERR, "disk I/O error")

    def lie(sql: str) -> None:
        if sql == "COMMIT":
            faults.before = dark
            raise error(sqlite3.SQLITE_IOERR, "disk I/O error")

    faults.after = lie
    with pytest.raises(JournalError, match="I/O"):
        journal.accept(Save("", 1))
    (database,) = databases(directory)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:
        assert sql.execute("SELECT count(*) FROM job").fetchone() == (2,)
    faults.after = faults.before = None
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("", 0)]


# ---- 9: the log grows


def test_log_is_truncated_once_a_reader_has_gone(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory, accept="async", durability="process")
    entry = journal.accept(Save(""))
    assert journal.flush(10)
    (database,) = databases(directory)
    engine = journal._engine
    assert engine is not None
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM job").fetchone()
        for n in range(5000):
            journal.succeeded(entry)
            entry = journal.accept(Save("x" * 500, n))
            if n % 50 == 0:
                assert journal.flush(10)
        assert journal.flush(10)
        assert journal.stats().wal_bytes > 100_000
        engine.poll()
        engine.poll()  # a reader in the way costs nothing but the space
        assert journal.flush(10)
        reader.execute("ROLLBACK")
    journal.succeeded(entry)
    assert journal.flush(10)
    engine.poll()
    engine.poll()
    assert journal.flush(10)
    assert journal.stats().wal_bytes == 0


# ---- 10: SQLite's own bug


def test_old_sqlite_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the journal is made, and with what it means."""
    caplog.set_level("INFO", "retryexec.journal")
    _sqlite.tell_of_sqlite((3, 51, 3))
    assert caplog.records == []
    monkeypatch.setattr(_sqlite.tell_of_sqlite, "__defaults__", ((3, 40, 1),))
    for _ in range(2):
        Journal(tmp_path / "made", jobs={"save": Save})
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage().startswith("nothing to do, unless")
    assert "SQLite 3.40.1" in record.getMessage()


def test_one_connection_writes_and_checkpoints(
    open_journal: Open, directory: Path, faults: type[Faulty]
) -> None:
    """Whatever else opens an owner's file while that one lives would be a second one."""
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(10)]
    journal.died(entries[0], "permanent", 1)
    other, _ = open_journal(directory)
    other.accept(Save("other"))
    assert journal.flush(10)
    assert max(Counter(path for path in faults.paths if path.name != "dead.db").values()) == 1
    assert own_file(journal).sql.execute("PRAGMA mmap_size").fetchone() in {(0,), None}


# ---- 11: POSIX locks


def test_database_is_opened_by_sqlite_only(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing any descriptor of a file drops all of the process's POSIX locks on it.

    So a database may be opened by hand before SQLite has, to make it, and never again.
    """
    opened: list[str] = []
    real = os.open

    def watched(path: Any, flags: int, *args: Any, **options: Any) -> int:
        opened.append(Path(path).name)
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", watched)
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(3)]
    journal.died(entries[0], "permanent", 1)
    assert journal.flush(10)
    assert journal._engine is not None
    journal._engine.poll()
    journal._engine.poll()
    journal.dead.rerun(entries[0].id)
    journal.stats()
    journal.close()
    by_hand = [name for name in opened if ".db" in name]
    assert len(by_hand) == len(set(by_hand)) == 3, by_hand  # its own, the rerun's, dead.db


def test_writer_still_excludes_others_after_a_poll(open_journal: Open, directory: Path) -> None:
    """What the lock is for: a second connection cannot write while the first one does."""
    journal, _ = open_journal(directory)
    journal.accept(Save(""))
    own = own_file(journal)
    assert journal._engine is not None
    journal._engine.poll()
    with journal._engine.writer.io:
        own.sql.execute("BEGIN IMMEDIATE")
        try:
            lines = Process(
                directory,
                f"""
                import sqlite3
                sql = sqlite3.connect({str(own.path)!r}, timeout=0)
                try:
                    sql.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    say(error)
                """,
                wait=False,
            ).end()
        finally:
            own.sql.execute("ROLLBACK")
    assert lines == ["database is locked"]


# ---- what else may fail


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let the process open nothing more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_file_descriptors_refuses_the_first_job(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    with no_more_files(), pytest.raises(JournalError) as caught:
        journal.accept(Save("refused"))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EMFILE
    journal.accept(Save("welcome"))
    journal.close()
    assert left_by(directory) == [Save("welcome")]


def test_a_wait_that_is_interrupted_accepts_nothing(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        """A lock whose second acquire meets a Ctrl-C."""

        def __init__(self) -> None:
            self.calls = 0

        def acquire(self) -> None:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt

        def release(self) -> None:
            pass

    journal, _ = open_journal(directory)
    journal.accept(Save("before"))
    with monkeypatch.context() as patch:
        patch.setattr("retryexec.journal._journal.allocate_lock", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.accept(Save("given up"))
    journal.close()
    assert left_by(directory) == [Save("before")]


def test_unexpected_error_fails_those_who_wait(
    open_journal: Open,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    entry = journal.accept(Save("before"))

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "apply", broken)
        with pytest.raises(JournalError, match="could not"):
            journal.accept(Save("refused"))
        journal.succeeded(entry)
        assert not journal.flush(0.1)
    assert journal.flush(10)
    assert "does not know" in caplog.text
    journal.close()
    assert left_by(directory) == []


def test_accepted_futures_call_back_where_the_writer_may_be_waited_for(
    open_journal: Open, directory: Path
) -> None:
    """Not in the writer's own thread."""
    journal, _ = open_journal(directory, accept="async")
    flushed: SimpleQueue[bool] = SimpleQueue()
    engine = journal._engine
    assert engine is not None
    with engine.writer.io:
        journal.accept(Save("first"))
        accepted = journal.accept(Save("second")).accepted
        accepted.add_done_callback(lambda _: flushed.put(journal.flush(10)))
    assert flushed.get(timeout=20)
