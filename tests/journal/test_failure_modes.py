"""The failure modes of docs/failure-modes.md: a section for each, under the number of its row."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import pytest
from helpers.journal_kit import Call, Process, Save, killed, left_by
from journal.conftest import Open

from retryexec.journal import JobRefused, Journal, JournalError, JournalFull, _file, _sqlite
from retryexec.journal._file import JournalFile
from retryexec.journal._takeover import Mark, judge


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def databases(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.db") if path.name != "dead.db")


def own_file(journal: Journal) -> JournalFile:
    assert journal._engine is not None
    own = journal._engine.lanes.own
    assert own is not None
    return own


class Faulty(sqlite3.Connection):
    """A connection that fails, where and how it is told."""

    before: Callable[[str], None] | None = None
    after: Callable[[str], None] | None = None
    paths: ClassVar[list[Path]] = []  # of all that were opened

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if Faulty.before is not None:
            Faulty.before(sql)
        cursor = super().execute(sql, *args)
        if Faulty.after is not None:
            Faulty.after(sql)
        return cursor

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if Faulty.before is not None:
            Faulty.before(sql)
        return super().executemany(sql, *args)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    """Makes all connections faulty ones; they fail once their class is told how."""

    def connect(path: Path, **options: Any) -> sqlite3.Connection:
        Faulty.paths.append(path)
        return sqlite3.connect(path, factory=Faulty, **options)

    monkeypatch.setattr(_sqlite, "connect", connect)
    yield Faulty
    Faulty.before = Faulty.after = None
    Faulty.paths.clear()


def error(code: int, text: str = "made by a test") -> sqlite3.OperationalError:
    made = sqlite3.OperationalError(text)
    made.sqlite_errorcode = code
    return made


# ---- 3: the disk is full


def test_full_disk_refuses_jobs_and_keeps_outcomes(
    open_journal: Open,
    directory: Path,
    faults: type[Faulty],
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    first, second, third = (journal.accept(Save("", n)) for n in range(3))
    failures = []

    def full(sql: str) -> None:
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            failures.append(sql)
            raise error(sqlite3.SQLITE_FULL, "database or disk is full")

    faults.before = full
    with pytest.raises(JournalFull, match="disk is full"):
        journal.accept(Save("refused"))
    journal.succeeded(first)
    journal.retrying(second, 1, 5.0, OSError("busy"))
    journal.died(third, "permanent", 1)
    assert not journal.flush(0.3)
    assert not journal.stats().healthy
    assert any(sql.startswith("DELETE") for sql in failures) or len(failures) > 1
    assert caplog.text.count("cannot be written") == 1
    faults.before = None
    assert journal.flush(10)
    assert journal.stats().healthy
    assert "can be written again" in caplog.text
    assert [letter.fields["n"] for letter in journal.dead] == [2]
    journal.accept(Save("welcome"))
    journal.close()
    assert left_by(directory) == [Save("", 1), Save("welcome")]


def test_full_disk_fails_the_accepted_future_in_async_mode(
    open_journal: Open, directory: Path, faults: type[Faulty]
) -> None:
    journal, _ = open_journal(directory, accept="async")
    journal.accept(Save("first")).accepted.result(10)

    def full(sql: str) -> None:
        if sql.startswith("INSERT"):
            raise error(sqlite3.SQLITE_FULL)

    faults.before = full
    entry = journal.accept(Save("refused"))
    assert isinstance(entry.accepted.exception(10), JournalFull)
    assert isinstance(entry.refusal, JournalFull)
    faults.before = None
    journal.succeeded(entry)  # which it cannot be, and nobody minds
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("first")]


def test_disk_that_is_really_full(open_journal: Open, tmp_path: Path) -> None:
    """Nothing staged: a file may grow no further, as with a quota."""
    directory = tmp_path / "small"
    lines = Process(
        directory,
        """
        import resource
        from retryexec.journal import JournalError
        first = [journal.accept(Save("x" * 500, n)) for n in range(20)]
        (wal,) = Path(sys.argv[1]).glob("*.db-wal")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size, hard))
        try:
            journal.accept(Save("refused"))
        except JournalError as error:
            say("refused")
        for entry in first[:10]:
            journal.succeeded(entry)
        say(journal.flush(0.2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        say(journal.flush(10))
        journal.accept(Save("welcome"))
        journal.close()
        """,
        wait=False,
    ).end()
    assert lines == ["refused", "False", "True"]
    assert left_by(directory) == [*(Save("x" * 500, n) for n in range(10, 20)), Save("welcome")]


def test_full_disk_before_the_first_job(
    open_journal: Open, directory: Path, faults: type[Faulty]
) -> None:
    journal, _ = open_journal(directory)

    def full(sql: str) -> None:
        if sql.startswith("CREATE"):
            raise error(sqlite3.SQLITE_FULL)

    faults.before = full
    with pytest.raises(JournalFull):
        journal.accept(Save("refused"))
    faults.before = None
    assert list(directory.iterdir()) == []
    journal.accept(Save("welcome"))
    journal.close()
    assert left_by(directory) == [Save("welcome")]


def test_dead_letters_wait_while_the_disk_is_full(
    open_journal: Open,
    directory: Path,
    faults: type[Faulty],
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, _ = open_journal(directory)
    entry, other = journal.accept(Save("dies")), journal.accept(Save("done"))

    def full(sql: str) -> None:
        if "INTO dead" in sql:
            raise error(sqlite3.SQLITE_FULL)

    faults.before = full
    journal.died(entry, "permanent", 1)
    journal.succeeded(other)
    assert not journal.flush(0.3)
    assert journal.stats().unfinished == 1  # the other one is through
    faults.before = None
    assert journal.flush(10)
    assert len(journal.dead) == 1
    assert journal.stats().unfinished == 0
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


# ---- 4: a damaged file


def damage(path: Path, place: int, size: int = 64) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(os.urandom(size))


def test_damaged_file_is_set_aside_and_salvaged(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = 2000
    journal, _ = open_journal(directory, accept="async")
    for n in range(jobs):
        journal.accept(Save("x" * 100, n))
    assert journal.flush(10)
    journal.close()
    (database,) = databases(directory)
    pages = database.stat().st_size // 4096
    damage(database, (pages // 2) * 4096, 4096)
    journal, host = open_journal(directory)
    journal.poll()  # for what was saved into a new file
    saved = {job.n for job in host.jobs}
    assert len(saved) == len(host.jobs)
    assert jobs * 0.9 < len(saved) < jobs
    (aside,) = directory.glob("*.corrupt-*")
    assert aside.name.startswith(database.name)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"{len(saved)} jobs saved" in caplog.text
    journal.close()
    caplog.clear()
    assert len(left_by(directory)) == len(saved)
    assert caplog.text == ""  # told once


def test_file_that_is_not_a_database_is_set_aside(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "journal.accept(Save('lost'))")
    (database,) = databases(directory)
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    database.write_bytes(b"no database at all" * 1000)
    journal, host = open_journal(directory)
    assert host.jobs == []
    assert "0 jobs saved" in caplog.text
    assert len(list(directory.glob("*.corrupt-*"))) == 1
    assert journal.poll() == 0


def test_file_damaged_while_in_use_is_replaced(
    open_journal: Open,
    directory: Path,
    faults: type[Faulty],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All that was in it is in memory."""
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(5)]
    journal.retrying(entries[0], 2, 60.0, OSError("busy"))
    assert journal.flush(10)
    (database,) = databases(directory)

    def corrupt(sql: str) -> None:
        faults.before = None
        raise error(sqlite3.SQLITE_CORRUPT, "database disk image is malformed")

    faults.before = corrupt
    journal.accept(Save("", 5))
    (moved,) = databases(directory)
    assert moved != database
    assert list(directory.glob(f"{database.name}.corrupt-*"))
    journal.succeeded(entries[1])
    assert journal.flush(10)
    assert "is lost" in caplog.text
    journal.close()
    journal, host = open_journal(directory)
    assert {job.n for job in host.jobs} == {0, 2, 3, 4, 5}
    assert [entry.attempts for entry in host.recovered if entry.job.n == 0] == [2]


def test_damaged_dead_letters_are_set_aside(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    journal.died(journal.accept(Save("")), "permanent", 1)
    assert journal.flush(10)
    (directory / "dead.db").write_bytes(b"no database at all" * 1000)
    journal.died(journal.accept(Save("next")), "permanent", 1)
    assert journal.flush(10)
    assert [letter.fields["email"] for letter in journal.dead] == ["next"]
    assert "dead letters are damaged" in caplog.text


# ---- 5: the file is taken away


@pytest.mark.parametrize("how", ["removed", "replaced", "moved with its directory"])
def test_removed_or_replaced_file_moves_its_jobs_to_a_new_one(
    open_journal: Open, directory: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes on in the old file nobody will find: all jobs move to a new one."""
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(5)]
    journal.retrying(entries[0], 3, 60.0, OSError("busy"))
    assert journal.flush(10)
    (database,) = databases(directory)
    if how == "removed":
        for path in directory.iterdir():
            path.unlink()
    elif how == "replaced":
        other = directory / "other"
        with closing(sqlite3.connect(other)) as sql:
            sql.execute("CREATE TABLE job(seq)")
        other.replace(database)
    else:
        directory.rename(directory.with_name("elsewhere"))
        directory.mkdir()
    journal.succeeded(entries[1])
    journal.accept(Save("", 5))
    assert "is lost" in caplog.text
    # What is on disk now must do for the next process.
    rows = []
    for path in databases(directory):
        if path != database:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
                rows += sql.execute("SELECT json_extract(data,'$.n'), attempts FROM job").fetchall()
    assert journal.flush(10)
    assert min(rows) == (0, 3)
    assert {n for n, _ in rows} - {1} == {0, 2, 3, 4, 5}
    journal.close()
    if how != "replaced":
        assert sorted(job.n for job in left_by(directory)) == [0, 2, 3, 4, 5]


def test_idle_journal_notices_that_its_file_was_removed(
    open_journal: Open, directory: Path
) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save("waits for hours"))
    for path in directory.iterdir():
        path.unlink()
    assert journal._engine is not None
    journal._engine.poll()
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("waits for hours")]


def test_removed_directory_refuses_jobs_and_loses_none(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(3)]
    elsewhere = directory.with_name("elsewhere")
    directory.rename(elsewhere)
    with pytest.raises(JournalError):
        journal.accept(Save("refused"))
    journal.succeeded(entries[0])
    assert not journal.flush(0.2)
    directory.mkdir()
    assert journal.flush(10)
    journal.close()
    assert left_by(directory) == [Save("", 1), Save("", 2)]


# ---- 6: a torn log


def test_torn_log_loses_only_the_torn_transaction(open_journal: Open, directory: Path) -> None:
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    (wal,) = directory.glob("*.db-wal")
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 100)
    _, host = open_journal(directory)
    assert [job.n for job in host.jobs] == list(range(19))


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


# ---- 12 and 13: forks


def test_forked_child_has_its_own_file(open_journal: Open, directory: Path) -> None:
    lines = Process(
        directory,
        """
        entries = [journal.accept(Save("parent", n)) for n in range(3)]
        (parents,) = Path(sys.argv[1]).glob("*.db")
        if pid := os.fork():
            assert os.waitpid(pid, 0)[1] == 0
            journal.succeeded(entries[0])
            journal.accept(Save("parent", 3))
            journal.flush()
            import sqlite3
            sql = sqlite3.connect(f"file:{parents}?mode=ro", uri=True)
            say(sql.execute("PRAGMA integrity_check").fetchone()[0])
            say(len(list(Path(sys.argv[1]).glob("*.db"))))
            os._exit(0)
        journal.succeeded(entries[1])      # the parent's: no affair of the child's
        journal.accept(Save("child", 0))
        journal.succeeded(journal.accept(Save("child", 1)))
        assert journal.flush(10)
        os._exit(0)
        """,
        wait=False,
    ).end()
    assert lines == ["ok", "2"]
    _, host = open_journal(directory)
    assert sorted((job.email, job.n) for job in host.jobs) == [
        ("child", 0),
        ("parent", 1),
        ("parent", 2),
        ("parent", 3),
    ]


def test_fork_while_all_threads_are_busy(open_journal: Open, directory: Path) -> None:
    """No lock of SQLite's, or of ours, is inherited from a thread that the child lacks."""
    lines = Process(
        directory,
        """
        stop = threading.Event()

        def hammer():
            while not stop.is_set():
                journal.succeeded(journal.accept(Save("parent")))
                journal.poll()
                len(journal.dead)

        threads = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(15):
            if pid := os.fork():
                assert os.waitpid(pid, 0)[1] == 0
            else:
                journal.died(journal.accept(Save("child", n)), "permanent", 1)
                journal.accept(Save("child", n))
                assert journal.flush(10)
                os._exit(0)
        stop.set()
        for thread in threads:
            thread.join()
        journal.close()
        say("done")
        """,
        wait=False,
    ).end()
    assert lines == ["done"]
    journal, host = open_journal(directory)
    while journal.poll():  # opening it takes over no more files than there is time for
        pass
    assert sorted(job.n for job in host.jobs) == list(range(15))
    assert len(journal.dead) == 15


def test_forked_child_does_not_keep_the_lock_of_its_dead_parent(
    open_journal: Open, directory: Path
) -> None:
    """Neither a forked one nor what is started by exec, though both live on."""
    process = Process(
        directory,
        """
        import subprocess
        journal.accept(Save("orphaned"))
        if pid := os.fork():
            other = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
            say("children", pid, other.pid)
        else:
            os.close(1)
            sys.stdin.read()
            threading.Event().wait(60)
            os._exit(0)
        """,
    )
    (line,) = [line for line in process.lines if line.startswith("children")]
    children = [int(pid) for pid in line.split()[1:]]
    try:
        process.kill()
        for pid in children:
            os.kill(pid, 0)  # alive
        _, host = open_journal(directory)
        assert host.jobs == [Save("orphaned")]
    finally:
        for pid in children:
            os.kill(pid, 9)


def test_lock_that_outlives_its_owner_is_logged(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a child made behind Python's back: there is nothing else to be done."""
    process = Process(
        directory,
        """
        import ctypes
        journal.accept(Save("orphaned"))
        journal.flush()
        pid = ctypes.CDLL(None).fork()
        if pid == 0:
            os.close(1)
            ctypes.CDLL(None).pause()
        say("child", pid)
        """,
    )
    (line,) = [line for line in process.lines if line.startswith("child")]
    child = int(line.split()[1])
    try:
        process.kill()
        journal, host = open_journal(directory)
        assert host.jobs == []
        assert journal.poll() == 0
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1
        assert f"process {process.popen.pid} has ended" in told[0]
    finally:
        os.kill(child, 9)
    # The kernel needs a moment for what a signal has begun.
    while not journal.poll():
        pass
    assert host.jobs == [Save("orphaned")]


# ---- 17: a job that kills its process

KILLER = """
from retryexec.journal import Entry

# Runs what it is given, in order; job 13 kills.
entries = [*host.recovered] or [journal.accept(Save("", n)) for n in (11, 12, 13, 14, 15)]
"""


def test_poison_job_becomes_a_dead_letter(open_journal: Open, directory: Path) -> None:
    """Five jobs at work at the same time, one of them kills: the others pay one delay each."""
    killed(
        directory,
        """
        host.at_work = [journal.accept(Save("", n)) for n in (11, 12, 13, 14, 15)]
        journal.accept(Save("", 16))        # a batch in which the others are seen at work
        """,
    )
    runs = dict.fromkeys(range(11, 17), 0)
    for _ in range(3):
        lines = killed(
            directory,
            """
            def work():
                while True:
                    entry = host.next()
                    host.at_work = [entry]
                    say("run", entry.job.n, entry.crashes, len(host.hands[-1]))
                    if entry.job.n == 13:
                        say("killed")
                        threading.Event().wait()
                    journal.succeeded(entry)

            threading.Thread(target=work, daemon=True).start()
            while not host.at_work or host.at_work[0].job.n != 13:
                if journal.stats().unfinished == 0:
                    break
            """,
        )
        for line in lines:
            if line.startswith("run"):
                runs[int(line.split()[1])] += 1
    assert runs.pop(13) == 2
    assert set(runs.values()) == {1}
    journal, host = open_journal(directory)
    assert host.jobs == []
    assert journal.flush(10)
    (letter,) = journal.dead
    assert (letter.fields["n"], letter.reason, letter.crashes) == (13, "crashes", 3)


def test_suspects_run_one_at_a_time_and_are_marked_before(
    open_journal: Open, directory: Path
) -> None:
    killed(
        directory,
        """
        host.at_work = [journal.accept(Save("", n)) for n in (1, 2, 3)]
        journal.accept(Save("", 4))
        """,
    )
    journal, host = open_journal(directory)
    assert host.next().job.n == 4  # was not at work, and is not kept waiting
    (database,) = databases(directory)

    def marked() -> list[int]:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:
            query = "SELECT json_extract(data,'$.n') FROM job WHERE started=1"
            return [n for (n,) in sql.execute(query)]

    for n in (1, 2, 3):
        entry = host.next()
        assert (entry.job.n, entry.crashes, marked()) == (n, 1, [n])
        assert journal.flush(10)
        assert len(host.recovered) == n + 1  # and no other
        if n == 2:
            journal.retrying(entry, 1, 0.0, OSError("failed, but did not kill"))
        else:
            journal.succeeded(entry)
    assert journal.flush(10)
    assert marked() == []


def test_poison_job_that_kills_before_it_is_marked(open_journal: Open, directory: Path) -> None:
    """It kills before a batch could show it at work: then all run one at a time."""
    killed(directory, "for n in range(4): journal.accept(Save('', n))")
    runs = []
    for _ in range(4):
        process = Process(
            directory,
            """
            def work():
                while True:
                    entry = host.next()
                    say("run", entry.job.n)
                    if entry.job.n == 2:
                        say("at the killer")
                        threading.Event().wait()
                    journal.succeeded(entry)
                    journal.flush()

            threading.Thread(target=work, daemon=True).start()
            threading.Event().wait()
            """,
            wait=False,
        )
        process.until("at the killer")
        runs += [line for line in process.kill() if line.startswith("run")]
    assert [line for line in runs if line != "run 3"] == ["run 0", "run 1", *["run 2"] * 4]
    journal, _ = open_journal(directory)
    assert journal.flush(10)
    (letter,) = journal.dead
    assert (letter.fields["n"], letter.crashes) == (2, 3)
    journal.close()
    assert left_by(directory) == [Save("", 3)] * ("run 3" not in runs)


def test_reboot_makes_no_suspects(open_journal: Open, directory: Path) -> None:
    for _ in range(4):
        killed(directory, "host.at_work = [*host.recovered] or [journal.accept(Save('long'))]")
        (lock,) = directory.glob("*.lock")
        pid, _, started = lock.read_text().split()
        lock.write_text(f"{pid} another-boot {started}")
    _, host = open_journal(directory)
    assert [(entry.job.email, entry.crashes) for entry in host.recovered] == [("long", 0)]


def test_suspect_that_kills_in_a_later_attempt(open_journal: Open, directory: Path) -> None:
    """It fails first, and so takes its mark off, and has another one before it starts again."""
    killed(directory, "host.at_work = [journal.accept(Save('killer'))]; journal.accept(Save(''))")
    dead: list[str] = []
    for _ in range(3):
        assert not dead
        dead = killed(
            directory,
            """
            journal.flush()
            for letter in journal.dead:
                say(letter.fields["email"], letter.crashes)
            if not len(journal.dead):
                while (entry := host.next()).job.email != "killer":
                    journal.succeeded(entry)
                journal.retrying(entry, entry.attempts + 1, 0.0, OSError("busy"))
                journal.flush()
                journal.starting(entry)
            """,
        )[:-1]
    assert dead == ["killer 3"]


def test_only_the_first_jobs_run_alone_after_an_unmarked_crash(
    open_journal: Open, directory: Path
) -> None:
    """Of many, the first in line run one at a time; the killer was one of them."""
    killed(directory, "for n in range(500): journal._waits = n == 499; journal.accept(Save('', n))")
    killed(directory, "")
    journal, host = open_journal(directory)
    assert journal.flush(10)
    assert {host.next().job.n for _ in range(437)} == {0, *range(64, 500)}
    assert len(only_file(journal).suspects) == 63


def only_file(journal: Journal) -> JournalFile:
    assert journal._engine is not None
    (file,) = journal._engine.lanes.all()
    return file


@pytest.mark.parametrize(
    ("marks", "adoptions", "blamed", "serial"),
    [
        ([], 1, [], 0),
        ([], 2, [], 64),
        ([], 4, [], 256),
        ([(1, 0), (2, 0)], 1, [1, 2], 0),
        ([(1, 0), (2, 1)], 5, [2], 0),
    ],
)
def test_who_is_a_suspect(
    marks: list[tuple[int, int]], adoptions: int, blamed: list[int], serial: int
) -> None:
    verdict = judge([Mark(*mark) for mark in marks], adoptions)
    assert (sorted(verdict.blamed), verdict.serial) == (blamed, serial)


# ---- 18: shutdown leaves the rest


def test_unfinished_jobs_at_close_are_taken_over(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory, accept="async")
    entries = [journal.accept(Save("", n)) for n in range(2500)]
    for entry in entries[:1000]:
        journal.succeeded(entry)
    journal.close()
    assert [job.n for job in left_by(directory)] == list(range(1000, 2500))


def test_outcomes_are_written_at_exit_without_a_close(open_journal: Open, directory: Path) -> None:
    lines = Process(
        directory,
        """
        entries = [journal.accept(Save("", n)) for n in range(3)]
        for entry in entries[:2]:
            journal.succeeded(entry)
        """,
        wait=False,
    ).end()
    assert lines == []
    assert left_by(directory) == [Save("", 2)]


# ---- 22: history


def test_no_statement_scans_the_history(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    journal.died(journal.accept(Save("")), "permanent", 1)
    entry = journal.accept(Save(""))
    assert journal.flush(10)
    own = own_file(journal)

    def plan(sql: sqlite3.Connection, statement: str) -> str:
        values = (1,) * statement.count("?")
        rows = sql.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        return " ".join(str(row[-1]) for row in rows)

    for statement in (_file.UPDATE, _file.MARK, _file.DELETE):
        assert "USING INTEGER PRIMARY KEY" in plan(own.sql, statement), statement
    with closing(sqlite3.connect(directory / "dead.db")) as sql:
        for where in ("id=?", "source=? OR rerun_to=?", "kind=?"):
            words = plan(sql, f"SELECT id FROM dead WHERE {where}")  # noqa: S608  ours
            assert "SCAN" not in words, words
            assert "INDEX" in words, words
    journal.succeeded(entry)


# ---- 23, 26


def test_too_large_a_job_is_refused_and_the_rest_goes_on(
    open_journal: Open, directory: Path
) -> None:
    journal, _ = open_journal(directory, max_bytes=1000)
    with pytest.raises(JobRefused, match="max_bytes=1,000"):
        journal.accept(Call("x" * 1000))
    journal.accept(Call("y"))
    journal.close()
    assert left_by(directory) == [Call("y")]


# ---- 27: versions


def test_newer_file_is_left_for_newer_versions(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "journal.accept(Save('future'))")
    (database,) = databases(directory)
    with closing(sqlite3.connect(database)) as sql:
        sql.execute("PRAGMA user_version=4")
    before = database.read_bytes()
    journal, host = open_journal(directory)
    assert journal.poll() == 0
    assert host.jobs == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "version 4" in caplog.text
    assert database.read_bytes() == before
    journal.accept(Save("mine"))  # which goes on as ever
    journal.close()
    with closing(sqlite3.connect(database)) as sql:
        sql.execute("PRAGMA user_version=2")
    assert sorted(job.email for job in left_by(directory)) == ["future", "mine"]


def test_unknown_records_are_parked_and_come_back(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(
        directory,
        """
        for n in range(3):
            journal.accept(Save("", n))
            journal.accept(Call(str(n)))
        """,
    )
    journal, host = open_journal(directory, jobs={"save": Save})
    assert host.jobs == [Save("", n) for n in range(3)]
    assert journal.stats().parked == 3
    (database,) = databases(directory)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:
        reasons = sql.execute("SELECT kind, parked FROM job WHERE parked IS NOT NULL").fetchall()
    assert reasons == [("call", "kind 'call' is not registered here")] * 3
    for entry in host.recovered:
        journal.succeeded(entry)
    assert journal.flush(10)
    # With nothing but them in it the file is let go, and not looked at for ever.
    assert journal.stats().files == 0
    stamp = database.stat().st_mtime_ns
    assert journal.poll() == 0
    assert database.stat().st_mtime_ns == stamp
    assert len([record for record in caplog.records if "parked" in record.getMessage()]) == 1
    _, other = open_journal(directory)  # in another process, with the class
    assert other.jobs == [Call(str(n)) for n in range(3)]
    assert all(entry.crashes == 0 for entry in other.recovered)


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


# ---- 15: orphans


def test_owner_names_are_never_reused(open_journal: Open, directory: Path) -> None:
    names = set()
    for n in range(3):
        journal, host = open_journal(directory)
        names.add(journal.accept(Save("", n)) and own_file(journal).lock.owner)
        journal.close()
        assert len(host.jobs) == n
    assert len(names) == 3


def test_jobs_are_recovered_without_a_record_of_owners(open_journal: Open, directory: Path) -> None:
    """Neither a process number that another has by now, nor the file's own word."""
    killed(directory, "journal.accept(Save('orphan'))")
    (database,) = databases(directory)
    with closing(sqlite3.connect(database, isolation_level=None)) as sql:
        sql.execute("DELETE FROM meta")
    lock = database.with_suffix(".lock")
    lock.write_text(" ".join([str(os.getpid()), *lock.read_text().split()[1:]]))
    _, host = open_journal(directory)
    assert host.jobs == [Save("orphan")]


# ---- 19: what was running is run again


def test_job_of_a_dead_process_is_run_again(open_journal: Open, directory: Path) -> None:
    killed(
        directory,
        """
        host.at_work = [journal.accept(Save("was running"))]
        journal.accept(Save("was waiting"))
        """,
    )
    journal, host = open_journal(directory)
    assert {host.next().job.email for _ in range(2)} == {"was running", "was waiting"}
    assert len(journal.dead) == 0


def test_max_crashes_of_one_makes_it_a_dead_letter_at_once(
    open_journal: Open, directory: Path
) -> None:
    killed(
        directory,
        """
        host.at_work = [journal.accept(Save("was running"))]
        journal.accept(Save("was waiting"))
        """,
    )
    journal, host = open_journal(directory, max_crashes=1)
    assert journal.flush(10)
    assert host.jobs == [Save("was waiting")]
    assert [letter.fields["email"] for letter in journal.dead] == ["was running"]


# ---- 20: one end


def test_first_outcome_counts(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    first, second = journal.accept(Save("done")), journal.accept(Save("dead"))
    engine = journal._engine
    assert engine is not None
    with engine.writer.io:  # neither is on disk before the other is said
        journal.succeeded(first)
        journal.died(first, "permanent", 1)
        journal.died(second, "permanent", 1)
        journal.succeeded(second)
    assert journal.flush(10)
    assert [letter.fields["email"] for letter in journal.dead] == ["dead"]
    journal.close()
    assert left_by(directory) == []


def test_entry_written_twice_in_one_batch_is_not_late(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(2)]
    engine = journal._engine
    assert engine is not None
    with engine.writer.io:
        for entry in entries:
            journal.retrying(entry, 1, 0.0, OSError("busy"))
            journal.succeeded(entry)
    assert journal.flush(10)
    assert caplog.records == []
    journal.close()
    assert left_by(directory) == []


def test_late_outcome_is_logged(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner's lock was removed, a minute passed, somebody else took its jobs."""
    journal, _ = open_journal(directory)
    entries = [journal.accept(Save("", n)) for n in range(3)]
    (database,) = databases(directory)
    database.with_suffix(".lock").unlink()
    os.utime(database, (1, 1))
    other, host = open_journal(directory)
    assert host.jobs == [entry.job for entry in entries]
    for entry in host.recovered[:2]:
        other.succeeded(entry)
    assert other.flush(10)
    assert caplog.records == []
    journal.succeeded(entries[0])
    journal.succeeded(entries[1])
    assert journal.flush(10)
    (record,) = caplog.records
    assert record.getMessage().startswith("2 jobs that have ended here were no longer in")
    other.succeeded(host.recovered[2])
    assert other.flush(10)


# ---- 21: order


def test_retry_may_run_after_jobs_accepted_later(open_journal: Open, directory: Path) -> None:
    """A limit, and no promise: a save that must not overwrite a later one has to see to that."""
    journal, _ = open_journal(directory)
    first = journal.accept(Save("john@example.com", 1))
    second = journal.accept(Save("john@example.com", 2))
    journal.retrying(first, 1, 60.0, OSError("busy"))
    assert journal.flush(10)
    journal.close()
    _, host = open_journal(directory)
    due = {entry.job.n: entry.due_in for entry in host.recovered}
    assert due[1] > 50.0 > due[2] == 0.0
    # What such a save has to go by.
    assert first.id < second.id
    assert [entry.accepted_at for entry in host.recovered] == [
        first.accepted_at,
        second.accepted_at,
    ]


# ---- 23: a storm at start


def test_overdue_retries_are_released_a_few_at_a_time(open_journal: Open, directory: Path) -> None:
    time = [1000.0]
    options: dict[str, Any] = {"wall_clock": lambda: time[0], "accept": "async"}
    journal, _ = open_journal(directory, **options)
    for n in range(1500):
        journal.retrying(journal.accept(Save("", n)), 1, 10.0 if n % 2 else 0.5, OSError("down"))
    fresh = journal.accept(Save("fresh"))
    journal.close()
    time[0] += 3600
    _, host = open_journal(directory, **options)
    due = [entry.due_in for entry in host.recovered]
    assert sum(wait == 0.0 for wait in due[:1500]) == 100
    for second in range(1, 10):
        assert sum(second <= wait < second + 1 for wait in due[1:1500:2]) == 50
    # None has to wait longer than it asked for, and one that has not failed not at all.
    assert max(due[::2]) == 0.5
    assert max(due) == 10.0
    assert [e.due_in for e in host.recovered if e.id == fresh.id] == [0.0]
