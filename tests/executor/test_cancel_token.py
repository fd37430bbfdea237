"""Jobs of an executor that go by a token: `executor.using(cancel=token)`."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

import pytest
from helpers.jobs import Boom, Fails, Gate

from retryexec import (
    Cancelled,
    CancelToken,
    RetryingExecutor,
    StopReason,
    current_attempt,
)
from retryexec.testing import VirtualClock


def test_cancels_waiting_jobs_at_once_and_no_others(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    token = CancelToken()
    mine = [executor.using(cancel=token).submit(Fails(3, clock)) for _ in range(3)]
    other = executor.submit(Fails(1, clock))
    clock.advance(5)
    token.cancel()
    assert [future.cancelled() for future in mine] == [True] * 3
    assert wait(mine, 0, FIRST_COMPLETED).done == set(mine)
    assert {future.stop_reason for future in mine} == {StopReason.CANCELLED}
    clock.advance(5)
    assert other.result(0) == "saved"


def test_an_attempt_asks_the_token_before_it_starts(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be quicker than whoever is to cancel the token's jobs."""
    gate, token = Gate(), CancelToken()
    monkeypatch.setattr(token, "on_cancel", lambda _: lambda: None)  # which has not come to it
    running = executor.submit(gate)
    assert gate.reached()
    queued = executor.using(cancel=token).submit(pytest.fail, "it ran")
    token.cancel()
    gate.open()
    assert running.result(10) == "through"
    wait([queued], 10)
    assert queued.cancelled()


def test_cancels_queued_jobs_at_once(executor: RetryingExecutor) -> None:
    gate, token = Gate(), CancelToken()
    running = executor.submit(gate)
    assert gate.reached()
    queued = executor.using(cancel=token).submit(pytest.fail, "it ran")
    token.cancel()
    assert queued.cancelled()
    gate.open()
    assert running.result(10) == "through"


def test_a_running_job_sees_it(executor: RetryingExecutor) -> None:
    token = CancelToken()
    seen: list[Any] = []

    def job() -> None:
        attempt = current_attempt()
        seen.append(attempt.cancelled)
        attempt.checkpoint()
        token.cancel()
        seen.append(attempt.cancelled)
        attempt.checkpoint()

    future = executor.using(cancel=token).submit(job)
    with pytest.raises(Cancelled, match="cancelled during attempt 1"):
        future.result(10)
    assert (seen, future.attempts) == ([False, True], 1)


def test_no_attempt_follows_one_during_which_it_was_cancelled(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    token = CancelToken()
    gate = Gate(Boom("last"))
    future = executor.using(cancel=token).submit(gate)
    assert gate.reached()
    token.cancel()
    assert not future.done()
    gate.open()
    assert isinstance(future.exception(10), Boom)
    assert (future.attempts, future.stop_reason) == (1, StopReason.CANCELLED)


def test_success_despite_a_cancelled_token_is_success(executor: RetryingExecutor) -> None:
    token = CancelToken()
    gate = Gate("saved")
    future = executor.using(cancel=token).submit(gate)
    assert gate.reached()
    token.cancel()
    gate.open()
    assert future.result(10) == "saved"


def test_job_submitted_after_the_cancel_does_not_run(executor: RetryingExecutor) -> None:
    token = CancelToken()
    token.cancel()
    future = executor.using(cancel=token).submit(pytest.fail, "it ran")
    assert future.cancelled()
    assert executor.submit(len, "other").result(10) == 5


def test_a_tokens_time_ends_its_jobs_exactly_then(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    token = CancelToken(timeout=25, clock=clock)
    job = Fails(99, clock)
    future = executor.using(cancel=token).submit(job)
    ended: list[float] = []
    future.add_done_callback(lambda _: ended.append(clock.now()))
    clock.run_until(future.done)
    assert (future.cancelled(), job.started_at, ended) == (True, [0, 10, 20], [25])


def test_cancelling_a_parent_cancels_jobs_of_the_child(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    parent = CancelToken()
    future = executor.using(cancel=CancelToken(parent=parent)).submit(Fails(9, clock))
    clock.advance(15)
    parent.cancel()
    assert future.cancelled()


def test_a_job_that_has_ended_leaves_nothing_at_the_token(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    token = CancelToken()
    view = executor.using(cancel=token)
    futures = [view.submit(Fails(n, clock)) for n in (0, 1, 9)]
    clock.advance(100)
    assert all(future.done() for future in futures)
    futures.clear()
    assert not token._callbacks


def test_a_view_of_a_view_keeps_the_token_unless_it_has_its_own(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    one, two = CancelToken(), CancelToken()
    view = executor.using(cancel=one)
    kept, own = view.using(max_attempts=9), view.using(cancel=two)
    futures = [each.submit(Fails(8, clock)) for each in (kept, own)]
    clock.advance(0)
    one.cancel()
    assert [future.cancelled() for future in futures] == [True, False]
    two.cancel()
    assert futures[1].cancelled()


def test_cancel_must_be_a_token(executor: RetryingExecutor) -> None:
    with pytest.raises(TypeError, match="cancel takes a CancelToken"):
        executor.using(cancel="now")  # type: ignore[arg-type]


def test_a_refused_job_leaves_nothing_at_the_token() -> None:
    token = CancelToken()
    executor = RetryingExecutor(max_workers=1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.using(cancel=token).submit(len, "seven")
    assert not token._callbacks
    assert executor.stats().cancelled == 0
