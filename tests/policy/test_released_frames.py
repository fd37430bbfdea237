"""A job that waits keeps no variable of an attempt alive; a job that ends keeps its traceback."""

import asyncio
import gc
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers.jobs import Boom

from retryexec import (
    RetryAfter,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    retry,
    retry_async,
)
from retryexec._exceptions import connected
from retryexec.testing import VirtualClock

HOUR = RetryPolicy(max_attempts=2, max_elapsed=None, backoff=[3600])


class Variable:
    """What an attempt holds in a local variable."""


def low(held: Variable) -> None:
    raise KeyError(id(held))


def plain(held: Variable) -> None:
    raise Boom


def chained(held: Variable) -> None:
    try:
        low(held)
    except KeyError as error:
        raise Boom from error


def implicit(held: Variable) -> None:
    try:
        low(held)
    except KeyError:
        raise Boom  # noqa: B904


def hidden(held: Variable) -> None:
    try:
        low(held)
    except KeyError:
        raise Boom from None


def caught(held: Variable) -> Exception:
    try:
        low(held)
    except KeyError as error:
        return error
    raise AssertionError


def group(held: Variable) -> None:
    raise ExceptionGroup("g", [caught(held), ValueError()])


def nested_group(held: Variable) -> None:
    raise ExceptionGroup("g", [ExceptionGroup("h", [ValueError(), caught(held)])])


def cause_of_a_member(held: Variable) -> None:
    member = ValueError()
    member.__cause__ = caught(held)
    raise ExceptionGroup("g", [member])


def group_as_the_context(held: Variable) -> None:
    try:
        group(held)
    except ExceptionGroup:
        raise Boom  # noqa: B904


def long_chain(held: Variable) -> None:
    error = caught(held)
    for _ in range(5000):
        outer = Boom()
        outer.__context__ = error
        error = outer
    raise error


def circle(held: Variable) -> None:
    one, two = Boom(), caught(held)
    one.__cause__, two.__context__ = two, one
    raise one


def argument(held: Variable) -> None:
    try:
        low(held)
    except KeyError as error:
        last = error
    raise Boom(last) from ValueError()


def behind_retry_after(held: Variable) -> None:
    try:
        chained(held)
    except Boom as error:
        raise RetryAfter(3600, error) from error


class OwnMembers(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        return ()


def group_that_hides_its_members(held: Variable) -> None:
    raise OwnMembers("g", [caught(held)])


def argument_alone(held: Variable) -> None:
    raise Boom("wrapped", caught(held))


WAYS = [
    *(plain, chained, implicit, hidden, group, nested_group, cause_of_a_member),
    *(group_as_the_context, long_chain, circle, argument, behind_retry_after),
    *(argument_alone, group_that_hides_its_members),
]


class Job:
    """Fails in a *way*, and knows whether the variable of its first attempt lives on."""

    def __init__(self, way: Callable[[Variable], None]) -> None:
        self.way = way
        self.refs: list[weakref.ref[Variable]] = []

    def __call__(self) -> None:
        held = Variable()
        self.refs.append(weakref.ref(held))
        self.way(held)

    def keeps(self) -> bool:
        gc.collect()
        return self.refs[0]() is not None


@pytest.mark.parametrize("way", WAYS)
def test_a_waiting_job_keeps_no_variable(way: Callable[[Variable], None]) -> None:
    clock, job = VirtualClock(), Job(way)
    with RetryingExecutor(1, policy=HOUR, clock=clock) as executor:
        future = executor.submit(job)
        clock.run_until(lambda: future.next_attempt_at is not None)
        assert not job.keeps()
        future.cancel()


class Looking:
    """A timer that looks at its job when the wait begins, and does not wait."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.kept: list[bool] = []

    def start(self, _delay: float) -> None:
        self.kept.append(self.job.keeps())

    def wait(self, _timeout: float | None = None) -> bool:
        return True

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("way", WAYS)
def test_a_retry_that_waits_keeps_no_variable(way: Callable[[Variable], None]) -> None:
    job = Job(way)
    timer: Any = Looking(job)
    with pytest.raises(Exception):  # noqa: B017, PT011  each way has its own
        retry(job, policy=HOUR, timer=timer)
    assert timer.kept == [False]


def frames(error: BaseException | None) -> list[str]:
    assert error is not None
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_the_last_attempt_keeps_its_tracebacks_with_those_of_causes_and_members() -> None:
    policy = RetryPolicy(max_attempts=3, backoff=[0, 0])
    with RetryingExecutor(1, policy=policy) as executor:
        error = executor.submit(Job(chained)).exception(5)
        assert error is not None
        assert frames(error) == ["__call__", "chained"]
        assert frames(error.__cause__) == ["chained", "low"]
        error = executor.submit(Job(group)).exception(5)
        assert isinstance(error, ExceptionGroup)
        assert frames(error) == ["__call__", "group"]
        assert frames(error.exceptions[0]) == ["caught", "low"]


def test_a_job_that_is_cancelled_in_its_attempt_keeps_its_tracebacks() -> None:
    """It would have waited, and its exception had let go already."""
    with RetryingExecutor(1, policy=HOUR) as executor:
        begun, go_on = threading.Event(), threading.Event()

        def job() -> None:
            begun.set()
            assert go_on.wait(10)
            chained(Variable())

        future: RetryFuture[None] = executor.submit(job)
        assert begun.wait(10)
        future.cancel()
        go_on.set()
        error = future.exception(5)
    assert error is not None
    assert frames(error) == ["job", "chained"]
    assert frames(error.__cause__) == ["chained", "low"]


def test_what_the_caller_is_handling_is_the_callers_own() -> None:
    """It becomes the context of what attempts raise, and may be raised again afterwards."""
    own: list[Exception] = []

    def handle() -> None:
        try:
            chained(Variable())
        except Boom as error:
            own.append(error)
            retry(lambda: raise_(ValueError()), policy=RetryPolicy(max_attempts=3, backoff=[0, 0]))

    with pytest.raises(ValueError) as final:  # noqa: PT011
        handle()
    assert final.value.__context__ is own[0]
    assert frames(own[0]) == ["handle", "chained"]
    assert frames(own[0].__cause__) == ["chained", "low"]


def raise_(error: Exception) -> None:
    raise error


def test_a_retry_inside_a_job_keeps_the_frames_of_what_it_called() -> None:
    once = RetryPolicy.never()

    def saving() -> None:
        retry(lambda: low(Variable()), policy=once)

    with RetryingExecutor(1, policy=once) as executor:
        error = executor.submit(saving).exception(5)
    assert frames(error) == ["saving", "retry", "run_attempts", "<lambda>", "low"]


def test_a_coroutine_that_is_retried_keeps_the_frames_of_what_it_called() -> None:
    once = RetryPolicy.never()

    async def deep() -> None:
        await asyncio.sleep(0)
        low(Variable())

    async def saving() -> None:
        await retry_async(deep, policy=RetryPolicy(max_attempts=2, backoff=[0]))

    with RetryingExecutor(1, policy=once) as executor:
        error = executor.submit(lambda: asyncio.run(saving())).exception(5)
    assert frames(error)[-5:] == ["saving", "retry_async", "run_attempts_async", "deep", "low"]
    assert frames(error).count("deep") == 1


# ---- the functions themselves


def raised(way: Callable[[Variable], None]) -> Exception:
    try:
        way(Variable())
    except Exception as error:
        return error
    raise AssertionError


def test_each_exception_is_connected_once() -> None:
    one, two = Boom(1), Boom(2)
    one.__cause__ = one.__context__ = two
    two.__context__ = one
    assert connected(one) == [one, two]
    assert connected(Boom()) != []
