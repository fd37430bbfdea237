"""The page of executors that live in the same process, mounted into their app."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from helpers.journal_kit import JOBS, Save
from helpers.visitor import Visitor, rows_of, text_of
from starlette.applications import Starlette
from starlette.routing import Mount

import retryexec.web
from retryexec import ConstantBackoff, RateLimit, RetryFuture, RetryingExecutor, RetryPolicy
from retryexec.journal import Journal

SLOW = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=ConstantBackoff(3600.0))


class Sick:
    """Fails until it is healed."""

    def __init__(self) -> None:
        self.healed = False
        self.failed = threading.Semaphore(0)

    def save(self, number: int) -> int:
        if self.healed:
            return number
        self.failed.release()
        raise ConnectionError(f"no route to <b>host</b> {number}")


@pytest.fixture
def sick() -> Sick:
    return Sick()


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    with RetryingExecutor(2, policy=SLOW, on_retry=lambda event: None) as executor:
        yield executor
        executor.shutdown(cancel_futures=True)


def waiting(executor: RetryingExecutor, sick: Sick, count: int) -> list[RetryFuture[int]]:
    """Return futures of jobs that wait for their second attempt."""
    futures = [executor.submit(sick.save, number) for number in range(count)]
    for _ in futures:
        assert sick.failed.acquire(timeout=10)
    settle(lambda: executor.stats().waiting == count)
    return futures


def settle(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never was")


def test_what_waits_is_shown_with_its_error(executor: RetryingExecutor, sick: Sick) -> None:
    waiting(executor, sick, 3)
    visitor = Visitor(retryexec.web.app(executor=executor))
    overview = text_of(visitor.get("/"))
    assert "0 running 0 queued 3 waiting 0 held" in overview
    rows = rows_of(visitor.get("/jobs"))
    assert len(rows) == 3
    assert rows[0].startswith("waiting Sick.save")
    assert "ConnectionError no route to <b>host</b> 0 in 60 min" in rows[0]
    assert len(rows_of(visitor.get("/jobs", state="running"))) == 0
    assert len(rows_of(visitor.get("/jobs", text="host</b> 2"))) == 1


def test_one_is_tried_now(executor: RetryingExecutor, sick: Sick) -> None:
    first, second = waiting(executor, sick, 2)
    sick.healed = True
    visitor = Visitor(retryexec.web.app(executor=executor))
    assert "Retry now" in visitor.get(f"/job/{first.job_id}")
    assert "done: 1 job" in visitor.do("retry-now", id=first.job_id)
    assert first.result(10) == 0
    assert not second.done()


def test_all_that_match_are_tried_now(executor: RetryingExecutor, sick: Sick) -> None:
    futures = waiting(executor, sick, 5)
    sick.healed = True
    visitor = Visitor(retryexec.web.app(executor=executor))
    asked = text_of(visitor.get("/confirm", verb="retry-now", all="1", error="ConnectionError"))
    assert "Retry now 5 jobs?" in asked
    assert "done: 5 jobs" in visitor.do("retry-now", all="1", error="ConnectionError")
    assert [future.result(10) for future in futures] == [0, 1, 2, 3, 4]
    assert "done: 0 jobs" in visitor.do("retry-now", all="1", error="TimeoutError")


def test_one_is_put_off(executor: RetryingExecutor, sick: Sick) -> None:
    (future,) = waiting(executor, sick, 1)
    visitor = Visitor(retryexec.web.app(executor=executor))
    assert "done: 1 job" in visitor.do("postpone", id=future.job_id, by="2d")
    (job,) = executor.pending()
    assert job.due_in is not None
    assert 170_000 < job.due_in <= 172_800


def test_a_time_that_is_not_one_postpones_nothing(executor: RetryingExecutor, sick: Sick) -> None:
    (future,) = waiting(executor, sick, 1)
    visitor = Visitor(retryexec.web.app(executor=executor))
    fields = {"token": visitor.token(), "verb": "postpone", "id": future.job_id, "by": "later"}
    assert visitor.post("/do", fields).status_code == 400


def test_one_is_cancelled(executor: RetryingExecutor, sick: Sick) -> None:
    first, second = waiting(executor, sick, 2)
    visitor = Visitor(retryexec.web.app(executor=executor))
    assert "Cancel 1 job?" in text_of(visitor.get("/confirm", verb="cancel", id=first.job_id))
    visitor.do("cancel", id=first.job_id)
    assert (first.cancelled(), second.cancelled()) == (True, False)


def test_an_executor_is_paused_and_goes_on(executor: RetryingExecutor) -> None:
    visitor = Visitor(retryexec.web.app(executor=executor))
    assert "Pause: executor 1 – done" in visitor.do("pause", executor="0")
    future = executor.submit(int, "7")
    settle(lambda: executor.stats().held == 1)
    (row,) = rows_of(visitor.get("/jobs", state="held"))
    assert "held by pause" in row
    assert not future.done()
    visitor.do("resume", executor="0")
    assert future.result(10) == 7


def test_what_a_guard_holds_is_told(sick: Sick) -> None:
    limit = RateLimit(1, per=3600.0)
    with RetryingExecutor(2, guards=[limit]) as executor:
        first = executor.submit(int, "1")
        assert first.result(10) == 1
        held = executor.submit(int, "2")
        settle(lambda: executor.stats().held == 1)
        visitor = Visitor(retryexec.web.app(executor=executor))
        (row,) = rows_of(visitor.get("/jobs"))
        assert row.startswith("held int")
        assert "held by RateLimit" in row
        assert "Postpone" in visitor.get(f"/job/{held.job_id}")
        held.cancel()


def test_several_executors_have_a_row_each(executor: RetryingExecutor) -> None:
    with RetryingExecutor(1) as other:
        visitor = Visitor(retryexec.web.app(executor=[executor, other]))
        assert len(rows_of(visitor.get("/"))) == 2


# ---- with a journal


def test_jobs_of_this_process_and_those_on_disk_are_told_apart(place: Path, sick: Sick) -> None:
    journal = Journal(place, jobs=JOBS, redact=lambda kind, fields: {"n": fields["n"]})
    began, go_on = threading.Event(), threading.Event()

    def until_told(job: Save) -> None:
        began.set()
        go_on.wait(10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Save, "exec", until_told)
        with RetryingExecutor(1, journal=journal) as executor:
            future = executor.submit(Save("ana@example.com", 5))
            assert began.wait(10)
            visitor = Visitor(retryexec.web.app(journal, executor=executor))
            (live,) = rows_of(visitor.get("/jobs"))
            assert live.startswith("running Save")
            (disk,) = rows_of(visitor.get("/jobs?from=disk"))
            assert "save" in disk
            assert f"process {journal_pid()}" in disk
            page = text_of(visitor.get(f"/job/{future.job_id}"))
            assert "An attempt is running, and is left to end." in page
            assert "n 5" in page
            assert "ana@example.com" not in page
            other = Visitor(retryexec.web.app(place))
            foreign = text_of(other.get(f"/job/{future.job_id}"))
            assert "It belongs to a living process (pid " in foreign
            assert "mount retryexec.web.app(journal, executor=executor) there" in foreign
            assert "Of process" in foreign or "pid" in foreign
            go_on.set()
            future.result(10)


def journal_pid() -> int:
    import os

    return os.getpid()


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
def test_mounted_all_links_and_forms_lead_into_the_page(
    place: Path, morning: Any, framework: Any, executor: RetryingExecutor
) -> None:
    app = framework(routes=[Mount("/ops/jobs", retryexec.web.app(place, executor=executor))])
    visitor = Visitor(app, root="/ops/jobs")
    import re

    for path in ("/", "/dead", "/jobs", "/log", "/confirm?verb=rerun&all=1"):
        page = visitor.get(path)
        for address in re.findall(r'(?:href|src|action|hx-get)="([^"#?][^"]*)"', page):
            assert address.startswith("/ops/jobs/"), (path, address)
    assert visitor.status("/static/style.css") == 200
    assert "done: 15 jobs" in visitor.do("rerun", all="1", kind="save")
    assert visitor.client.get("/ops/jobs/find?id=abc").headers["location"] == "/ops/jobs/job/abc"
