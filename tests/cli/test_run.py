"""``retryexec run``: what is retried, what is said, and with which status it ends."""

import importlib
import io
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.command import Result, Stdin, read_jsonl

from retryexec import RetryingExecutor
from retryexec.cli import main
from retryexec.cli.jsonl import FailuresFile
from retryexec.cli.output import describe, format_duration, ordinal
from retryexec.cli.pipeline import Pipeline
from retryexec.cli.progress import Quiet, Snapshot
from retryexec.cli.records import FailedRecord, Record, RecordType
from retryexec.cli.stats import RunStats

Run = Callable[..., Result]
Ran = Callable[[], list[Any]]


def test_the_summary_tells_at_which_attempt_jobs_succeeded(run: Run) -> None:
    result = run([{"id": n, "fails": n % 3} for n in range(30)], "--workers", "2")
    assert result.status == 0
    assert result.err == ""
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0][:2] == ["30", "records"]
    assert lines[1] == ["succeeded", "at", "attempt"]
    assert lines[2:5] == [[nth, "10", "#" * 30] for nth in ("1st", "2nd", "3rd")]
    assert lines[5] == ["slowest,", "from", "first", "attempt", "to", "outcome"]
    assert len(lines) == 6 + 5 + 2
    assert lines[-1] == ["30", "ConnectionError:", "try", "again"]


def test_the_summary_names_the_slowest_with_line_and_attempts(run: Run) -> None:
    result = run([{"id": 1}, {"id": 2, "fails": 2}], "--backoff", "0.03,0.03")
    slowest = result.out.splitlines()[5]
    assert slowest.endswith("  line 2, 3 attempts")


def test_late_successes_share_a_row(run: Run) -> None:
    result = run([{"id": n, "fails": n} for n in range(14)], "--attempts", "none")
    assert "         9th          1  ######" in result.out
    assert "       later          5  ##############################\n" in result.out
    assert "10th" not in result.out


def test_the_commonest_errors_come_first_and_the_rest_together(run: Run) -> None:
    records = [{"id": n, "fails": 1 + n, "error": f"{'abcdefg'[n]}\nx"} for n in range(7)]
    errors = run(records).out.split("commonest errors, by failed attempts\n")[1].splitlines()
    assert errors[0] == "             7  ConnectionError: g x"
    assert errors[5] == "             3  others, 2 of them"


def test_a_final_failure_is_told_and_counted(run: Run, tmp_path: Path) -> None:
    result = run([{"id": 1}, {"id": 2, "fails": 9}], "--attempts", "3")
    assert result.status == 1
    assert result.err == (
        "in.jsonl:2: failed after 3 attempts (max_attempts): ConnectionError: try again\n"
    )
    assert ": 1 succeeded, 1 failed\n" in result.out


def test_a_failures_file_can_be_fed_back(run: Run, ran: Ran, tmp_path: Path) -> None:
    records = [
        {"id": 1},
        {"fails": 2, "id": 2, "name": "ü", "extra": {"kept": [1.0, None]}},
        {"id": 3, "fails": 1, "_retryexec": {"reason": "of a former run"}},
    ]
    result = run(records, "--attempts", "1", "--failures", "failed.jsonl")
    assert result.err.splitlines()[-1] == (
        "2 records are in failed.jsonl; to try again: retryexec run jobs.py:Save failed.jsonl "
        "--backoff zero --attempts 1 --failures failed-2.jsonl"
    )
    story = {"reason": "max_attempts", "attempts": 1, "error": "ConnectionError: try again"}
    told = sorted(read_jsonl(tmp_path / "failed.jsonl"), key=lambda record: record["id"])
    assert told == [
        {**records[1], "_retryexec": {**story, "line": 2}},
        {**records[2], "_retryexec": {**story, "line": 3}},
    ]
    data = (tmp_path / "failed.jsonl").read_bytes()
    again = run(data, "--forbid-unknown", "--failures", "more.jsonl")
    assert "Save does not have a field 'extra'" in again.err
    again = run(data, "--attempts", "2", "--failures", "more.jsonl")
    assert again.status == 1
    assert [record["id"] for record in read_jsonl(tmp_path / "more.jsonl")] == [2]
    assert again.err.splitlines()[-1].startswith("1 record is in more.jsonl; to try again: ")
    assert run(data, "--attempts", "3").status == 0


def test_failed_rows_of_csv_can_be_fed_back(run: Run, tmp_path: Path) -> None:
    text = b"id,at,fails,note\n7,2024-02-29T12:00:00Z,3,\n8,,3,n\n"
    run(text, "--attempts", "1", "--workers", "1", "--failures", "failed.jsonl", name="in.csv")
    first, second = read_jsonl(tmp_path / "failed.jsonl")
    assert first.pop("_retryexec")["line"] == 2
    assert second.pop("_retryexec")["line"] == 3
    assert first == {"id": 7, "at": "2024-02-29T12:00:00Z", "fails": 3, "note": ""}
    assert second == {"id": 8, "fails": 3, "note": "n"}
    assert run((tmp_path / "failed.jsonl").read_bytes()).status == 0


def test_what_csv_made_with_a_type_of_its_own_can_be_fed_back(
    run: Run, tmp_path: Path, jobs: Path
) -> None:
    jobs.write_text(jobs.read_text().replace("        RAN.append(self)", "        1 / 0"))
    run(b"path,size\na/b,\n", "--failures", "f.jsonl", target="jobs.py:Where", name="in.csv")
    (record,) = read_jsonl(tmp_path / "f.jsonl")
    assert (record["path"], record["size"]) == ("a/b", None)


def test_no_failures_leave_an_empty_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "failed.jsonl").write_text("of a former run\n")
    assert run([{"id": 1}], "--failures", "failed.jsonl").status == 0
    assert (tmp_path / "failed.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("options", "target", "reason", "attempts"),
    [
        (["--attempts", "2"], "Save", "max_attempts", 2),
        (["--max-attempts", "2"], "Save", "max_attempts", 2),
        (["--backoff", "none"], "Save", "backoff_exhausted", 1),
        (["--backoff", "0,0"], "Save", "backoff_exhausted", 3),
        (["--backoff", "9", "--max-elapsed", "5s"], "Save", "max_elapsed", 1),
        (["--retry-on", "KeyError", "--retry-on", "sqlite3.Error"], "Save", "not_retriable", 1),
        (["--retry-on", "OSError", "--attempts", "4"], "Save", "max_attempts", 4),
        ([], "Fatal", "permanent", 1),
        ([], "Exits", "not_retriable", 1),
    ],
)
def test_options_say_when_to_stop(
    options: list[str],
    target: str,
    reason: str,
    attempts: int,
    *,
    run: Run,
    tmp_path: Path,
) -> None:
    target = f"jobs.py:{target}"
    record = {"id": 1, "fails": 99} if "Save" in target else {"id": 1}
    result = run([record], *options, "--failures", "f.jsonl", target=target)
    assert result.status == 1
    (failed,) = read_jsonl(tmp_path / "f.jsonl")
    assert (failed["_retryexec"]["reason"], failed["_retryexec"]["attempts"]) == (reason, attempts)


@pytest.mark.parametrize(
    ("body", "kind"),
    [("async def f(self): ...", "coroutine"), ("def f(self): yield", "generator")],
)
def test_an_exec_that_only_makes_a_coroutine_has_failed(
    body: str, kind: str, run: Run, jobs: Path
) -> None:
    """A plain decorator hides what exec is, so only the result tells."""
    jobs.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Job:\n    id: int\n"
        f"    {body}\n    def exec(self): return self.f()\n"
    )
    result = run([{"id": 1}], target="jobs.py:Job")
    assert result.status == 1
    assert (
        f"failed after 1 attempt (permanent): TypeError: Job.exec() returned a {kind}, so nothing "
        "was done: make it a plain def"
    ) in result.err


def test_exceptions_of_target_can_be_meant(run: Run) -> None:
    arguments = ["--retry-on", "jobs.Odd"]
    assert run([{"id": 1}], *arguments, target="jobs.py:OddJob").status == 0


def test_quiet_says_nothing_where_all_is_well(run: Run) -> None:
    assert run([{"id": 1, "fails": 2}], "--quiet") == Result(0, "", "")


def test_quiet_still_tells_what_went_wrong(run: Run) -> None:
    result = run(b'nope\n{"id": 1, "fails": 99}\n', "-q", "--failures", "f.jsonl")
    assert (result.status, result.out) == (1, "")
    lines = sorted(result.err.splitlines())
    assert lines[0].startswith("1 record is in f.jsonl")
    assert lines[1].startswith("2 records in ")
    assert lines[1].endswith(": 0 succeeded, 1 failed, 1 bad")
    assert lines[2].startswith("in.jsonl:1: bad record: ")
    assert lines[3].startswith("in.jsonl:2: failed after 10 attempts (max_attempts): ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_stops_the_run(run: Run, jobs: Path) -> None:
    """The first record fails for good and cannot be written down; the second waits in vain."""
    fails = "raise PermanentError(ValueError()) if self.id == 1 else ConnectionError()"
    jobs.write_text(jobs.read_text().replace('raise PermanentError(LookupError("never"))', fails))
    result = run(
        [{"id": 1}, {"id": 2}],
        *("--backoff", "1h", "--max-elapsed", "none", "--failures", "/dev/full"),
        target="jobs.py:Fatal",
    )
    assert result.status == 1
    assert "stopping: attempts that run may end, nothing new starts" in result.err
    assert "retryexec: stopped by OSError: [Errno 28] No space left on device\n" in result.err
    assert "to try again" not in result.err
    assert ": 0 succeeded, 1 failed, 1 stopped unfinished\n" in result.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walk"], "argument COMMAND: invalid choice: 'walk' (choose from "),
        (["run"], "the following arguments are required: TARGET (see retryexec run --help)"),
        (["run", "a", "b", "c"], "unrecognized arguments: c"),
        (["run", "a", "--workers", "0"], "argument --workers: '0' is not a whole number from 1 up"),
        (["run", "a", "--workers", "1.5"], "argument --workers: '1.5' is not a whole number"),
        (["run", "a", "--attempts", "0"], "--max-attempts: '0' is not a whole number from 1 up"),
        (["run", "a", "--attempts", "2.5"], "'2.5' is not a whole number from 1 up"),
        (["run", "a", "--max-elapsed", "-1"], "argument --max-elapsed: "),
        (["run", "a", "--max-elapsed=-1"], "argument --max-elapsed: '-1' is not a span of time"),
        (
            ["run", "a", "--max-elapsed", "nan"],
            "'nan' is not a span of time: seconds from 0 up",
        ),
        (["run", "a", "--max-pending", "0"], "argument --max-pending: '0' is not a whole number"),
        (["run", "a", "--backoff", "foo"], "argument --backoff: 'foo' is not a backoff: expected"),
        (["run", "a", "--backoff", "constant:inf"], "interval takes seconds from 0 up, finite"),
        (["run", "a", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["run", "jobs.py:Save", "jobs.py", "--retry-on", "Foo"], "no exception 'Foo' is known"),
        (["run", "jobs.py:Save", "jobs.py", "--retry-on", "int"], "int is not a type of exception"),
        (["run", "jobs.py:Save", "jobs.py", "--failures", "."], "--failures '.' cannot be written"),
        (
            ["run", "jobs.py:Save", "jobs.py", "--failures", "no/where"],
            "--failures 'no/where' cannot be written: No such file or directory",
        ),
        (
            ["run", "jobs.py:Save", "old.jsonl", "--failures", "./old.jsonl"],
            "--failures 'old.jsonl' is INPUT itself: name another file",
        ),
        (
            ["run", "jobs.py:Save", "old.jsonl", "--failures", "jobs.py"],
            "--failures 'jobs.py' is TARGET itself: name another file",
        ),
        (["plan"], "the following arguments are required: BACKOFF (see retryexec plan --help)"),
        (["plan", "x", "--attempts", "0"], "'0' is not a whole number from 1 up"),
        (["plan", "x", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
    ],
)
def test_misuse_is_told_in_one_line_before_anything_runs(
    arguments: list[str], said: str, jobs: Path, command: Callable[..., Result]
) -> None:
    (jobs.parent / "old.jsonl").write_text('{"id": 1}\n')
    result = command(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("retryexec: error: ")
    assert result.err.count("\n") == 1
    assert said in result.err
    assert (jobs.parent / "old.jsonl").read_text() == '{"id": 1}\n'
    assert "class Save" in jobs.read_text()


def test_standard_input_may_be_the_failures_file_by_another_name(
    jobs: Path, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    (jobs.parent / "in.jsonl").write_text('{"id": 1}\n')
    with open("in.jsonl") as stdin:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", stdin)
        result = command("run", "jobs.py:Save", "-", "--failures", "in.jsonl")
    assert result.err == (
        "retryexec: error: --failures 'in.jsonl' is INPUT itself: name another file\n"
    )


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["run", "--help"], ["plan", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "  retryexec run savers.py:UserActivitySaver activity.jsonl\n" in out
    assert "  exponential   initial_interval=0.5, multiplier=1.5, " in out
    assert "retryexec plan 0.1,1,10 --plot schedule.svg" in out
    assert out.splitlines()[-1].startswith("retryexec ")


@pytest.mark.parametrize("module", ["msgspec", "rich"])
def test_without_the_extra_run_says_what_to_install(
    module: str, jobs: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Result]
) -> None:
    for name in list(sys.modules):
        if name.startswith("retryexec.cli.") and name not in {
            "retryexec.cli.options",
            "retryexec.cli.output",
            "retryexec.cli.arguments",
        }:
            monkeypatch.delitem(sys.modules, name)
    for name in list(sys.modules):
        if name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(module), *sys.meta_path])
    result = command("run", "jobs.py:Save", "-")
    assert result.status == 2
    assert result.err == (
        f'retryexec: error: run needs {module}, which is an extra: pip install "retryexec[cli]"\n'
    )
    assert command("plan", "zero").status == 0


class _Without:
    """Finds, in front of all others, that a module is not there."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self._module:
            msg = f"No module named {name!r}"
            raise ModuleNotFoundError(msg, name=name)


def test_a_module_that_no_extra_brings_is_no_misuse(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "retryexec.cli.run", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Without("retryexec"), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="retryexec"):
        main(["run", "jobs.py:Save", "-"])


def test_progress_of_a_stream_is_known_once_it_is_read(
    run: Run, jobs: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Result]
) -> None:
    """While records come nobody knows the share that is done; the stage directs both moments."""
    jobs.write_text(jobs.read_text().replace("RAN.append(self)", "DONE.wait()"))
    at_end, done = threading.Event(), threading.Event()
    seen: list[Snapshot] = []

    class Watcher(Quiet):
        def update(self, now: Snapshot) -> None:
            seen.append(now)
            (at_end if now.total is None else done).set()

    class Slow(Stdin):
        def read(self, size: int = -1) -> bytes:
            if not self.pieces:
                at_end.wait(10)
            return super().read(size)

    monkeypatch.setattr("retryexec.cli.run.for_terminal", lambda **_: Watcher())
    monkeypatch.setattr("builtins.DONE", done, raising=False)
    monkeypatch.setattr(sys, "stdin", Slow(b'{"id": 1}\n'))
    assert command("run", "jobs.py:Save", "-").status == 0
    assert seen[0].total is None
    assert (seen[-1].done, seen[-1].total) == (0, 1)
    assert seen[-1].running == 1


def test_what_is_abandoned_is_written_down_once(tmp_path: Path) -> None:
    began, gate = threading.Event(), threading.Event()

    class Job:
        def exec(self) -> None:
            began.set()
            gate.wait(10)

    @dataclass
    class Fields:
        id: int

    failures = FailuresFile(tmp_path / "f.jsonl", RecordType(Fields))
    record = Record(1, 9, Job(), {"id": msgspec.Raw(b"1")})
    said: list[str] = []
    pipeline = Pipeline("in", iter([record]), stats=RunStats(), say=said.append, failures=failures)
    with RetryingExecutor(1) as executor:
        pipeline.start(executor)
        assert began.wait(10)
        pipeline.abandon()
        gate.set()
    failures.close()
    failures.write(record, FailedRecord("late", 0, None, 2))  # too late to matter
    (record,) = read_jsonl(tmp_path / "f.jsonl")
    assert record["_retryexec"]["reason"] == "interrupted"


def test_an_error_of_our_own_leaves_no_threads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "wait", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run([{"id": 1}])


def test_an_executor_that_refuses_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(RetryingExecutor, "submit", refuse)
    result = run([{"id": 1}])
    assert result.status == 1
    assert "retryexec: stopped by RuntimeError: can't start new thread" in result.err


def test_ctrl_c_before_anything_runs(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.write_text("raise KeyboardInterrupt")
    assert main(["run", "jobs.py:Save", "-"]) == 130


def test_output_that_cannot_encode_a_character_shows_its_code(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    run([{"id": 1, "fails": 1, "error": "für"}])
    assert b"ConnectionError: f\\xfcr\n" in out.buffer.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000327, "0.0327 ms"),
        (0.9, "900 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (12_000, "3 h 20 min"),
    ],
)
def test_spans_are_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_ordinals() -> None:
    numbers = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111]
    assert [ordinal(n) for n in numbers] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]
    )


def test_errors_are_described_backoffs_on_one_line() -> None:
    import sqlite3

    assert describe(sqlite3.OperationalError("no\n  such table")) == (
        "sqlite3.OperationalError: no such table"
    )
    assert describe(ValueError()) == "ValueError"

    class Guarded(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError(name)

    class Odd(Exception, metaclass=Guarded):
        pass

    assert describe(Odd("text")).endswith("Odd: text")


def test_importing_the_command_runs_nothing() -> None:
    importlib.import_module("retryexec.__main__")
