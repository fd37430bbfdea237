"""Rows and tables that somebody else has made: each costs itself alone, and says why."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import FakeHost, Save, killed, settled
from journal.conftest import Open

from retryexec.cli import main
from retryexec.journal import Inspector, Journal, JournalError
from retryexec.journal._check import check
from retryexec.journal._job_table import JOBS
from retryexec.journal._letter_file import LETTERS

INF = float("inf")
TOP = 2**63 - 1
# Deeper than any Python reads: from 3.14 on, that depends on the size of the stack.
DEEP = "[" * 1_000_000 + "]" * 1_000_000

RUNS, PARKED = "runs", "parked"

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``retryexec journal`` here, and return its status and what it has shown."""

    def run(*arguments: object) -> tuple[int, str]:
        status = main(["journal", *map(str, arguments)])
        return status, capsys.readouterr().out

    return run


def database(directory: Path) -> Path:
    (path,) = (path for path in directory.glob("*.db") if path.name != "dead.db")
    return path


@cache
def of_a_dead_process() -> Path:
    """Return a directory that a process has left with three jobs."""
    place = Path(tempfile.mkdtemp()) / "journal"
    atexit.register(shutil.rmtree, place.parent)
    killed(place, "for n in range(3): journal.accept(Save('', n))")
    return place


def left(directory: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Let a process have died with three jobs, after which *change* is made to its file."""
    shutil.copytree(of_a_dead_process(), directory)
    with closing(sqlite3.connect(database(directory))) as sql:
        sql.execute("PRAGMA writable_schema=ON")
        with sql:
            change(sql)


def without_strict(sql: sqlite3.Connection) -> None:
    """Make the tables anew as an SQLite older than 3.37 does."""
    rows = sql.execute("SELECT * FROM job").fetchall()
    sql.execute("DROP TABLE job")
    sql.execute(JOBS.schema.split(";\n")[0].replace(" STRICT", "").replace(" NOT NULL", ""))
    sql.executemany(f"INSERT INTO job VALUES({','.join('?' * 17)})", rows)


def taken_over(journal: Journal, host: FakeHost) -> list[int]:
    """Run all that has been handed over, and return which jobs that were."""
    journal.poll()
    assert journal.flush(10)
    jobs = []
    while not settled(journal) or len(jobs) < len(host.recovered):
        if len(jobs) == len(host.recovered):
            continue
        entry = host.recovered[len(jobs)]
        jobs.append(entry.job.n)
        if entry.job.n == 1:
            journal.retrying(entry, entry.attempts + 1, 0.0, OSError("busy"))
        journal.died(entry, "permanent", 1) if entry.job.n == 2 else journal.succeeded(entry)
        assert journal.flush(10)
    return sorted(jobs)


# What is written into a column of the row of job 1, and what becomes of that job.
COLUMNS: dict[str, tuple[str, Any, str]] = {
    "the last row number there is": ("seq", TOP, RUNS),
    "the first row number there is": ("seq", -TOP - 1, RUNS),
    "row number zero": ("seq", 0, RUNS),
    "a negative row number": ("seq", -7, RUNS),
    "no id": ("id", None, PARKED),
    "an empty id": ("id", "", PARKED),
    "an id of another form": ("id", "job-1", PARKED),
    "an id with a line feed": ("id", "0" * 32 + "\n", PARKED),
    "an id that is a number": ("id", 1, PARKED),
    "an id that is bytes": ("id", b"0" * 32, PARKED),
    "no kind": ("kind", None, PARKED),
    "an unknown kind": ("kind", "other", PARKED),
    "a kind that is bytes": ("kind", b"save", PARKED),
    "a kind that is not UTF-8": ("kind", "CAST(x'73ff' AS TEXT)", PARKED),
    "no version": ("ver", None, PARKED),
    "version zero": ("ver", 0, PARKED),
    "a version from the future": ("ver", 2**40, PARKED),
    "a version that is text": ("ver", "one", PARKED),
    "no data": ("data", None, PARKED),
    "empty data": ("data", "", PARKED),
    "data that are not JSON": ("data", "{", PARKED),
    "data of another class": ("data", '{"email": 5}', PARKED),
    "data that are a list": ("data", "[]", PARKED),
    "data nested deep": ("data", DEEP, PARKED),
    "data nested deep in a field": ("data", '{"email":"","n":1,"x":' + DEEP + "}", PARKED),
    "data that are not UTF-8": ("data", "CAST(x'7b22ff22' AS TEXT)", PARKED),
    "data with half of a surrogate pair": ("data", '{"email":"\\ud800","n":1}', PARKED),
    "data with a zero": ("data", "CAST(x'7b00' AS TEXT)", PARKED),
    "data that are bytes": ("data", b'{"email":"","n":1}', PARKED),
    "data that are a number": ("data", 5, PARKED),
    "a number with a million digits": ("data", '{"email":"","n":1' + "0" * 10**6 + "}", PARKED),
    "no attempts": ("attempts", None, PARKED),
    "more attempts than can be": ("attempts", TOP, PARKED),
    "negative attempts": ("attempts", -1, PARKED),
    "attempts that are text": ("attempts", "many", PARKED),
    "attempts that are half": ("attempts", 0.5, PARKED),
    "more crashes than can be": ("crashes", TOP, PARKED),
    "negative crashes": ("crashes", -1, PARKED),
    "started twice": ("started", 2, RUNS),
    "started, and negative": ("started", -1, PARKED),
    "never accepted": ("accepted_at", None, PARKED),
    "accepted in infinity": ("accepted_at", INF, PARKED),
    "accepted before all time": ("accepted_at", -INF, PARKED),
    "accepted at a text": ("accepted_at", "noon", PARKED),
    "accepted in the future": ("accepted_at", 1e11, RUNS),
    "first tried in infinity": ("first_at", INF, PARKED),
    "due in infinity": ("due_at", INF, PARKED),
    "due at bytes": ("due_at", b"\0", PARKED),
    "an endless delay": ("delay", INF, PARKED),
    "a negative delay": ("delay", -1.0, PARKED),
    "a delay that is text": ("delay", "long", PARKED),
    "errors nested deep": ("errors", DEEP, RUNS),
    "errors that are not JSON": ("errors", "[{", RUNS),
    "errors of another form": ("errors", '[{"attempt": "first"}]', RUNS),
    "errors without an end": ("errors", '["' + "x" * 3_000_000 + '"]', RUNS),
    "errors that are not UTF-8": ("errors", "CAST(x'5bff5d' AS TEXT)", RUNS),
    "errors that are bytes": ("errors", b"[]", PARKED),
    "parked for nothing": ("parked", "because", RUNS),
    "parked for something that is not UTF-8": ("parked", "CAST(x'ff' AS TEXT)", RUNS),
    "parked by number": ("parked", 5, RUNS),
}


@pytest.mark.parametrize(("column", "value", "fate"), COLUMNS.values(), ids=COLUMNS)
def test_a_row_costs_itself(
    open_journal: Open, directory: Path, column: str, value: Any, fate: str
) -> None:
    def change(sql: sqlite3.Connection) -> None:
        without_strict(sql)
        sql.execute("PRAGMA user_version=1")
        if isinstance(value, str) and value.startswith("CAST("):
            sql.execute(f"UPDATE job SET {column}={value} WHERE seq=2")  # noqa: S608
        else:
            sql.execute(f"UPDATE job SET {column}=? WHERE seq=2", (value,))  # noqa: S608

    left(directory, change)
    journal, host = open_journal(directory)
    assert taken_over(journal, host) == ([0, 1, 2] if fate == RUNS else [0, 2])
    journal.close()
    inspector = Inspector(directory)
    parked = [job for job in inspector.jobs() if job.state == PARKED]
    assert len(parked) == (fate == PARKED)
    assert all(job.parked and job.parked.isprintable() for job in parked)
    assert [finding.about for finding in check(inspector)] == [PARKED] * len(parked)
    assert inspector.stats().unfinished == len(parked)
    assert [letter.fields["n"] for letter in journal.dead] == [2]
    _, host = open_journal(directory)  # and what has ended has
    assert host.jobs == []


TABLES: dict[str, tuple[str, list[int]]] = {
    "a view in the place of the jobs": (
        "ALTER TABLE job RENAME TO kept; CREATE VIEW job AS SELECT * FROM kept",
        [0, 1, 2],
    ),
    "no jobs": ("DROP TABLE job", []),
    "three columns too few": (
        (
            "CREATE TABLE short AS SELECT seq, id, kind, ver, data, attempts, crashes, started, "
            "accepted_at, parked FROM job; DROP TABLE job; ALTER TABLE short RENAME TO job"
        ),
        [0, 1, 2],
    ),
    "no meta": ("DROP TABLE meta", [0, 1, 2]),
    "a view in the place of meta": (
        "DROP TABLE meta; CREATE VIEW meta AS SELECT 'x' AS owner, 0 AS adoptions",
        [0, 1, 2],
    ),
    "meta without a row": ("DELETE FROM meta", [0, 1, 2]),
    "adoptions without an end": ("UPDATE meta SET adoptions=9223372036854775807", [0, 1, 2]),
    "ends that come to nothing": (
        "CREATE TRIGGER forever BEFORE DELETE ON job BEGIN SELECT RAISE(IGNORE); END",
        [0, 1, 2],
    ),
    "jobs that multiply": (
        (
            "CREATE TRIGGER more AFTER DELETE ON job BEGIN "
            "INSERT INTO job VALUES(old.seq,old.id,old.kind,old.ver,old.data,0,0,0,0.0,0.0,0.0,0.0,"
            "'',NULL,NULL,NULL,NULL); END"
        ),
        [0, 1, 2],
    ),
    "another table": ("CREATE TABLE other(x)", [0, 1, 2]),
    "an index": ("CREATE INDEX by_id ON job(id)", [0, 1, 2]),
    "a column too many": ("ALTER TABLE job ADD COLUMN more TEXT", [0, 1, 2]),
    "a column too few": ("ALTER TABLE job DROP COLUMN parked", [0, 1, 2]),
    "row numbers that are given twice": (
        (
            "CREATE TABLE twice AS SELECT * FROM job; DROP TABLE job; "
            "ALTER TABLE twice RENAME TO job; UPDATE job SET seq=1"
        ),
        [0, 1, 2],
    ),
    "ids that are given twice": ("UPDATE job SET id=(SELECT id FROM job WHERE seq=1)", [0]),
    "no row numbers at all": (
        (
            "CREATE TABLE bare(seq INTEGER PRIMARY KEY, id, kind, ver, data, attempts, crashes, "
            "started, accepted_at, first_at, due_at, delay, errors, parked, key, latest, stale) "
            "WITHOUT ROWID; "
            "INSERT INTO bare SELECT * FROM job; DROP TABLE job; ALTER TABLE bare RENAME TO job"
        ),
        [0, 1, 2],
    ),
    "another program's": ("PRAGMA application_id=7", [0, 1, 2]),
    "an update that is refused": (
        (
            "CREATE TABLE strict2(seq INTEGER PRIMARY KEY, id, kind, ver, data, attempts CHECK("
            "attempts=0), crashes, started, accepted_at, first_at, due_at, delay, errors, parked, "
            "key, latest, stale); "
            "INSERT INTO strict2 SELECT * FROM job; DROP TABLE job; "
            "ALTER TABLE strict2 RENAME TO job"
        ),
        [0, 1, 2],
    ),
}


@pytest.mark.parametrize(("script", "run"), TABLES.values(), ids=TABLES)
def test_a_file_costs_itself(
    open_journal: Open, directory: Path, script: str, run: list[int]
) -> None:
    left(directory, lambda sql: sql.executescript(script))
    journal, host = open_journal(directory)
    assert taken_over(journal, host) == run
    journal.close()
    assert [*check(Inspector(directory))] or run == [0, 1, 2]
    journal, host = open_journal(directory)
    assert taken_over(journal, host) == []


# ---- dead letters

LETTER_COLUMNS: dict[str, tuple[str, Any]] = {
    "an id of another form": ("id", "Letter-1"),
    "an id that is bytes": ("id", b"\xff"),
    "a kind that is not UTF-8": ("kind", "CAST(x'ff' AS TEXT)"),
    "data nested deep": ("data", DEEP),
    "data that are not UTF-8": ("data", "CAST(x'ff' AS TEXT)"),
    "no reason": ("reason", None),
    "more attempts than can be": ("attempts", TOP),
    "attempts that are text": ("attempts", "many"),
    "died in infinity": ("died_at", INF),
    "errors nested deep": ("errors", DEEP),
}


@pytest.mark.parametrize(("column", "value"), LETTER_COLUMNS.values(), ids=LETTER_COLUMNS)
def test_a_letter_costs_itself(
    open_journal: Open, directory: Path, column: str, value: Any
) -> None:
    journal, _ = open_journal(directory)
    for n in range(3):
        journal.died(journal.accept(Save("", n)), "permanent", 1, OSError("no"))
    assert journal.flush(10)
    first = min(letter.id for letter in journal.dead)
    with closing(sqlite3.connect(directory / "dead.db")) as sql, sql:
        rows = sql.execute("SELECT * FROM dead").fetchall()
        sql.execute("DROP TABLE dead")
        statements = LETTERS.schema.replace(" STRICT", "").replace("TEXT NOT NULL,", "TEXT,")
        for statement in statements.split(";\n")[:-1]:
            sql.execute(statement)
        sql.executemany(f"INSERT INTO dead VALUES({','.join('?' * 12)})", rows)
        words = value if isinstance(value, str) and value.startswith("CAST(") else "?"
        values = (first,) if words != "?" else (value, first)
        sql.execute(f"UPDATE dead SET {column}={words} WHERE id=?", values)  # noqa: S608
    letters = journal.dead.list()
    assert len(letters) == len(journal.dead) == 3
    assert sum(letter.fields == {"email": "", "n": 1} for letter in letters) == 1
    odd = [letter for letter in letters if letter.reason.startswith("damaged: ")]
    assert len(odd) == (column not in {"errors", "data"} or value != DEEP)
    assert all(finding.about == "damaged" for finding in check(Inspector(directory)))
    assert len([*Inspector(directory).letters()]) >= 2
    journal.died(journal.accept(Save("", 3)), "permanent", 1)
    assert journal.flush(10)
    assert journal.dead.discard_all() == 4
    assert journal.dead.rerun_all() == 0


# ---- what cannot be opened at all


def test_a_directory_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises((JournalError, ValueError), match="directory"):
        Journal("", jobs={"save": Save})
    long = tmp_path.joinpath(*["x" * 100] * 5)
    with pytest.raises(JournalError, match="too long"):
        Journal(long, jobs={"save": Save})
    with pytest.raises((JournalError, ValueError), match="null"):
        Journal("a\0b", jobs={"save": Save})
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="directory"):
        Journal(tmp_path / "file", jobs={"save": Save})


# ---- by hand


@pytest.mark.parametrize("action", ["ls", "stats", "dead"])
def test_what_was_set_aside_is_told_by_all_that_look(
    directory: Path, command: Command, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    left(directory, lambda sql: sql.execute("DROP TABLE meta"))
    command("check", directory, "--repair")
    assert main(["journal", action, str(directory)]) == 0
    assert "damaged files have been set aside" in capsys.readouterr().err


def test_check_repairs_by_hand_what_opening_does(directory: Path, command: Command) -> None:
    left(directory, lambda sql: sql.execute("DROP TABLE meta"))
    path = database(directory)
    status, out = command("check", directory)
    assert (status, "damaged" in out) == (1, True)
    status, out = command("check", directory, "--repair")
    assert f"repaired: {path}.corrupt-" in out
    assert len([*Inspector(directory).jobs()]) == 3
    for aside in directory.glob("*.corrupt-*"):
        aside.unlink()
    status, out = command("check", directory, "--repair")
    assert (status, "all is well" in out) == (0, True)


def test_a_parked_record_can_be_discarded(directory: Path, command: Command) -> None:
    left(directory, lambda sql: sql.execute("UPDATE job SET data='{', id='Odd one' WHERE seq=2"))
    status, out = command("check", directory, "--repair")
    assert (status, "1 damaged records are parked" in out) == (1, True)
    assert "Odd one" in command("ls", directory)[1]
    assert command("discard", directory, "Odd one", "--yes") == (0, "1 parked record discarded\n")
    assert len([*Inspector(directory).jobs()]) == 2
    assert command("check", directory)[0] == 0


@pytest.mark.parametrize(
    ("value", "shown"), [("7", "7"), ("x'ff'", "\\xff"), ("''", ""), ("'a' || char(10)", "a\\n")]
)
def test_a_record_with_a_damaged_id_is_discarded_by_what_ls_shows(
    directory: Path, command: Command, value: str, shown: str
) -> None:
    def change(sql: sqlite3.Connection) -> None:
        without_strict(sql)
        sql.execute(f"UPDATE job SET id={value} WHERE seq=2")  # noqa: S608

    left(directory, change)
    assert command("discard", directory, shown, "--yes") == (0, "1 parked record discarded\n")
    assert len([*Inspector(directory).jobs()]) == 2


# Bytes of the header of which SQLite says that it cannot write to the file, or cannot read it.
@pytest.mark.parametrize("place", [18, 19, 47])
def test_a_header_of_a_later_sqlite_is_damage(
    open_journal: Open, directory: Path, place: int
) -> None:
    journal, _ = open_journal(directory.with_name("letters"))
    journal.died(journal.accept(Save("", 9)), "permanent", 1, OSError("no"))
    assert journal.flush(10)
    journal.close()
    left(directory, lambda sql: None)
    shutil.copy(directory.with_name("letters") / "dead.db", directory)
    for path in (database(directory), directory / "dead.db"):
        content = bytearray(path.read_bytes())
        content[place] ^= 0x40
        path.write_bytes(content)
    findings = [*check(Inspector(directory))]
    assert [finding.about for finding in findings] == ["damaged", "damaged"]
    journal, host = open_journal(directory)
    assert taken_over(journal, host) == [0, 1, 2]
    assert {letter.fields["n"] for letter in journal.dead} == {2, 9}
