"""``retryexec run`` with --key, --keep, --rate, --concurrency and --breaker."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result, jsonl

from retryexec import RetryingExecutor
from retryexec.cli.holds import Holds
from retryexec.cli.options import UsageError, breaker, field_names, rate
from retryexec.cli.progress import Snapshot

Run = Callable[..., Result]

JOBS = """\
import threading
from dataclasses import dataclass
from time import monotonic
from retryexec import current_attempt

DONE, BEGAN, LOCK = [], [], threading.Lock()
RUNNING, MOST = {"user": 0, "all": 0}, {"user": 0, "all": 0}
gate = threading.Event()

@dataclass
class Save:
    user: str | None
    n: int
    fails: int = 0
    opens: bool = False
    waits: bool = False

    def exec(self):
        if self.opens:
            gate.set()
        if self.waits:
            gate.wait(5)
        with LOCK:
            BEGAN.append(monotonic())
            for each in ("user", "all"):
                RUNNING[each] += each == "all" or self.user == "ann"
                MOST[each] = max(MOST[each], RUNNING[each])
        try:
            if current_attempt().number <= self.fails:
                raise OSError("busy")
            DONE.append((self.user, self.n))
        finally:
            with LOCK:
                for each in ("user", "all"):
                    RUNNING[each] -= each == "all" or self.user == "ann"
"""


@pytest.fixture
def save(jobs: Path, command: Callable[..., Result], tmp_path: Path) -> Run:
    jobs.write_text(JOBS)

    def save(records: Any, *options: object) -> Result:
        (tmp_path / "in.jsonl").write_bytes(jsonl(*records))
        return command("run", "jobs.py:Save", "in.jsonl", *options)

    return save


def module() -> Any:
    import sys

    return sys.modules.get("jobs") or sys.modules["retryexec_target_jobs"]


def test_records_of_one_key_run_one_at_a_time_in_their_order(save: Run) -> None:
    records = [{"user": "ab"[n % 2] * 3, "n": n, "fails": int(n % 3 == 0)} for n in range(60)]
    records = [{**one, "user": one["user"].replace("aaa", "ann")} for one in records]
    assert save(records, "--key", "user", "--backoff", "zero", "--workers", 4).status == 0
    for user in ("ann", "bbb"):
        order = [n for who, n in module().DONE if who == user]
        assert order == sorted(order)
    assert module().MOST["user"] == 1


def test_a_key_of_several_fields_and_records_without_one(save: Run) -> None:
    records = [{"user": None, "n": 0, "waits": True}, {"user": None, "n": 1, "opens": True}]
    assert save(records, "--key", "user", "--workers", 2).status == 0
    # Of the second key there is another one, which need not wait.
    records = [{"user": "ann", "n": 1, "waits": True}, {"user": "ann", "n": 2, "opens": True}]
    assert save(records, "--key", "user,n", "--workers", 2).status == 0


def test_with_latest_a_record_replaces_one_that_waits(save: Run, tmp_path: Path) -> None:
    records = [{"user": "ann", "n": n, "waits": True} for n in range(20)]
    records += [{"user": "bob", "n": 99, "opens": True}]
    options = ["--key", "user", "--keep", "latest", "--workers", 2]
    result = save(records, *options, "--checkpoint", "run.db")
    assert result.status == 0
    # One that has begun runs until all are submitted; the last one follows it.
    of_ann = [n for user, n in module().DONE if user == "ann"]
    assert of_ann[-1] == 19
    assert len(of_ann) <= 2
    told = f"{len(of_ann) + 1} succeeded, {20 - len(of_ann)} superseded"
    assert "21 records" in result.out
    assert told in result.out
    again = save(records, *options, "--checkpoint", "run.db")
    assert again.status == 0
    assert told in again.out
    assert "all of it was done before" in again.err


def test_a_newest_record_that_fails_stands_for_the_others(save: Run, tmp_path: Path) -> None:
    records = [{"user": "ann", "n": n, "fails": 9, "waits": True} for n in range(5)]
    records += [{"user": "bob", "n": 99, "opens": True}]
    options = ["--key", "user", "--keep", "latest", "--backoff", "zero", "--attempts", 2]
    options += ["--workers", 2]
    result = save(records, *options, "--failures", "failed.jsonl")
    assert result.status == 1
    assert "1 succeeded, 1 failed, 4 superseded" in result.out
    (failed,) = (tmp_path / "failed.jsonl").read_text().splitlines()
    assert '"n":4' in failed.replace(" ", "")


def test_no_more_attempts_at_a_time_than_asked_for(save: Run) -> None:
    records = [{"user": "x", "n": n} for n in range(100)]
    assert save(records, "--concurrency", 2, "--workers", 8).status == 0
    assert module().MOST["all"] <= 2
    assert len(module().DONE) == 100


def test_a_breaker_holds_the_others_back(save: Run) -> None:
    records = [{"user": "x", "n": n, "fails": 1} for n in range(30)]
    terms = "0.5,minimum_attempts=5,open_for=300ms"
    result = save(records, f"--breaker={terms}", "--backoff", "10ms", "--workers", 2)
    assert result.status == 0
    assert len(module().DONE) == 30
    began = module().BEGAN
    assert max(after - before for before, after in pairwise(began)) > 0.2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--key", "usr"], "no field 'usr'; did you mean 'user'?"),
        (["--key", "user,"], "'user,' does not name fields"),
        (["--keep", "latest"], "--keep latest goes with --key FIELD"),
        (["--keep", "newest", "--key", "user"], "invalid choice: 'newest'"),
        (["--rate", "5/fortnight"], "'5/fortnight' is not a rate"),
        (["--rate", "0"], "'0' is not a rate"),
        (["--concurrency", "0"], "'0' is not a whole number from 1 up"),
        (["--breaker=2"], "'2' is not a breaker (failure_rate"),
        (["--breaker=0.5,bogus=3"], "'bogus' is not one of its terms"),
        (["--breaker=0.5,0.6"], "'failure_rate' is given twice"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    save: Run, options: list[str], said: str
) -> None:
    result = save([{"user": "ann", "n": 1}], *options)
    assert result.status == 2
    assert said in result.err


def test_rates_have_units() -> None:
    assert [rate(text) for text in ("20", "0.5", "100/s", "5/min", "1000 / h")] == [
        (20.0, 1.0),
        (0.5, 1.0),
        (100.0, 1.0),
        (5.0, 60.0),
        (1000.0, 3600.0),
    ]
    with pytest.raises(UsageError, match="is not a rate"):
        rate("inf/s")


def test_terms_of_a_breaker() -> None:
    assert breaker("default") == {}
    assert breaker("80%, open=10s, probes=2") == {
        "failure_rate": 0.8,
        "open_for": 10.0,
        "probes": 2,
    }


def test_names_of_fields() -> None:
    assert field_names("user, kind") == ("user", "kind")


def test_the_display_tells_how_many_are_held_and_by_what() -> None:
    now = Snapshot(held=12, held_by=(("key", 10), ("CircuitBreaker", 2)))
    assert now.holds == "12 held (key 10, CircuitBreaker 2)"
    assert Snapshot(held=1).holds == "1 held"


def test_what_holds_jobs_is_looked_up_now_and_then() -> None:
    executor = RetryingExecutor(1, key="user")
    executor.pause()
    futures = [executor.submit(int) for _ in range(4)]
    holds = Holds(executor)
    found = dict(holds.look(4))
    assert found["key"] == 3
    assert holds.look(0) == ()
    executor.resume()
    for future in futures:
        future.result(10)
    executor.shutdown()


def test_the_command_that_goes_on_has_these_options(save: Run) -> None:
    records = [{"user": "ann", "n": 0, "fails": 9}]
    options = ["--key", "user", "--keep", "latest", "--rate", "100/s", "--breaker"]
    result = save(records, *options, "--attempts", 1, "--failures", "failed.jsonl")
    assert result.status == 1
    assert "--key user --keep latest --rate 100/s --breaker default" in result.err
