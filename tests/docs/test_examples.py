"""The examples do what they say."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def python(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_the_records_are_varied() -> None:
    lines = (EXAMPLES / "activity.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["id"] for record in records}) == 2000
    assert len({record["user_email"] for record in records}) > 100
    assert len({record["activity"] for record in records}) > 100


def test_the_main_job_saves_every_record_of_a_locked_database(tmp_path: Path) -> None:
    with (EXAMPLES / "activity.jsonl").open("rb") as lines:
        head = [next(lines) for _ in range(300)]
    (tmp_path / "in.jsonl").write_bytes(b"".join(head))
    database = tmp_path / "activity.db"
    for _ in range(2):  # what an earlier run has left is in nobody's way
        done = python(EXAMPLES / "main_job.py", tmp_path / "in.jsonl", database)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"saved 300 of 300 records to {database}"
        assert "sqlite3.OperationalError: database is locked" in done.stdout
    with closing(sqlite3.connect(database)) as connection:
        saved = connection.execute("SELECT id, user_email, activity, at, ip FROM activity")
        ids = {row[0]: row[1:] for row in saved}
    first = json.loads(head[0])
    assert ids[first["id"]][:2] == (first["user_email"], first["activity"])


def test_the_main_job_fails_if_a_record_is_not_saved(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n')
    done = python(EXAMPLES / "main_job.py", tmp_path / "in.jsonl", tmp_path / "activity.db")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("saved 0 of 1 records to ")


def test_fetch_waits_as_long_as_the_server_says() -> None:
    done = python(EXAMPLES / "fetch.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "/news     attempts: 2  all about news",
        "/weather  attempts: 2  all about weather",
        "/missing  attempts: 1  gave up: HTTP Error 404: Not Found",
        "/sports   attempts: 2  all about sports",
    ]


TWINS = {
    "ticker_loop.py": [
        "operation failed: refused",
        "operation failed: reset",
        "operation succeeded: hello",
    ],
    "ticker_deadline.py": [
        "  0 s: refused",
        " 70 s: refused",
        "140 s: refused",
        "210 s: refused",
        "280 s: refused",
        "300 s: out of time",
    ],
    "ticker_metrics.py": [
        "with_a_ticker {'failed: refused': 1, 'failed: reset': 1, 'succeeded at attempt 3': 1}",
        "attempt 1 failed, the next one follows in 0.01 s",
        "attempt 2 failed, the next one follows in 0.01 s",
        "with_retry {'failed: refused': 1, 'failed: reset': 1, 'succeeded': 1}",
    ],
    "ticker_behaviour.py": [
        "cancelled before it began: [0.0]",
        "the sequence ends: [0.0, 1.0, 3.0]",
        "stopped: [0.0, 1.0, 2.0]",
        "out of time: [0.0, 1.0, 2.0]",
        "slow at first: [0.0, 5.0, 6.0, 7.0]",
        "two tickers, one backoff: [[0.0, 1.0], [0.0, 1.0]]",
    ],
    "custom_timer.py": [
        "5 ticks, after waits of [60.0, 120.0, 180.0, 200.0] seconds",
        "refused, after waits of [60.0, 120.0] seconds",
    ],
    "retry_here.py": [
        "hello",
        "page 7",
        "there is no page 8 ['retryexec: gave up after 1 attempt over … s: permanent']",
    ],
    "http_client.py": [
        "server error 503, retrying",
        "all about news",
        "client error: 404",
    ],
}


@pytest.mark.parametrize(("example", "expected"), TWINS.items(), ids=list(TWINS))
def test_the_twins_of_the_go_examples(example: str, expected: list[str]) -> None:
    done = python("-W", "error", EXAMPLES / example)
    assert (done.returncode, done.stderr) == (0, "")
    # How long the real clock took is nobody's business here.
    assert re.sub(r"over [0-9.]+ s", "over … s", done.stdout).splitlines() == expected


def test_ticks_and_updates_come_through_one_queue() -> None:
    done = python("-W", "error", EXAMPLES / "ticker_updates.py")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    update = "update: the configuration has changed"
    assert update in lines[:2]  # beside the first tick, which comes at once
    lines.remove(update)
    assert lines == ["attempt 1", "attempt 2", "attempt 3", "stopped"]


def test_the_background_saver_tries_five_times() -> None:
    done = python("-W", "error", EXAMPLES / "background_saver.py")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "done"
    # Two jobs run side by side, and so may their lines: only the order within each is sure.
    words = [
        *(f"attempt {n} failed: mocking an error" for n in range(1, 5)),
        "gave up after attempt 5: mocking an error (max_attempts)",
    ]
    places = [done.stdout.index(word) for word in words]
    assert places == sorted(places)
    assert "submitted" in done.stdout
    assert "saved for john@example.com: Login Success" in done.stdout


def test_the_tests_that_the_documentation_shows_pass() -> None:
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_saver.py")
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_words_are_counted_though_a_process_is_killed(engine: str) -> None:
    done = python(EXAMPLES / "count_words.py", engine)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ texts, \d+ words, and most of them are 'the': True", lines[0])
    assert lines[1:] == ["killed: True", "attempts of each: [1]"]


def test_sigterm_ends_the_process_after_its_jobs() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "sigterm.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        process.terminate()
        assert process.communicate(timeout=30)[0] == "saved\n"
    assert process.returncode == 0


def test_guards_spare_a_service_that_is_down(tmp_path: Path) -> None:
    """The run behind the picture in "Protect what you call", with a fifth of the jobs."""
    program = f"""
import logging, sys
sys.path.insert(0, {str(EXAMPLES)!r})
import outage
logging.disable(logging.WARNING)
played = {{title: outage.play(guards, new_jobs=10) for title, guards in outage.GUARDS.items()}}
open({str(tmp_path / "outage.svg")!r}, "w").write(outage.picture(played))
for failed, succeeded in played.values():
    print(failed.total(), succeeded.total(), max((failed + succeeded).values()))
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    without, breaker, limited = (map(int, line.split()) for line in done.stdout.splitlines())
    assert next(without) > 4000
    for numbers in (breaker, limited):
        assert next(numbers) < 150
        assert next(numbers) == 1400
    assert next(limited) <= 200
    assert (tmp_path / "outage.svg").read_text().endswith("</svg>\n")


def test_jobs_that_wait_hold_a_worker_in_a_pool_and_none_here(tmp_path: Path) -> None:
    """The two runs behind the picture in the README, in a fraction of the time."""
    program = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import side_by_side
side_by_side.LOCKED, side_by_side.WORK = 0.5, 0.01
side_by_side.FIRST, side_by_side.LONGEST = 0.05, 0.2
ways = (side_by_side.with_tenacity, side_by_side.with_retryexec)
runs = {{way.__name__: side_by_side.play(way) for way in ways}}
open({str(tmp_path / "runs.svg")!r}, "w").write(side_by_side.picture(runs))
for run in runs.values():
    kinds = [kind for kind, *_ in run.spans]
    print(kinds.count("ok"), "failed" in kinds, "asleep" in kinds, len(run.workers))
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["40 True True 8", "40 True False 8"]
    assert (tmp_path / "runs.svg").read_text().endswith("</svg>\n")


def test_a_stale_retry_overwrites_a_newer_save_unless_there_is_a_key() -> None:
    done = python(EXAMPLES / "stale_retry.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "retries in a pool: Ann Old",
        "with a key:        Ann New",
    ]
