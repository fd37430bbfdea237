"""``retryexec run --checkpoint``: killed runs that go on where they were."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result, jsonl, read_jsonl, start
from helpers.threads import until

from retryexec.cli.checkpoint import Checkpoint, RunIdentity, identify
from retryexec.cli.records import FailedRecord

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
    waits: bool = False

    def exec(self):
        number = current_attempt().number
        if self.waits and number == 1:
            raise ConnectionError("come back later")
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
        arguments = ["run", "logged.py:Save", "in.jsonl", "--checkpoint", "run.db", *options]
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


def done(stage: Path) -> Counter[int]:
    return Counter(id_ for what, id_, _ in log(stage) if what == "done")


def kill(process: Process) -> None:
    process.kill()
    process.communicate()


# ---- what is killed goes on


def test_a_killed_run_goes_on_where_it_was(stage: Path, started: Callable[..., Process]) -> None:
    records: list[dict[str, Any]] = [{"id": n} for n in range(40)]
    records[3]["fails"] = 9
    records[10]["blocks"] = records[11]["blocks"] = True
    (stage / "in.jsonl").write_bytes(jsonl(*records) + b"nope\n")
    options = ("--workers", "4", "--attempts", "2", "--backoff", "zero", "--failures", "f.jsonl")
    first = started(*options)
    until(lambda: done(stage).total() == 37 and (stage / "f.jsonl").stat().st_size > 0)
    kill(first)
    (stage / "open").touch()
    (stage / "f.jsonl").write_text("half a li")  # as a killed process may leave it
    result = outcome(started(*options))
    assert "going on with the run that began " in result.err
    assert "38 of 41 done (93%)" in result.err
    assert result.status == 1
    assert result.out.startswith("41 records in ")
    assert ": 39 succeeded, 1 failed, 1 bad\n" in result.out
    assert done(stage) == Counter(n for n in range(40) if n != 3)
    (failed,) = read_jsonl(stage / "f.jsonl")
    assert (failed["id"], failed["_retryexec"]["line"]) == (3, 4)
    assert failed["_retryexec"]["error"] == "ConnectionError: try again"
    again = outcome(started(*options))
    assert again.out.startswith("41 records in ")
    assert "all of it was done before, by the run that began " in again.err
    assert again.status == 1
    assert read_jsonl(stage / "f.jsonl") == [failed]
    assert done(stage) == Counter(n for n in range(40) if n != 3)


@pytest.mark.timeout(120)
def test_a_run_that_is_killed_again_and_again_does_each_record_once(
    stage: Path, started: Callable[..., Process]
) -> None:
    """But for those that were at work when it was killed, one for each worker."""
    count, workers = 3000, 4
    records = [{"id": n, "fails": 9 if n % 500 == 7 else int(n % 10 == 0)} for n in range(count)]
    (stage / "in.jsonl").write_bytes(jsonl(*records))
    options = ("--workers", workers, "--attempts", 3, "--backoff", "0.01,0.01")
    options += ("--failures", "f.jsonl", "--max-pending", 100)
    kills = 0
    for share in range(1, 6):
        process = started(*options)
        goal = share * count // 6
        until(lambda p=process, g=goal: done(stage).total() >= g or p.poll() is not None)  # type: ignore[misc]
        kill(process)
        kills += 1
    result = outcome(started(*options))
    assert ": 2,994 succeeded, 6 failed\n" in result.out
    assert set(done(stage)) == {n for n in range(count) if n % 500 != 7}
    assert done(stage).total() - len(done(stage)) <= kills * workers
    assert sorted(record["id"] for record in read_jsonl(stage / "f.jsonl")) == [
        n for n in range(count) if n % 500 == 7
    ]


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
    assert b"the rest stays in run.db for the next time" in first.stderr.readline()
    (stage / "open").touch()
    stopped = outcome(first)
    assert stopped.status == 1
    assert "run.db knows what is done: the same command goes on with the rest" in stopped.err
    assert (stage / "f.jsonl").read_bytes() == b""
    result = outcome(started(*options))
    assert result.status == 0
    assert ": 9 succeeded\n" in result.out
    assert done(stage) == Counter(range(9))


def test_a_record_that_kills_has_failed_in_the_end_and_no_other_with_it(
    stage: Path, started: Callable[..., Process]
) -> None:
    records = [{"id": n, "kills": n == 3} for n in range(8)]
    (stage / "in.jsonl").write_bytes(jsonl(*records))
    results = []
    for _ in range(12):
        results.append(outcome(started("--workers", 4, "--failures", "f.jsonl")))
        if results[-1].status >= 0:
            break
    assert [result.status for result in results] == [-9, -9, -9, 1]
    assert ": 7 succeeded, 1 failed\n" in results[-1].out
    assert "in.jsonl:4: failed (crashes): 3 times it was running when its process died" in (
        results[-1].err
    )
    (failed,) = read_jsonl(stage / "f.jsonl")
    assert (failed["id"], failed["_retryexec"]["reason"]) == (3, "crashes")
    assert set(done(stage)) == {0, 1, 2, 4, 5, 6, 7}


def test_a_record_that_waits_is_not_blamed_for_a_death(
    stage: Path, started: Callable[..., Process]
) -> None:
    records = [{"id": 1, "waits": True}, {"id": 2, "blocks": True}]
    (stage / "in.jsonl").write_bytes(jsonl(*records))
    for _ in range(3):
        began = log(stage).count(("began", 2, 1))
        process = started("--workers", 1, "--backoff", "1h", "--max-elapsed", "none")
        until(lambda n=began: log(stage).count(("began", 2, 1)) > n)  # type: ignore[misc]
        kill(process)
    (stage / "open").touch()
    result = outcome(started("--workers", 1, "--backoff", "zero"))
    assert ": 1 succeeded, 1 failed\n" in result.out
    assert "in.jsonl:2: failed (crashes)" in result.err  # it was running, each time
    assert done(stage) == Counter([1])


def test_failed_records_are_tried_again_when_asked_for(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1, "fails": 1}, {"id": 2}))
    first = outcome(started("--attempts", 1))
    assert ": 1 succeeded, 1 failed\n" in first.out
    assert first.err.endswith(
        "1 record failed for good; to try again: retryexec run logged.py:Save in.jsonl "
        "--checkpoint run.db --attempts 1 --retry-failed\n"
    )
    assert ": 1 succeeded, 1 failed\n" in outcome(started("--attempts", 2)).out
    result = outcome(started("--attempts", 2, "--backoff", "zero", "--retry-failed"))
    assert result.status == 0
    assert ": 2 succeeded\n" in result.out
    assert [id_ for what, id_, _ in log(stage) if what == "done"] == [2, 1]


def test_a_limit_is_for_each_process(stage: Path, started: Callable[..., Process]) -> None:
    (stage / "in.jsonl").write_bytes(jsonl(*({"id": n} for n in range(5))))
    for _ in range(3):
        assert outcome(started("--limit", 2)).status == 0
    assert done(stage) == Counter(range(5))
    assert "all of it was done before" in outcome(started("--limit", 2)).err


def test_two_runs_do_not_share_a_checkpoint(stage: Path, started: Callable[..., Process]) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1, "blocks": True}))
    first = started()
    until(lambda: ("began", 1, 1) in log(stage))
    second = outcome(started())
    assert second.status == 2
    assert "--checkpoint 'run.db' is in use by another run" in second.err
    (stage / "open").touch()
    assert outcome(first).status == 0
    assert done(stage) == Counter([1])


def test_names_that_are_not_text_are_no_obstacle(stage: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (stage / f"{name}.py").write_text(LOGGED)
    (stage / f"{name}.jsonl").write_bytes(jsonl({"id": 1}, {"id": 2, "fails": 9}))
    arguments = ["run", f"{name}.py:Save", f"{name}.jsonl", "--attempts", "1"]
    arguments += ["--checkpoint", f"{name}.db", "--failures", f"{name}.failed.jsonl"]
    for _ in range(2):
        result = outcome(start(*arguments))
        assert ": 1 succeeded, 1 failed\n" in result.out
    assert len(read_jsonl(stage / f"{name}.failed.jsonl")) == 1
    assert done(stage) == Counter([1])


def test_csv_goes_on_too_and_is_counted_by_records(
    stage: Path, started: Callable[..., Process]
) -> None:
    text = 'id,blocks,note\n1,,"two\nlines"\n2,,\n\n3,true,\n'
    (stage / "in.jsonl").write_text(text)
    first = started("--format", "csv", "--workers", 1)
    until(lambda: ("began", 3, 1) in log(stage))
    kill(first)
    (stage / "open").touch()
    result = outcome(started("--format", "csv"))
    assert "2 of 3 done (67%)" in result.err
    assert done(stage) == Counter([1, 2, 3])


# ---- what is refused


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"id": 1}\n{"id": 7}\n', "of 10 bytes, and it has 20 now"),
        (b'{"id": 9}\n', "of the same size, but with other contents"),
    ],
)
def test_a_changed_input_is_refused(
    data: bytes, expected: str, run: Run, ran: Callable[[], list[Any]]
) -> None:
    run(b'{"id": 1}\n', "--checkpoint", "run.db")
    result = run(data, "--checkpoint", "run.db", "--failures", "f.jsonl")
    assert result.status == 2
    assert expected in result.err
    assert "go on with it as it was, or name another file" in result.err
    assert len(ran()) == 1
    assert not Path("f.jsonl").exists()


def test_another_target_or_format_is_refused(run: Run) -> None:
    options = ("--checkpoint", "run.db")
    run(b'{"id": 1}\n', *options)
    result = run(b'{"id": 1}\n', *options, target="jobs.py:Strict")
    assert "was made for TARGET 'jobs:Save', and it is 'jobs:Strict' now" in result.err
    assert result.status == 2
    result = run(b'{"id": 1}\n', *options, "--encoding", "latin-1")
    assert "was made for INPUT as jsonl, and it is jsonl, latin-1 now" in result.err
    run(b"id\n1\n", "--checkpoint", "csv.db", name="in.csv")
    result = run(b"id\n1\n", "--checkpoint", "csv.db", "--delimiter", ";", name="in.csv")
    assert "was made for INPUT as csv, and it is csv, delimiter ';' now" in result.err


def test_an_input_that_cannot_be_read_again_is_refused(
    run: Run, command: Command, tmp_path: Path, jobs: Path
) -> None:
    result = command("run", "jobs.py:Save", "-", "--checkpoint", "run.db")
    assert result.status == 2
    assert "standard input cannot be read again" in result.err
    os.mkfifo(tmp_path / "fifo")
    result = command("run", "jobs.py:Save", "fifo", "--checkpoint", "run.db")
    assert "INPUT 'fifo' is a stream that cannot be read again" in result.err
    result = command("run", "jobs.py:Save", "nowhere", "--checkpoint", "run.db")
    assert "INPUT 'nowhere' cannot be read: No such file" in result.err
    result = command("run", "jobs.py:Save", ".", "--checkpoint", "run.db")
    assert "INPUT '.' cannot be read: Is a directory" in result.err
    assert not Path("run.db").exists()


def test_what_is_not_a_checkpoint_is_refused_and_left_alone(run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as sql:
        sql.execute("CREATE TABLE t(x)")
    sql.close()
    with sqlite3.connect(tmp_path / "newer.db") as sql:
        sql.execute("PRAGMA application_id=0x72747863")
        sql.execute("PRAGMA user_version=99")
        sql.execute("CREATE TABLE t(x)")
    sql.close()
    (tmp_path / "text.db").write_bytes(b"not a database at all " * 100)
    (tmp_path / "dir").mkdir()
    for name, expected in {
        "other.db": "is a database of something else: name another file",
        "newer.db": "is of version 99, and this command knows up to 1: upgrade retryexec",
        "text.db": "is not a checkpoint (nor any SQLite database): name another file",
        "dir": "is a directory: name a file",
        "no/where.db": "cannot be opened: is its directory there",
        "in.jsonl": "is INPUT itself: name another file",
        "jobs.py": "is TARGET itself: name another file",
        "f.jsonl": "--failures and --checkpoint are the same file",
    }.items():
        before = (tmp_path / name).read_bytes() if (tmp_path / name).is_file() else None
        result = run(b'{"id": 1}\n', "--checkpoint", name, "--failures", "f.jsonl")
        assert result.status == 2
        assert expected in result.err
        assert before is None or (tmp_path / name).read_bytes() == before


def test_a_damaged_checkpoint_is_refused(run: Run, tmp_path: Path) -> None:
    records = [{"id": n, "fails": 9} for n in range(400)]
    options = ("--checkpoint", "run.db", "--attempts", 1, "-q")
    run(records, *options)
    data = (tmp_path / "run.db").read_bytes()
    for damaged in (data[: len(data) // 2], data[:20_000] + b"\xff" * 9000 + data[29_000:]):
        (tmp_path / "run.db").write_bytes(damaged)
        result = run(records, *options)
        assert result.status == 2
        assert "is damaged" in result.err
    assert (tmp_path / "run.db").read_bytes() == damaged


def test_the_former_option_is_answered_with_the_new_one(run: Run) -> None:
    result = run([{"id": 1}], "--journal", "dir")
    assert result.status == 2
    assert "--checkpoint FILE, in place of a journal" in result.err
    assert "--retry-failed goes with --checkpoint" in run([{"id": 1}], "--retry-failed").err


# ---- the checkpoint itself


IDENTITY = RunIdentity("jobs:Save", "jsonl", 10, "00", 9, "in.jsonl")


def test_a_checkpoint_remembers(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    checkpoint = Checkpoint(path, IDENTITY)
    assert (checkpoint.resumed, checkpoint.complete) == (False, False)
    for line in (1, 2, 90_000):
        checkpoint.mark_running(line, 1)
        checkpoint.mark_done(line, 1 + line % 2, line / 10)
    failed = FailedRecord("permanent", 1, "LookupError: x", 5)
    checkpoint.mark_failed(failed, 0.1)
    checkpoint.mark_running(6, 1)
    checkpoint.mark_waiting(6, 1)
    checkpoint.mark_superseded(7, 0)
    checkpoint.sync()
    checkpoint.close()
    checkpoint.close()
    again = Checkpoint(path, IDENTITY._replace(name="moved.jsonl"))
    assert (again.resumed, again.complete, again.began_at) == (True, False, checkpoint.began_at)
    assert [line for line in (1, 2, 3, 5, 6, 90_000) if again.before(line).done] == [1, 2, 90_000]
    assert again.before(5).failed == failed
    assert again.before(6) == (False, None, 0)
    succeeded, failures, errors, slowest, superseded = again.finished()
    assert (succeeded, failures, superseded) == (Counter({1: 2, 2: 1}), 1, 1)
    assert again.before(7).done
    assert errors == Counter({"LookupError: x": 1})
    assert slowest[0] == (9000.0, 90_000, 1)
    again.close(complete=True)
    third = Checkpoint(path, IDENTITY)
    assert third.complete
    third.close()
    fourth = Checkpoint(path, IDENTITY, retry_failed=True)
    assert not fourth.complete
    assert fourth.before(5).failed is None
    fourth.close()


def test_a_checkpoint_that_cannot_be_written_any_more_ends_the_run(stage: Path) -> None:
    (stage / "in.jsonl").write_bytes(jsonl(*({"id": n} for n in range(5000))))
    (stage / "noop.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Job:\n    id: int\n"
        "    def exec(self): pass\n"
    )
    command = f"{sys.executable} -m retryexec run noop.py:Job in.jsonl --checkpoint run.db"
    shell = ["/bin/sh", "-c", f"ulimit -f 200; exec {command}"]  # blocks, of a kB at most
    stopped = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert stopped.returncode == 1
    assert "retryexec: stopped by run.db: " in stopped.stderr
    assert "in.jsonl was read up to line " in stopped.stderr
    whole = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert ": 5,000 succeeded\n" in whole.stdout


def test_many_threads_write_together(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.db", IDENTITY)
    gate = threading.Barrier(8)

    def work(number: int) -> None:
        gate.wait()
        for line in range(number, 800, 8):
            checkpoint.mark_running(line, 1)
            checkpoint.mark_done(line, 1, 0.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    checkpoint.close()
    again = Checkpoint(tmp_path / "run.db", IDENTITY)
    assert all(again.before(line).done for line in range(800))
    again.close()


def test_an_identity_knows_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": 1}\n\n{"id": 2}')
    known = {"target": "t", "form": "jsonl", "csv": False, "encoding": None}
    found = identify(str(path), **known)  # type: ignore[arg-type]
    assert (found.records, found.size) == (2, 20)
    assert found.difference(found._replace(name="other", records=0)) is None
