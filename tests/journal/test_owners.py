"""Files, their owners, and what others do with the files of the dead."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import JOBS, Call, FakeHost, Process, Save, crash, killed, left_by
from journal.conftest import Open

from retryexec.journal import Journal, JournalError
from retryexec.journal._directory import Directory, filesystem_of
from retryexec.journal._ids import ids


def databases(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.db") if path.name != "dead.db")


def query(path: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# ---- files


def test_nothing_is_written_before_the_first_job(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    assert list(directory.iterdir()) == []
    journal.accept(Save(""))
    (database,) = databases(directory)
    assert database.with_suffix(".lock").exists()


def test_only_the_owner_may_read(open_journal: Open, directory: Path) -> None:
    before = os.umask(0)
    try:
        journal, _ = open_journal(directory)
        journal.died(journal.accept(Save("")), "permanent", 1)
        journal.accept(Save(""))
        assert journal.flush(10)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert len(modes) >= 4
    assert set(modes.values()) == {0o600}


def test_a_journal_with_nothing_left_leaves_nothing(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    journal.succeeded(journal.accept(Save("")))
    journal.close()
    assert list(directory.iterdir()) == []


def test_anyone_can_read_the_jobs(open_journal: Open, directory: Path) -> None:
    """With the sqlite3 shell, say: JSON functions included."""
    journal, _ = open_journal(directory)
    entry = journal.accept(Save("john@example.com", 3))
    (database,) = databases(directory)
    rows = query(database, "SELECT id, kind, ver, json_extract(data, '$.email') FROM job")
    assert rows == [(entry.id, "save", 1, "john@example.com")]


def test_many_rows_are_written_as_few_statements_and_as_they_are(
    open_journal: Open, directory: Path
) -> None:
    """1,234 in one batch: sizes of all kinds."""
    journal, _ = open_journal(directory, accept="async")
    engine = journal._engine
    assert engine is not None
    with engine.writer.io:  # nothing is written before all have come
        entries = [journal.accept(Save("", n)) for n in range(1234)]
    assert journal.flush(10)
    (database,) = databases(directory)
    rows = query(database, "SELECT seq, id, json_extract(data, '$.n') FROM job ORDER BY seq")
    assert rows == [(n + 1, entry.id, n) for n, entry in enumerate(entries)]
    for entry in entries[::3] + entries[1::3]:
        journal.succeeded(entry)
    assert journal.flush(10)
    rows = query(database, "SELECT id FROM job ORDER BY seq")
    assert rows == [(entry.id,) for entry in entries[2::3]]


def test_a_job_that_ends_before_it_is_written_is_not(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory, accept="async")
    engine = journal._engine
    assert engine is not None
    with engine.writer.io:
        # The writer may hold one batch by now; what comes after waits for it.
        journal.accept(Save("first"))
        quick, dying = journal.accept(Save("quick")), journal.accept(Save("dying"))
        accepted = quick.accepted
        journal.succeeded(quick)
        journal.died(dying, "permanent", 1)
    assert journal.flush(10)
    assert accepted.result(10) is None
    assert [letter.fields["email"] for letter in journal.dead] == ["dying"]
    assert left_by_closing(journal) == [Save("first")]


def left_by_closing(journal: Journal) -> list[Any]:
    journal.close()
    return left_by(Path(journal.directory))


def test_an_idle_journal_neither_writes_nor_wakes(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    journal.accept(Save(""))
    engine = journal._engine
    assert engine is not None
    engine.poll()  # one to see that it rests, one to tidy
    engine.poll()
    assert journal.flush(10)
    assert journal.stats().wal_bytes == 0

    def state() -> dict[str, tuple[int, int]]:
        found = {path.name: path.stat() for path in directory.iterdir()}
        return {name: (s.st_mtime_ns, s.st_size) for name, s in found.items()}

    before = state()
    for _ in range(3):
        engine.poll()
        assert engine.writer.is_idle()
    assert state() == before


# ---- adoption


def test_jobs_of_a_killed_process_are_taken_over(open_journal: Open, directory: Path) -> None:
    lines = killed(
        directory,
        """
        for n in range(50):
            entry = journal.accept(Save("", n))
            if n % 2:
                journal.succeeded(entry)
        journal.retrying(entry := journal.accept(Call("/")), 4, 9.0, OSError("busy"))
        journal.flush()
        """,
    )
    assert lines == ["ready"]
    journal, host = open_journal(directory)
    assert host.jobs == [Save("", n) for n in range(0, 50, 2)] + [Call("/")]
    assert host.recovered[-1].attempts == 4
    assert 0 < host.recovered[-1].due_in <= 9.0
    for entry in host.recovered:
        journal.succeeded(entry)
    assert journal.flush(10)
    assert list(directory.iterdir()) == []


def test_jobs_of_living_processes_are_left_alone(open_journal: Open, directory: Path) -> None:
    process = Process(directory, "journal.accept(Save('alive'))")
    journal, host = open_journal(directory)
    assert journal.poll() == 0
    assert host.jobs == []
    process.kill()
    assert journal.poll() == 1
    assert host.jobs == [Save("alive")]
    assert journal.poll() == 0


def test_stopped_process_is_not_dead(open_journal: Open, directory: Path) -> None:
    """Not a heartbeat, which SIGSTOP and a laptop's lid take away, but a lock."""
    import signal

    process = Process(directory, "journal.accept(Save('asleep'))")
    process.popen.send_signal(signal.SIGSTOP)
    journal, host = open_journal(directory)
    assert journal.poll() == 0
    assert host.jobs == []
    process.popen.send_signal(signal.SIGCONT)
    process.kill()
    assert journal.poll() == 1


def test_two_processes_take_over_disjoint_jobs(open_journal: Open, directory: Path) -> None:
    killed(directory, "for n in range(9): journal.accept(Save('', n))")
    _, one = open_journal(directory)
    _, two = open_journal(directory)
    assert (len(one.jobs), len(two.jobs)) == (9, 0)


def test_one_process_takes_over_a_share_only(
    open_journal: Open, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several that start at the same time share what several have left."""
    monkeypatch.setattr("retryexec.journal._engine.ENOUGH", 5)

    def leave(count: int) -> None:
        dying = [open_journal(directory)[0] for _ in range(count)]
        for journal in dying:
            for n in range(4):
                journal.accept(Save("", n))
        for journal in dying:
            crash(journal)

    leave(4)
    first, one = open_journal(directory)
    assert len(one.jobs) == 8
    second, two = open_journal(directory)
    assert len(two.jobs) == 8
    for entry in one.recovered:
        first.succeeded(entry)
    assert first.flush(10)
    assert first.poll() == 0
    leave(3)
    # One more at each look, however much it has: somebody must, in the end.
    assert [second.poll() for _ in range(4)] == [4, 4, 4, 0]


def test_ids_of_many_threads_are_all_different() -> None:
    (new, _), found, gate = ids(), [], threading.Barrier(4)

    def make() -> None:
        gate.wait()
        found.extend([new(1.0) for _ in range(5000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 20000


def test_jobs_of_a_dead_adopter_are_taken_over_in_turn(open_journal: Open, directory: Path) -> None:
    killed(directory, "for n in range(9): journal.accept(Save('', n))")
    killed(directory, "for entry in host.recovered[:4]: journal.succeeded(entry)\njournal.flush()")
    # Two owners in a row have died and left no mark: from now on, one at a time.
    journal, host = open_journal(directory)
    for n in range(4, 9):
        entry = host.next()
        assert entry.job == Save("", n)
        assert list(host.hands[-1]) == [entry]
        journal.succeeded(entry)
    assert journal.flush(10)


def test_a_clean_end_is_not_a_crash(open_journal: Open, directory: Path) -> None:
    """However often: nobody is blamed, and nothing is run one at a time."""
    for _ in range(5):
        journal, host = open_journal(directory)
        if not host.jobs:
            host.at_work = [journal.accept(Save("", n)) for n in range(3)]
        else:
            host.at_work = host.recovered
        journal.retrying(journal.accept(Save("")), 1, 0.0, None)  # a batch, to mark what runs
        assert journal.flush(10)
        journal.close()
    files = len(databases(directory))
    _, host = open_journal(directory)
    assert (len(host.hands), len(host.recovered)) == (files, 8)
    assert all(entry.crashes == 0 for entry in host.recovered)


def test_a_lock_without_a_file_is_tidied_away(open_journal: Open, directory: Path) -> None:
    open_journal(directory)
    lock = Directory(directory).new()
    lock.release()
    assert lock.path.exists()
    open_journal(directory)
    assert not lock.path.exists()


def test_a_file_that_was_never_finished_is_tidied_away(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_journal(directory)
    lock = Directory(directory).new()
    lock.database.touch()
    lock.release()
    open_journal(directory)
    assert list(directory.iterdir()) == []
    assert caplog.text == ""


def test_an_owner_whose_lock_was_removed_takes_it_back(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    entry = journal.accept(Save("mine"))
    (database,) = databases(directory)
    database.with_suffix(".lock").unlink()
    _, thief = open_journal(directory)
    assert thief.jobs == []  # the file is young
    engine = journal._engine
    assert engine is not None
    engine.poll()
    assert journal.flush(10)
    for path in directory.iterdir():
        os.utime(path, (0, 0))
    _, thief = open_journal(directory)
    assert thief.jobs == []
    journal.succeeded(entry)
    assert journal.flush(10)
    assert query(database, "SELECT count(*) FROM job") == [(0,)]


def test_old_file_without_a_lock_is_taken_over(open_journal: Open, directory: Path) -> None:
    killed(directory, "journal.accept(Save('left'))")
    (database,) = databases(directory)
    database.with_suffix(".lock").unlink()
    for path in directory.iterdir():
        os.utime(path, (0, 0))
    _, host = open_journal(directory)
    assert host.jobs == [Save("left")]


def test_a_host_that_fails_loses_nothing(
    open_journal: Open, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(FakeHost):
        def recover(self, entries: Any) -> None:
            msg = f"not now, {len(entries)} jobs"
            raise RuntimeError(msg)

    killed(directory, "journal.accept(Save('left'))")
    journal = Journal(directory, jobs=JOBS)
    journal.open(Failing())
    journal.close()
    assert "wait for the next start" in caplog.text
    _, host = open_journal(directory)
    assert host.jobs == [Save("left")]


def test_dead_letters_are_rerun_by_a_process_that_runs_nothing(
    open_journal: Open, directory: Path
) -> None:
    """As the command line does, beside a live owner whose files it never touches."""
    journal, host = open_journal(directory)
    entry = journal.accept(Save("dead"))
    journal.died(entry, "permanent", 1)
    assert journal.flush(10)
    Journal(directory, jobs={}).dead.rerun(entry.id)
    assert journal.poll() == 1
    assert [(e.id, e.job) for e in host.recovered] == [(entry.id, Save("dead"))]
    assert len(journal.dead) == 0


@pytest.mark.parametrize("step", [1, 2, 3])
def test_half_written_rerun_neither_loses_nor_doubles_a_job(
    open_journal: Open, directory: Path, step: int
) -> None:
    journal, host = open_journal(directory)
    entry = journal.accept(Save("dead"))
    journal.died(entry, "permanent", 1)
    assert journal.flush(10)
    killed(
        directory,
        f"""
        from retryexec.journal._letter_file import LetterFile
        transaction, steps, cut_off = LetterFile.transaction, [], threading.Event()

        def counted(self):
            steps.append(1)
            if len(steps) == {step}:
                cut_off.set()
                threading.Event().wait()
            return transaction(self)

        LetterFile.transaction = counted
        threading.Thread(target=journal.dead.rerun, args=("{entry.id}",), daemon=True).start()
        host.next() if {step} == 3 else cut_off.wait()
        """,
    )
    journal.poll()
    letters = len(journal.dead)
    assert (letters, len(host.jobs)) == ((1, 0) if step == 1 else (0, 1))
    if letters:
        journal.dead.rerun(entry.id)
    assert host.jobs == [Save("dead")]
    assert len(journal.dead) == 0


def test_half_written_dead_letter_is_not_run_again(open_journal: Open, directory: Path) -> None:
    """Written among the dead letters, not yet removed from the file."""
    killed(
        directory,
        """
        from retryexec.journal._file import JournalFile
        first, second = journal.accept(Save("dies")), journal.accept(Save("lives"))
        apply = JournalFile.apply

        def stuck(self, changes):
            say("buried")
            threading.Event().wait()

        JournalFile.apply = stuck
        journal.died(first, "permanent", 1)
        while not len(journal.dead):
            pass
        """,
    )
    journal, host = open_journal(directory)
    assert host.jobs == [Save("lives")]
    assert [letter.fields["email"] for letter in journal.dead] == ["dies"]


# ---- directories


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    place = tmp_path / "my nfs"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/vda rw\n"
        f"2 1 0:9 / {escaped} rw shared:2 - nfs4 host:/export rw\n"
        f"3 1 0:9 / {escaped}/local rw - tmpfs none rw\n"
    )
    assert filesystem_of(place / "x", mounts) == "nfs4"
    assert filesystem_of(place / "local", mounts) == "tmpfs"
    assert filesystem_of(tmp_path, mounts) == "ext4"
    assert filesystem_of(tmp_path, tmp_path / "none") is None
    monkeypatch.setattr("retryexec.journal._directory._MOUNTS", mounts)
    monkeypatch.setattr(filesystem_of, "__defaults__", (mounts,))
    with pytest.raises(JournalError, match=r"nfs4.*local disk"):
        Journal(place, jobs=JOBS)
    Journal(place, jobs=JOBS, allow_network=True)


def test_a_place_where_locks_do_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    with pytest.raises(JournalError, match="locks do not work"):
        Journal(tmp_path, jobs=JOBS)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file"):
        Journal(tmp_path / "file" / "journal", jobs=JOBS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"durability": "fast"}, r"'power' or 'process' \(got 'fast'\)"),
        ({"accept": "maybe"}, r"'wait' or 'async' \(got 'maybe'\)"),
        ({"max_crashes": 0}, "max_crashes"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"redact": "all"}, "redact"),
        ({"poll": 0}, "poll"),
        ({"poll": -1}, "poll"),
        ({"wall_clock": 5}, "wall_clock"),
        ({"jobs": None}, "jobs"),
        ({"directory": 3}, "directory"),
    ],
)
def test_arguments_that_cannot_be_right(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    place = tmp_path / "journal"
    with pytest.raises((TypeError, ValueError), match=words):
        Journal(**{"directory": place, "jobs": JOBS, **options})
    assert not place.exists()


def test_repr_shows_state(open_journal: Open, directory: Path) -> None:
    journal, _ = open_journal(directory)
    assert repr(journal) == f"<Journal '{directory}': open>"
    entry = journal.accept(Save("secret"))
    assert repr(entry) == f"<Entry {entry.id} of 'save': 0 failed attempts, on disk>"
    journal.close()
    assert repr(journal) == f"<Journal '{directory}': closed>"
