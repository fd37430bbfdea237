"""Options of ``retryexec run`` that say how much, how fast, and how to try again."""

import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from helpers.command import Result, jsonl, read_jsonl

from retryexec._shapes import shape_of
from retryexec.cli.stats import RunStats, summary
from retryexec.cli.work import Admission

Run = Callable[..., Result]
Command = Callable[..., Result]
Ran = Callable[[], list[Any]]


# ---- what is shown when nothing is asked for


def test_a_bare_command_shows_its_help(command: Command) -> None:
    result = command()
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("usage: retryexec [-h] [--version] COMMAND ...")
    assert "  retryexec run savers.py:UserActivitySaver activity.jsonl\n" in result.out
    assert command("journal").out.startswith("usage: retryexec journal")


def test_a_slip_in_an_action_of_the_journal(command: Command, tmp_path: Path) -> None:
    result = command("journal", "discard", tmp_path, "--befor", "1h")
    assert result.status == 2
    assert "unrecognized arguments: --befor" in result.err
    assert "did you mean '--before'? (see retryexec journal discard --help)" in result.err
    assert "did you mean '--seed'?" in command("plan", "zero", "--sed", "1").err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--worker", "3"], "unrecognized arguments: --worker 3; did you mean '--workers'?"),
        (["--retry-fail"], "did you mean '--retry-failed'?"),
        (["--dryrun"], "did you mean '--dry-run'?"),
        (["--backoff", "expo"], "'expo' is not a backoff; did you mean 'exponential'?"),
        (["--backoff", "full_jitter:1"], "did you mean 'full-jitter'?"),
        (["--backoff", "fibonaci"], "did you mean 'fibonacci'?"),
        (["--retry-on", "ConectionError"], "did you mean 'ConnectionError'?"),
        (["--retry-on", "timeouterror"], "did you mean 'TimeoutError'?"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(options: list[str], said: str, run: Run) -> None:
    result = run([{"id": 1}], *options)
    assert result.status == 2
    assert said in result.err


# ---- --dry-run, --limit, --rate


def test_a_dry_run_checks_all_and_runs_nothing(run: Run, ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text("kept\n")
    options = ("--dry-run", "--failures", "f.jsonl", "--checkpoint", "run.db")
    result = run(b'{"id": 1}\nnope\n{"id": "x"}\n{"id": 2}\n', *options)
    assert result.status == 1
    assert result.out == "2 records good, 2 bad; nothing was run (--dry-run)\n"
    assert "in.jsonl:2: bad record: " in result.err
    assert "in.jsonl:3: bad record: id: expected int, got str" in result.err
    assert run([{"id": 1}], *options).status == 0
    assert run([{"id": 1, "x": 1, "y": 2}], *options).err == (
        "2 unknown fields left out in all: 'x', 'y'\n"
    )
    assert run(b"id,name\n1\n", *options, name="in.csv").status == 1
    assert ran() == []
    assert (tmp_path / "f.jsonl").read_text() == "kept\n"
    assert not (tmp_path / "run.db").exists()
    assert run(b"[{}]", *options).status == 2


def test_no_more_are_run_than_the_limit_says(run: Run, ran: Ran) -> None:
    records = jsonl(*({"id": n} for n in range(1, 9)))
    result = run(b"nope\n" + records, "--limit", 3)
    assert [job.id for job in sorted(ran(), key=lambda job: job.id)] == [1, 2, 3]
    assert "in.jsonl was read up to line 4; what follows has not been looked at" in result.err
    assert run(records, "--limit", 3).status == 0
    assert run(records, "--limit", 99).err == ""


def test_records_start_no_faster_than_the_rate_that_was_asked_for(run: Run) -> None:
    began = monotonic()
    assert run([{"id": n} for n in range(11)], "--rate", "50", "--workers", "4").status == 0
    assert monotonic() - began >= 10 / 50


def test_retries_count_in_the_rate(run: Run) -> None:
    began = monotonic()
    assert run([{"id": 1, "fails": 9}], "--rate", "100/s", "--backoff", "zero").status == 0
    assert monotonic() - began >= 0.09


def test_few_records_are_ahead_of_a_retry_that_falls_due() -> None:
    admission = Admission(50)
    for _ in range(100):
        admission.wait_for_turn(alone=False)
    let_through = threading.Event()

    def one_more() -> None:
        admission.wait_for_turn(alone=False)
        let_through.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    for _ in range(49):
        admission.begin(first=True)
        admission.end()
        assert not let_through.is_set()
    admission.begin(first=True)  # only half of them are ahead now
    assert let_through.wait(10)
    thread.join()


def test_a_retry_starts_before_fresh_records(run: Run, ran: Ran) -> None:
    """With one worker, and thousands of records to come."""
    records = [{"id": 0, "fails": 1}, *({"id": n} for n in range(1, 3000))]
    assert run(records, "--workers", 1).status == 0
    assert [job.id for job in ran()].index(0) < 50


def test_a_suspect_waits_until_it_is_alone_and_others_wait_for_it() -> None:
    admission = Admission(50)
    admission.wait_for_turn(alone=False)
    admission.begin(first=True)
    steps: list[str] = []

    def suspect() -> None:
        admission.wait_for_turn(alone=True)
        steps.append("submitted")
        admission.wait_until_idle()
        steps.append("ended")

    thread = threading.Thread(target=suspect)
    thread.start()
    steps.append("another runs")
    admission.end()
    while steps[-1] != "submitted":
        thread.join(0.001)
    admission.begin(first=True)
    admission.end()
    thread.join(10)
    assert steps == ["another runs", "submitted", "ended"]


def test_nobody_waits_after_a_stop() -> None:
    admission = Admission(50, ahead=1)
    admission.wait_for_turn(alone=False)
    admission.begin(first=True)
    threads = [
        threading.Thread(target=admission.wait_for_turn, kwargs={"alone": alone})
        for alone in (False, True)
    ]
    threads.append(threading.Thread(target=admission.wait_until_idle))
    for thread in threads:
        thread.start()
    admission.stop()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


# ---- the remedy, errors and notes


def test_the_command_to_try_again_has_all_options_of_this_run(run: Run, jobs: Path) -> None:
    (jobs.parent / "f 1.jsonl").touch()
    options = ["--attempts", "1", "--workers=3", "--max-elapsed", "1m", "--retry-on", "OSError"]
    options += ["--retry-on=jobs.Odd", "--strict", "-q", "--rate", "1000", "--max-pending", "7"]
    options += ["--limit", "5", "--delimiter", ";", "--encoding", "latin-1"]
    text = b"id;fails\n1;9\n2;0\n"
    result = run(text, *options, "--failures", "f 1.jsonl", name="in.csv")
    words = shlex.split(result.err.splitlines()[-1].partition("to try again: ")[2])
    assert words[:4] == ["retryexec", "run", "jobs.py:Save", "f 1.jsonl"]
    assert words[4:] == [
        *("--backoff", "zero", "--attempts", "1", "--workers", "3", "--max-elapsed", "1m"),
        *("--retry-on", "OSError", "--retry-on", "jobs.Odd", "--strict", "--quiet"),
        *("--rate", "1000", "--max-pending", "7", "--failures", "f 1-2.jsonl"),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ""])
def test_the_printed_command_works_and_leads_on(
    suffix: str, run: Run, command: Command, jobs: Path
) -> None:
    err = run([{"id": 1, "fails": 9}], "--attempts", "2", "--failures", f"f{suffix}").err
    for number in (2, 3):
        words = shlex.split(err.splitlines()[-1].partition("to try again: ")[2])
        result = command(*words[1:])
        assert result.status == 1
        assert read_jsonl(jobs.parent / f"f-{number}{suffix}")[0]["_retryexec"]["attempts"] == 2
        err = result.err


@pytest.mark.parametrize("width", [60, 80, 200])
def test_on_a_terminal_the_command_does_not_break_within_an_option(
    width: int, run: Run, command: Command, monkeypatch: pytest.MonkeyPatch, jobs: Path
) -> None:
    monkeypatch.setattr("retryexec.cli.shell.sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    options = ("--attempts", "1", "--max-elapsed", "1m", "--retry-on", "sqlite3.OperationalError")
    result = run([{"id": 1, "fails": 9}], *options, "--failures", jobs.parent / "failed.jsonl")
    text = result.err.partition("to try again: ")[2]
    assert all(len(line) <= width for line in text.splitlines())
    assert text.startswith("\n  retryexec run jobs.py:Save failed.jsonl")
    words = shlex.split(text.replace("\\\n", " "))
    assert words[-2:] == ["--failures", "failed-2.jsonl"]
    assert all(line.lstrip().startswith(("--", "retryexec")) for line in text.splitlines() if line)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("OSError: no answer from 10.0.0.1:80", "OSError: no answer from 10.0.0.27:8080"),
        ("KeyError: 'ann'", "KeyError: 'bob'"),
        ("E: record 7 is locked", "E: record 12345 is locked"),
        ("E: no user ann@example.com here", "E: no user bob@example.org here"),
        ('E: "x y" is bad', 'E: "z" is bad'),
        ("E: /var/lib/a: no such file", "E: /home/b/c.txt: no such file"),
        ("E: id 01a2188c-1ae6 gone", "E: id 77fb188d-2ce7 gone"),
        ("E: took 0.123 s", "E: took 17 s"),
        ("E: <Job object at 0x7f521>", "E: <Job object at 0x8f521>"),
    ],
)
def test_errors_of_one_shape(one: str, other: str) -> None:
    assert shape_of(one) == shape_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("OSError: down", "ValueError: down"),
        ("E: database is locked", "E: database is gone"),
        ("E: can't open it, won't", "E: can't close it, won't"),
    ],
)
def test_errors_of_other_shapes(one: str, other: str) -> None:
    assert shape_of(one) != shape_of(other)


def test_errors_are_counted_by_shape() -> None:
    stats = RunStats()
    for n in range(5000):
        stats.count_retry(f"OSError: record {n} is locked")
    stats.count_failure(1, 1, 0.0, "KeyError: 'x'")
    text = summary(stats.totals(), 1.0)
    assert "         5,000  OSError: record 0 is locked  (and others like it)\n" in text
    assert text.endswith("             1  KeyError: 'x'")


def test_a_thousand_unknown_fields_are_noted_once(run: Run) -> None:
    many = {f"x{n:03}": n for n in range(1000)}
    result = run([{"id": 1, **many}, {"id": 2, "y": 1}, *({"id": n, **many} for n in (3, 4))])
    assert result.status == 0
    first, last = result.err.splitlines()
    assert first == (
        "in.jsonl:1: note: Save does not have fields 'x000', 'x001', 'x002' and 997 more; they are "
        "left out from here on (--forbid-unknown refuses such records)"
    )
    assert last.startswith("1,001 unknown fields left out in all: 'x000', 'x001', ")
    result = run([{"id": 1, **many}], "--forbid-unknown")
    assert "'x004' and 995 more (it has id, name" in result.err
