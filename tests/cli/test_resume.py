"""``retryexec run --journal``: killed runs that go on where they were."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from helpers.command import Result, jsonl, read_jsonl, start

from retryexec.cli._failures import Failure
from retryexec.cli._identity import Identity, identify
from retryexec.cli._ledger import Ledger
from retryexec.cli._misuse import Misuse
from retryexec.cli._tally import Tally

Run = Callable[..., Result]
Command = Callable[..., Result]

LOGGED = """\
import os
import time
from dataclasses import dataclass
from pathlib import Path

from retryexec import current_attempt


def note(*words):
    fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.close(fd)


@dataclass
class Save:
    id: int
    fails: int = 0
    blocks: bool = False
    kills: bool = False

    def exec(self):
        number = current_attempt().number
        note("began", self.id, number)
        if self.kills:
            os.kill(os.getpid(), 9)
        if self.blocks and not Path("open").exists():
            while not Path("open").exists():
                time.sleep(0.01)
        if number <= self.fails:
            raise ConnectionError("try again")
        note("done", self.id, number)
"""

Process = subprocess.Popen[bytes]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logged.py").write_text(LOGGED)
    return tmp_path


@pytest.fixture
def started(stage: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def started(*options: object) -> Process:
        arguments = ["run", "logged.py:Save", "in.jsonl", "--journal", "dir", *options]
        processes.append(start(*arguments))
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def outcome(process: Process) -> Result:
    out, err = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), err.decode())


def log(stage: Path) -> list[tuple[str, int, int]]:
    if not (stage / "log").exists():
        return []
    lines = [line.split() for line in (stage / "log").read_text().splitlines()]
    return [(what, int(id_), int(number)) for what, id_, number in lines]


def until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 30
    while not condition():
        assert monotonic() < end
        sleep(0.02)


def finished_lines(stage: Path) -> int:
    try:
        sql = sqlite3.connect(f"file:{stage / 'dir' / 'run.db'}?mode=ro", uri=True)
    except sqlite3.Error:
        return 0
    try:
        return int(sql.execute("SELECT count(*) FROM outcome").fetchone()[0])
    except sqlite3.Error:
        return 0
    finally:
        sql.close()


# ---- what is killed goes on


def test_a_killed_run_goes_on_where_it_was(stage: Path, started: Callable[..., Process]) -> None:
    records: list[dict[str, Any]] = [{"id": n} for n in range(40)]
    records[3]["fails"] = 9
    records[10]["blocks"] = records[11]["blocks"] = True
    (stage / "in.jsonl").write_bytes(jsonl(*records) + b"nope\n")
    options = ("--workers", "4", "--attempts", "2", "--backoff", "zero", "--failures", "f.jsonl")
    first = started(*options)
    until(lambda: finished_lines(stage) == 38)
    first.kill()
    first.communicate()
    (stage / "open").touch()
    (stage / "f.jsonl").write_text("half a li")  # as a killed process may leave it
    result = outcome(started(*options))
    assert "38 records are finished, 2 are under way" in result.err
    assert result.status == 1
    assert result.out.startswith("41 records in ")
    assert ": 39 succeeded, 1 failed, 1 bad\n" in result.out
    assert "             2  ConnectionError: try again" in result.out
    done = Counter(id_ for what, id_, _ in log(stage) if what == "done")
    assert done == Counter(n for n in range(40) if n != 3)
    (failed,) = read_jsonl(stage / "f.jsonl")
    assert (failed["id"], failed["_retryexec"]["line"]) == (3, 4)
    again = outcome(started(*options))
    assert again.out.startswith("41 records in ")
    assert "all of it was done before, by the run that began " in again.err
    assert again.status == 1
    assert read_jsonl(stage / "f.jsonl") == [failed]
    assert Counter(id_ for what, id_, _ in log(stage) if what == "done") == done


@pytest.mark.timeout(120)
def test_run_that_is_killed_again_and_again_does_each_record_once(
    stage: Path, started: Callable[..., Process]
) -> None:
    """But for those that were at work when it was killed, one for each worker."""
    count, workers = 3000, 4
    records = [{"id": n, "fails": 9 if n % 500 == 7 else n % 10 == 0} for n in range(count)]
    (stage / "in.jsonl").write_bytes(jsonl(*[{**r, "fails": int(r["fails"])} for r in records]))
    options = ("--workers", workers, "--attempts", 3, "--backoff", "0.01,0.01")
    options += ("--failures", "f.jsonl", "--max-pending", 100)
    kills = 0
    for share in range(1, 6):
        process = started(*options)
        goal = share * count // 6
        until(lambda p=process, g=goal: finished_lines(stage) >= g or p.poll() is not None)  # type: ignore[misc]
        process.kill()
        process.communicate()
        kills += 1
    result = outcome(started(*options))
    assert ": 2,994 succeeded, 6 failed\n" in result.out
    done = Counter(id_ for what, id_, _ in log(stage) if what == "done")
    assert set(done) == {n for n in range(count) if n % 500 != 7}
    assert done.total() - len(done) <= kills * workers
    assert sorted(record["id"] for record in read_jsonl(stage / "f.jsonl")) == [
        n for n in range(count) if n % 500 == 7
    ]


def test_attempts_go_on_from_where_they_were(stage: Path, started: Callable[..., Process]) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1, "fails": 9}, {"id": 2, "blocks": True}))
    first = started("--workers", 2, "--attempts", 3, "--backoff", "0.1,30")
    until(lambda: ("began", 1, 2) in log(stage))
    # The second failure is on disk when the ledger knows it.
    until(
        lambda: (
            b'"attempts": 2'
            in subprocess.run(
                [sys.executable, "-m", "retryexec", "journal", "ls", "dir", "--json"],
                capture_output=True,
                check=False,
            ).stdout
        )
    )
    first.kill()
    first.communicate()
    (stage / "open").touch()
    second = started("--workers", 2, "--attempts", 3, "--backoff", "0.1,0.1")
    until(lambda: ("done", 2, 1) in log(stage))
    second.send_signal(signal.SIGINT)  # the third attempt is due in half a minute
    result = outcome(second)
    assert result.status == 1
    assert "1 stopped unfinished" in result.out
    assert "the rest stays in dir for the next time" in result.err
    assert "what is left is in dir and in INPUT; the same command goes on with it" in result.err
    assert [n for what, id_, n in log(stage) if (what, id_) == ("began", 1)] == [1, 2]


def test_ctrl_c_leaves_the_rest_for_the_next_time(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(
        jsonl({"id": 0, "blocks": True}, *({"id": n} for n in range(1, 9)))
    )
    options = ("--workers", 1, "--max-pending", 3, "--failures", "f.jsonl")
    first = started(*options)
    until(lambda: ("began", 0, 1) in log(stage))
    first.send_signal(signal.SIGINT)
    assert first.stderr is not None
    assert b"the rest stays in dir for the next time" in first.stderr.readline()
    (stage / "open").touch()
    assert outcome(first).status == 1
    assert (stage / "f.jsonl").read_bytes() == b""
    result = outcome(started(*options))
    assert result.status == 0
    assert ": 9 succeeded\n" in result.out
    assert Counter(id_ for what, id_, _ in log(stage) if what == "done") == Counter(range(9))


def test_a_record_that_kills_is_a_dead_letter_in_the_end(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1, "kills": True}, {"id": 2}))
    results = []
    for _ in range(12):
        results.append(outcome(started("--workers", 1, "--failures", "f.jsonl")))
        if results[-1].status >= 0:
            break
    assert results[-1].status == 1
    assert ": 1 succeeded, 1 failed\n" in results[-1].out
    (failed,) = read_jsonl(stage / "f.jsonl")
    assert (failed["id"], failed["_retryexec"]["reason"]) == (1, "crashes")


def test_letters_that_are_rerun_are_counted_anew(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1, "fails": 1}, {"id": 2}))
    first = outcome(started("--attempts", 1))
    assert ": 1 succeeded, 1 failed\n" in first.out
    assert "1 record is a dead letter in dir; to try again: retryexec journal rerun dir --all" in (
        first.err
    )
    assert outcome(start("journal", "rerun", "dir", "--all")).status == 0
    result = outcome(started("--attempts", 2, "--backoff", "zero"))
    assert result.status == 0
    assert ": 2 succeeded\n" in result.out
    assert [id_ for what, id_, _ in log(stage) if what == "done"] == [2, 1]


def test_a_finished_directory_may_serve_another_input(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1}))
    assert outcome(started()).status == 0
    (stage / "in.jsonl").write_bytes(jsonl({"id": 2}, {"id": 3}))
    assert ": 2 succeeded\n" in outcome(started()).out
    assert outcome(start("journal", "check", "dir")).out.endswith("all is well\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (b'{"id": 7}\n', "had 10 bytes, and has 20 now"),
        (None, "does not hold what it held"),
    ],
)
def test_a_changed_input_stops_the_run(
    stage: Path, started: Callable[..., Process], change: bytes | None, expected: str
) -> None:
    path = stage / "in.jsonl"
    path.write_bytes(b'{"id": 1}\n')
    (stage / "open").unlink(missing_ok=True)
    path.write_bytes(b'{"id": 1}\n')
    sql_begin(stage)
    path.write_bytes(b'{"id": 1}\n' + change if change else b'{"id": 9}\n')
    result = outcome(started())
    assert result.status == 2
    assert expected in result.err
    assert "to start another, name another directory for --journal" in result.err
    assert log(stage) == []


def sql_begin(stage: Path) -> None:
    """Leave a run that has begun, and done nothing."""
    (stage / "dir").mkdir(mode=0o700)
    identity = identify(str(stage / "in.jsonl"), kind="run:Save", format="jsonl")
    Ledger(stage / "dir", identity).close(complete=False)


def test_two_runs_do_not_share_a_directory(stage: Path, started: Callable[..., Process]) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1, "blocks": True}))
    first = started()
    until(lambda: ("began", 1, 1) in log(stage))
    second = outcome(started())
    assert second.status == 2
    assert f"another run (pid {first.pid}) is at work in" in second.err
    (stage / "open").touch()
    assert outcome(first).status == 0


# ---- what is refused


def test_an_input_that_cannot_be_read_again_is_refused(
    run: Run, command: Command, tmp_path: Path
) -> None:
    result = command("run", "jobs.py:Save", "-", "--journal", "dir")
    assert result.status == 2
    assert "--journal needs an INPUT that can be read again after a crash" in result.err
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        with pytest.raises(Misuse, match="is no regular file: save it into one first"):
            identify(str(tmp_path / "fifo"), kind="k", format="jsonl")
    finally:
        os.close(fd)
    with pytest.raises(Misuse, match="cannot be read: No such file"):
        identify(str(tmp_path / "nowhere"), kind="k", format="jsonl")


# ---- the ledger


IDENTITY = Identity("run:Save", "jsonl", 10, "00", "in.jsonl")


def test_a_ledger_remembers(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, IDENTITY)
    assert (ledger.resumed, ledger.complete) == (False, False)
    for line in (1, 2, 90_000):
        ledger.succeeded(line, 1 + line % 2, line / 10)
    ledger.gave_up(Failure("permanent", 1, "LookupError: x", 5), 0.1)
    for error in ("a", "a", "LookupError: x"):
        ledger.failed_attempt(error)
    ledger.close(complete=False)
    ledger.close(complete=False)
    again = Ledger(tmp_path, IDENTITY)
    assert (again.resumed, again.complete, again.run) == (True, False, ledger.run)
    assert [line for line in range(100_000) if again.is_done(line)] == [1, 2, 90_000]
    assert not again.is_done(10**9)
    assert again.failed == {5: Failure("permanent", 1, "LookupError: x", 5)}
    tally = Tally()
    again.restore(tally)
    totals = tally.totals()
    assert (totals.succeeded, totals.failed, totals.retries) == (Counter({1: 2, 2: 1}), 1, 2)
    assert totals.errors == Counter({"a": 2, "LookupError: x": 1})
    assert totals.slowest[0] == (9000.0, 90_000, 1)
    again.reopen({5, 6})
    assert again.failed == {}
    again.close(complete=True)
    third = Ledger(tmp_path, IDENTITY._replace(name="moved.jsonl"))
    assert third.complete
    third.close(complete=True)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "run:Other"}, "its records were jobs of kind 'run:Save', and are 'run:Other'"),
        ({"format": "csv"}, "INPUT was jsonl, and is csv now"),
        ({"size": 11}, "INPUT 'in.jsonl' had 10 bytes, and has 11 now"),
        ({"digest": "01"}, "INPUT 'in.jsonl' does not hold what it held"),
    ],
)
def test_an_unfinished_ledger_is_for_its_own_run(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    ledger = Ledger(tmp_path, IDENTITY)
    with pytest.raises(Misuse, match=rf"another run \(pid {os.getpid()}\) is at work"):
        Ledger(tmp_path, IDENTITY)
    ledger.close(complete=False)
    with pytest.raises(Misuse, match=expected.replace("'", ".")):
        Ledger(tmp_path, IDENTITY._replace(**changes))
    ledger = Ledger(tmp_path, IDENTITY)
    ledger.succeeded(1, 1, 0.0)
    ledger.close(complete=True)
    ledger = Ledger(tmp_path, IDENTITY._replace(**changes))
    assert (ledger.resumed, ledger.is_done(1)) == (False, False)
    ledger.close(complete=False)


def test_a_ledger_of_another_kind_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "run.db") as sql:
        sql.execute("PRAGMA user_version=99")
    sql.close()
    with pytest.raises(Misuse, match="is of version 99, and this command knows up to 1"):
        Ledger(tmp_path, IDENTITY)
    (tmp_path / "run.db").write_bytes(b"no database at all " * 100)
    with pytest.raises(Misuse, match=r"run.db cannot be used: file is not a database"):
        Ledger(tmp_path, IDENTITY)
    with pytest.raises(Misuse, match="cannot be used: No such file"):
        Ledger(tmp_path / "nowhere", IDENTITY)
