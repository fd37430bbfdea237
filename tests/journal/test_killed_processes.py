"""Processes that die: whose jobs are run again, and who is a suspect."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.journal_faults import databases, only_file, own_file
from helpers.journal_kit import Process, Save, killed, left_by
from journal.conftest import Open

from retryexec.journal._takeover import Mark, judge

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
