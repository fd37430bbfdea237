"""Executors that nobody holds any more, and one that its initializer has broken."""

import gc
import weakref
from concurrent.futures.thread import BrokenThreadPool

import pytest
from helpers.jobs import Boom, Fails, Gate
from helpers.threads import threads_of

from retryexec import ConstantBackoff, RetryingExecutor, RetryPolicy
from retryexec.testing import VirtualClock

TEN = RetryPolicy(max_attempts=5, backoff=ConstantBackoff(10))


def test_unreferenced_executor_finishes_its_jobs_and_ends_its_threads(
    clock: VirtualClock,
) -> None:
    executor = RetryingExecutor(2, "unreferenced", policy=TEN, clock=clock)
    future = executor.submit(Fails(2, clock))
    clock.advance(0)
    threads = threads_of("unreferenced")
    assert threads
    ref = weakref.ref(executor)
    del executor
    gc.collect()
    assert ref() is None
    clock.advance(20)
    assert future.result(0) == "saved"
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_a_view_keeps_the_executor() -> None:
    view = RetryingExecutor(1).using(max_attempts=1)
    gc.collect()
    assert view.submit(len, "kept").result(5) == 4


def test_a_failing_initializer_breaks_the_executor(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The second worker's fails, while a job of the first waits, and another one runs."""
    started: list[int] = []

    def initializer() -> None:
        started.append(1)
        if len(started) == 2:
            raise Boom

    executor = RetryingExecutor(2, initializer=initializer, policy=TEN, clock=clock)
    waiting = executor.submit(Fails(9, clock))
    clock.advance(0)
    gate = Gate("through")
    running = executor.submit(gate)
    assert gate.reached()
    queued = executor.submit(len, "")
    for future, cause in [(queued, type(None)), (waiting, Boom)]:
        error = future.exception(5)
        assert isinstance(error, BrokenThreadPool)
        assert isinstance(error.__cause__, cause)
    gate.open()
    assert running.result(5) == "through"
    with pytest.raises(BrokenThreadPool, match="initializer failed"):
        executor.submit(len, "")
    executor.shutdown()
    assert "Exception in initializer" in caplog.text


def test_an_executor_that_is_broken_says_so_after_its_shutdown_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def initializer() -> None:
        raise Boom

    executor = RetryingExecutor(1, initializer=initializer)
    assert isinstance(executor.submit(len, "").exception(10), BrokenThreadPool)
    executor.shutdown()
    with pytest.raises(BrokenThreadPool):
        executor.submit(len, "")
    assert "Exception in initializer" in caplog.text
