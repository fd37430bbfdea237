"""Ctrl-C, once and twice, and SIGTERM: in processes of their own, staged by named pipes.

A job that is to be interrupted says that it has begun through one pipe, and waits for word from
another; nothing here sleeps.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from helpers.command import Result, jsonl, read_jsonl, start

from retryexec.cli.signals import Interrupts

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

STAGED = """\
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Staged:
    id: int
    fails: bool = False

    def exec(self):
        if self.fails:
            raise ConnectionError("try again")
        Path("began").write_text(f"{self.id}\\n")
        if Path("gate").read_text() != "pass":
            raise ConnectionError("turned away")
"""

Process = subprocess.Popen[bytes]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "staged.py").write_text(STAGED)
    os.mkfifo(tmp_path / "began")
    os.mkfifo(tmp_path / "gate")
    return tmp_path


@pytest.fixture
def started(stage: Path) -> Iterator[Callable[..., Process]]:
    """Start runs of Staged jobs, and see to it that they end."""
    processes: list[Process] = []

    def started(*options: object, stdin: Any = subprocess.DEVNULL) -> Process:
        arguments = ["run", "staged.py:Staged", *options]
        processes.append(start(*arguments, "--workers", "1", stdin=stdin))
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def line_with(stream: IO[bytes] | None, text: str) -> str:
    """Read *stream* up to a line with *text*, and return that line."""
    assert stream is not None
    for line in stream:
        if text in line.decode():
            return line.decode()
    pytest.fail(f"no line with {text!r}")


def outcome(process: Process) -> Result:
    out, err = process.communicate(timeout=30)
    return Result(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_lets_running_attempts_end_and_keeps_the_rest(
    number: signal.Signals, stage: Path, started: Callable[..., Process]
) -> None:
    records = [{"id": 1, "fails": True}, {"id": 2}, {"id": 3}, {"id": 4, "other": "kept"}]
    (stage / "in.jsonl").write_bytes(jsonl(*records) + b"nope\n")
    process = started(
        *("in.jsonl", "--failures", "rest.jsonl", "--max-pending", "2"),
        *("--backoff", "1h", "--max-elapsed", "none"),
    )
    assert (stage / "began").read_text() == "2\n"
    process.send_signal(number)
    assert line_with(process.stderr, "stopping") == (
        "stopping: attempts that run may end, nothing new starts, and the rest goes to "
        "rest.jsonl; Ctrl-C again quits\n"
    )
    (stage / "gate").write_text("pass")
    result = outcome(process)
    assert result.status == 1
    assert result.out.startswith("5 records in ")
    assert ": 1 succeeded, 1 bad, 1 stopped unfinished, 2 never started\n" in result.out
    assert "3 records are in rest.jsonl; to try again: retryexec run staged.py:" in result.err
    stopped, unstarted = "shutdown", {"reason": "shutdown", "attempts": 0, "error": None}
    rest = sorted(read_jsonl(stage / "rest.jsonl"), key=lambda record: record["id"])
    assert rest == [
        {
            "id": 1,
            "fails": True,
            "_retryexec": {
                "reason": stopped,
                "attempts": 1,
                "error": "ConnectionError: try again",
                "line": 1,
            },
        },
        {"id": 3, "_retryexec": {**unstarted, "line": 3}},
        {"id": 4, "other": "kept", "_retryexec": {**unstarted, "line": 4}},
    ]


def test_an_attempt_that_fails_after_ctrl_c_is_kept_too(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1}))
    process = started("in.jsonl", "--failures", "rest.jsonl")
    assert (stage / "began").read_text() == "1\n"
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "stopping")
    (stage / "gate").write_text("turn away")
    assert outcome(process).status == 1
    (record,) = read_jsonl(stage / "rest.jsonl")
    assert record["_retryexec"] == {
        "reason": "shutdown",
        "attempts": 1,
        "error": "ConnectionError: turned away",
        "line": 1,
    }


def test_without_a_failures_file_the_rest_is_not_read(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl(*({"id": n} for n in range(1, 9))))
    process = started("in.jsonl", "--max-pending", "2")
    assert (stage / "began").read_text() == "1\n"
    process.send_signal(signal.SIGINT)
    assert "the rest is left (--failures FILE would" in line_with(process.stderr, "stopping")
    (stage / "gate").write_text("pass")
    result = outcome(process)
    assert result.status == 1
    assert "in.jsonl was read up to line 3; what follows has not been looked at" in result.err


def test_twice_quits_now_and_keeps_what_was_running(
    stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1}, {"id": 2}))
    process = started("in.jsonl", "--failures", "rest.jsonl")
    assert (stage / "began").read_text() == "1\n"
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "stopping")
    process.send_signal(signal.SIGINT)
    result = outcome(process)
    assert result.status == 130
    assert result.err == "quit: 1 attempt was running, with an outcome that nobody knows\n"
    rest = {record["id"]: record["_retryexec"] for record in read_jsonl(stage / "rest.jsonl")}
    assert rest[1] == {"reason": "interrupted", "attempts": 1, "error": None, "line": 1}
    assert rest[2]["reason"] == "shutdown"


def test_a_stream_that_stays_open_does_not_hold_a_stop_up(
    stage: Path, started: Callable[..., Process]
) -> None:
    process = started("-", "--failures", "rest.jsonl", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b'{"id": 1}\n{"id": 2}\n{"id"')
    process.stdin.flush()
    assert (stage / "began").read_text() == "1\n"
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "stopping")
    (stage / "gate").write_text("pass")
    assert process.wait(timeout=30) == 1
    assert process.stderr is not None
    assert b"standard input was not read to its end\n" in process.stderr.read()
    assert [record["id"] for record in read_jsonl(stage / "rest.jsonl")] == [2]


def test_records_from_a_pipe_run_as_they_come(stage: Path, started: Callable[..., Process]) -> None:
    process = started("-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    for number in (1, 2):
        process.stdin.write(b'{"id": %d}\n' % number)
        process.stdin.flush()
        assert (stage / "began").read_text() == f"{number}\n"
        (stage / "gate").write_text("pass")
    assert outcome(process).status == 0


def test_a_reader_that_has_seen_enough(stage: Path, started: Callable[..., Process]) -> None:
    """As `retryexec ... | head -0` does: the summary has nowhere to go, and that is all."""
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1}))
    process = started("in.jsonl")
    assert process.stdout is not None
    process.stdout.close()
    (stage / "began").read_text()
    (stage / "gate").write_text("pass")
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 0


def test_a_third_ctrl_c_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert (interrupts.count, left) == (2, [])
        signal.raise_signal(signal.SIGINT)
        assert left == [130]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def enter() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("times", [1, 2])
def test_the_picture_of_an_interrupted_run_is_drawn(
    times: int, stage: Path, started: Callable[..., Process]
) -> None:
    (stage / "in.jsonl").write_bytes(jsonl({"id": 1}, {"id": 2}))
    process = started("in.jsonl", "--timeline", "run.svg")
    assert (stage / "began").read_text() == "1\n"
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "stopping")
    if times == 1:
        (stage / "gate").write_text("pass")
    else:
        process.send_signal(signal.SIGINT)
    assert outcome(process).status == (1 if times == 1 else 130)
    picture = (stage / "run.svg").read_text()
    assert picture.endswith("</svg>\n")
    assert ("was running at the end" in picture) == (times == 2)
    assert "line 1, attempt 1" in picture
    assert "line 2" not in picture
