"""``retryexec journal``: which jobs wait, what is not there, and words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import Result, documents, modes
from helpers.journal_kit import Call, FakeHost, Save, die, killed, left_by, opened

from retryexec.cli.output import clean, format_size
from retryexec.journal import ErrorText, Inspector, Journal
from retryexec.journal._last_error import last_error

Command = Callable[..., Result]


# ---- ls


def test_ls_tells_where_each_job_stands(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, host = owner
    waiting, running, queued = (journal.accept(Save("a@b", n)) for n in range(3))
    call = journal.accept(Call("u"))
    journal.retrying(waiting, 2, 3600, ConnectionError("try\x1b[31m again"))
    host.at_work.append(running)
    journal.succeeded(call)
    assert journal.flush(10)
    found = documents(command("journal", "ls", directory, "--json"))
    assert [(job["id"], job["state"], job["attempts"]) for job in found] == [
        (waiting.id, "waiting", 2),
        (running.id, "running", 0),
        (queued.id, "queued", 0),
    ]
    assert list(found[0]) == [
        *("id", "kind", "version", "state", "attempts", "crashes", "accepted_at", "first_at"),
        *("due_at", "parked", "owner", "owner_alive", "owner_pid", "key", "last_error"),
    ]
    assert (found[0]["owner_alive"], found[0]["owner_pid"]) == (True, os.getpid())
    assert found[0]["last_error"]["type"] == "ConnectionError"
    assert "a@b" not in str(found)
    table = command("journal", "ls", directory).out.splitlines()
    assert table[0].split() == ["id", "kind", "state", "attempts", "due", "age", "owner", "remarks"]
    assert re.search(r"waiting +2 +in 59 min \d\d s|in 1 h", table[1])
    assert table[1].endswith(f"alive (pid {os.getpid()})  ConnectionError: try\\x1b[31m again")
    assert "\x1b" not in "".join(table)


def test_ls_takes_a_kind_and_a_limit(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, _ = owner
    ids = [journal.accept(job).id for job in (Save("1"), Call("2"), Save("3"), Save("4"))]
    limited = command("journal", "ls", directory, "--kind", "save", "--limit", "2")
    assert [line.split()[0] for line in limited.out.splitlines()[1:]] == [ids[0], ids[2]]
    assert limited.err == "there are more than these 2: --limit none lists them all\n"
    everything = command("journal", "ls", directory, "--limit", "none", "--json")
    assert [job["id"] for job in documents(everything)] == ids
    assert command("journal", "ls", directory, "--kind", "none").out == (
        "no unfinished jobs of kind 'none'\n"
    )


def test_jobs_of_many_pages_and_owners_come_in_the_order_they_were_accepted(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retryexec.journal._inspect._PAGE", 3)
    owners = [opened(directory, wall_clock=lambda n=n: next(times[n])) for n in range(2)]
    times = [iter(range(0, 1000, 2)), iter(range(1, 1000, 2))]
    for n in range(20):
        owners[n % 2][0].accept(Save("", n))
    fields = [job.fields["n"] for job in Inspector(directory).jobs()]
    assert fields == list(range(20))
    for journal, _ in owners:
        journal.close()


def test_what_a_dead_owner_has_left_is_listed_and_stays_as_it_is(
    command: Command, directory: Path
) -> None:
    killed(directory, "for n in range(3): journal.accept(Save('', n))\nhost.at_work = []")
    before = {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".db-shm"}
    assert any(name.endswith("-wal") and data for name, data in before.items())
    found = documents(command("journal", "ls", directory, "--json"))
    assert [(job["owner_alive"], job["owner_pid"]) for job in found] == [(False, None)] * 3
    assert command("journal", "stats", directory).status == 0
    assert command("journal", "check", directory).status == 0
    after = {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".db-shm"}
    assert after == before
    assert modes(directory) == {0o600}
    assert left_by(directory) == [Save("", n) for n in range(3)]


def test_parked_jobs_come_with_the_reason(command: Command, directory: Path) -> None:
    killed(directory, "journal.accept(Save(''))")
    journal = opened(directory, jobs={"call": Call})[0]
    journal.close()
    (job,) = documents(command("journal", "ls", directory, "--json"))
    assert (job["state"], job["parked"]) == ("parked", "kind 'save' is not registered here")
    assert "kind 'save' is not registered here" in command("journal", "ls", directory).out
    assert "state     parked (kind 'save'" in command("journal", "show", directory, job["id"]).out
    checked = command("journal", "check", directory)
    assert checked.status == 1
    assert "1 record is parked, since no job can be made of it (kind 'save'" in checked.out


# ---- what is not there


def test_missing_things_are_named(command: Command, tmp_path: Path) -> None:
    for arguments, expected in {
        ("ls", tmp_path / "nowhere"): "there is no directory",
        ("ls", __file__): "there is no directory",
        ("show", tmp_path, "nope"): "there is no job 'nope' in",
        ("what", tmp_path): "invalid choice: 'what'",
    }.items():
        result = command("journal", *arguments)
        assert result.status == 2
        assert expected in result.err
    assert command("journal", "ls", tmp_path).out == "no unfinished jobs\n"
    assert command("journal", "dead", tmp_path).out == "no dead letters\n"


def test_a_transaction_that_died_is_taken_back_for_the_reader(
    command: Command, directory: Path
) -> None:
    """Half a transaction, with the file already changed: the rollback journal is hot."""
    journal, _ = opened(directory)
    (dead,) = die(journal, Save("1"))
    journal.close()
    script = """
    from retryexec.journal._letter_file import LETTERS
    from retryexec.journal._sqlite import open_database
    sql = open_database(Path(sys.argv[1]) / "dead.db", LETTERS)
    sql.execute("PRAGMA cache_size=1")
    sql.execute("PRAGMA cache_spill=1")
    sql.execute("BEGIN IMMEDIATE")
    sql.execute("UPDATE dead SET data=?", ('"' + "x" * 900_000 + '"',))
    for n in range(9):
        sql.execute("INSERT INTO dead SELECT ?,kind,ver,data,reason,attempts,crashes,accepted_at,"
                    "died_at,errors,source,rerun_to FROM dead LIMIT 1", (str(n),))
    """
    killed(directory, script)
    assert (directory / "dead.db-journal").stat().st_size > 0
    (letter,) = documents(command("journal", "dead", directory, "--json"))
    assert letter["id"] == dead


# ---- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\x1b[2Jb\x9b", "a\\x1b[2Jb\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_plays_with_the_terminal(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_sizes_are_told_in_units() -> None:
    assert [format_size(n) for n in (0, 999, 4096, 5 * 10**6, 10**12, 3 * 10**15)] == [
        *("0 B", "999 B", "4.1 kB", "5.0 MB", "1.0 TB", "3000.0 TB"),
    ]


def test_the_last_error_is_one_line() -> None:
    def of(text: str, name: str = "Odd") -> str:
        return last_error([ErrorText(1, 0.0, name, text)])

    assert last_error([]) == ""
    assert of("", "") == ""
    assert of("") == "Odd"
    assert of("two\nlines") == "Odd: two lines"
    start_of = "Traceback (most recent call last):\n  File ...\n"
    assert of(f"{start_of}my.Odd: it is\nso\n") == "my.Odd: it is so"
    assert of(f"{start_of}cut off") == "cut off"
    assert of('f()\n  File "x.py", line 1\nmy.Odd: its beginning is lost') == (
        "my.Odd: its beginning is lost"
    )
    assert of("my.Odd: never raised") == "my.Odd: never raised"
