"""Forks of a process that has a journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.journal_kit import Process, Save
from journal.conftest import Open

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

        threads = [threading.Thread(target=hammer, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(10):
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
    assert sorted(job.n for job in host.jobs) == list(range(10))
    assert len(journal.dead) == 10


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
