"""RetryingExecutor: what it takes, what its jobs can see, and how it says how it is."""

import asyncio
import inspect
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor
from contextvars import ContextVar
from dataclasses import FrozenInstanceError, dataclass
from functools import partial
from threading import Barrier, Event
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from helpers.jobs import Boom, Fails, Gate, raise_

from retryexec import (
    ConstantBackoff,
    GiveUp,
    Retriable,
    Retry,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    Stats,
    StopReason,
    current_attempt,
)
from retryexec.testing import VirtualClock

TEN = RetryPolicy(max_attempts=3, backoff=ConstantBackoff(10))


@pytest.fixture
def executor(clock: VirtualClock) -> Iterator[RetryingExecutor]:
    with RetryingExecutor(1, "saver", policy=TEN, clock=clock) as executor:
        yield executor


# ---- what submit takes


@dataclass(frozen=True)
class Save:
    email: str

    def exec(self) -> str:
        return f"saved {self.email}"


class CallableJob(Save):
    def __call__(self) -> str:
        return "called"


class ExecOfItsOwn:
    def __init__(self) -> None:
        self.exec = lambda: "its own"


class AnswersToEveryName:
    """As a proxy for a remote object does."""

    def __getattr__(self, name: str) -> Any:
        return AnswersToEveryName()

    def __call__(self, *_args: Any) -> str:
        return "called"


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (Save("john"), "saved john"),
        (CallableJob("john"), "saved john"),
        (ExecOfItsOwn(), "its own"),
        (lambda: "called", "called"),
        (partial(str.upper, "called"), "CALLED"),
        (Save("john").exec, "saved john"),
        (dict, {}),
        (Mock(return_value="mocked"), "mocked"),
        (AnswersToEveryName(), "called"),
    ],
)
def test_submit_takes_jobs_and_callables(
    job: Any, expected: Any, executor: RetryingExecutor
) -> None:
    future = executor.submit(job)
    assert isinstance(future, RetryFuture)
    assert future.result(5) == expected


def test_arguments_reach_every_attempt(executor: RetryingExecutor, clock: VirtualClock) -> None:
    seen: list[Any] = []

    def job(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))
        raise Boom

    future = executor.submit(job, 1, fn=2, self=3)
    clock.run_until(future.done)
    assert seen == [((1,), {"fn": 2, "self": 3})] * 3
    assert isinstance(future.exception(), Boom)


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (5, r"exec\(\), or a callable \(got 5\)"),
        (None, "got None"),
        (Save, "an instance of Save"),
        (coroutine, "coroutine function"),
    ],
)
def test_submit_refuses_what_is_not_a_job(job: Any, words: str, executor: RetryingExecutor) -> None:
    with pytest.raises(TypeError, match=words):
        executor.submit(job)
    assert executor.stats().queued == 0


def test_submit_needs_a_job(executor: RetryingExecutor) -> None:
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-overload]


def test_retriable_is_recognized_by_its_exec() -> None:
    assert isinstance(Save("john"), Retriable)
    assert not isinstance(len, Retriable)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_workers": 0}, "max_workers.*0"),
        ({"max_workers": 1.5}, "max_workers.*1.5"),
        ({"max_workers": True}, "max_workers.*True"),
        ({"initializer": 5}, "initializer.*5"),
        ({"max_pending": 0}, "max_pending.*0"),
        ({"policy": {}}, "RetryPolicy.*{}"),
        ({"policy": RetryPolicy}, "RetryPolicy"),
        ({"on_retry": "print"}, "on_retry.*print"),
        ({"on_give_up": 1}, "on_give_up.*1"),
        ({"exit_timeout": -1}, "exit_timeout.*-1"),
        ({"exit_timeout": float("nan")}, "exit_timeout.*nan"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        RetryingExecutor(**arguments)


def test_it_is_an_executor_for_asyncio(executor: RetryingExecutor) -> None:
    assert isinstance(executor, Executor)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(executor, len, "four"),
            await executor.submit(len, "seven"),
        ]

    assert asyncio.run(main()) == [4, 5]


# ---- workers


def test_workers_start_as_they_are_needed() -> None:
    with RetryingExecutor(4) as executor:
        assert executor.submit(threading.current_thread).result(5).name.endswith("_0")
        barrier = Barrier(4, timeout=5)
        futures = [executor.submit(barrier.wait) for _ in range(4)]
        assert sorted(f.result(5) for f in futures) == [0, 1, 2, 3]


def test_threads_bear_the_prefix(executor: RetryingExecutor) -> None:
    name = executor.submit(lambda: threading.current_thread().name).result(5)
    assert name.startswith("saver")


def test_initializer_runs_in_each_new_thread() -> None:
    local, barrier = threading.local(), Barrier(2, timeout=5)

    def look() -> int:
        barrier.wait()
        return local.value

    with RetryingExecutor(2, initializer=setattr, initargs=(local, "value", 5)) as executor:
        assert [f.result(5) for f in [executor.submit(look) for _ in range(2)]] == [5, 5]


# ---- views


def test_a_view_has_its_own_policy_and_the_same_threads(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    view = executor.using(max_attempts=2)
    changed, whole = view.submit(Fails(9, clock)), executor.submit(Fails(9, clock))
    twice = view.using(backoff=[1]).submit(Fails(9, clock))
    replaced = view.using(RetryPolicy.never()).submit(Fails(9, clock))
    clock.advance(100)
    futures = (changed, whole, twice, replaced)
    assert [f.attempts for f in futures] == [2, 3, 2, 1]
    assert all(isinstance(f.exception(), Boom) for f in futures)
    me = view.submit(threading.get_ident).result(5)
    assert me == executor.submit(threading.get_ident).result(5)
    assert view.stats() == executor.stats()


@pytest.mark.parametrize("changes", [{"attempts": 3}, {"max_attempts": 0}, {"policy": 5}])
def test_bad_changes_are_refused(changes: dict[str, Any], executor: RetryingExecutor) -> None:
    with pytest.raises((TypeError, ValueError)):
        executor.using(**changes)


# ---- contexts

variable: ContextVar[str] = ContextVar("variable", default="nobody's")


def test_each_attempt_has_a_fresh_copy_of_the_submitters_context(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    seen: list[str] = []

    def job() -> None:
        seen.append(variable.get())
        variable.set("the attempt's")
        raise Boom

    token = variable.set("the submitter's")
    future = executor.submit(job)
    variable.reset(token)
    clock.run_until(future.done)
    assert seen == ["the submitter's"] * 3
    assert executor.submit(variable.get).result(5) == "nobody's"
    assert isinstance(future.exception(), Boom)


def test_attempts_are_told_only_inside_jobs(executor: RetryingExecutor) -> None:
    assert executor.submit(lambda: current_attempt().number).result(5) == 1
    with pytest.raises(LookupError):
        current_attempt()


# ---- hooks


def test_hooks_are_called_for_retries_and_the_end(clock: VirtualClock) -> None:
    heard: list[Any] = []
    seen: list[tuple[str, bool]] = []

    def hook(event: Retry | GiveUp) -> None:
        assert event.future is not None
        heard.append(event)
        seen.append((variable.get(), event.future.done()))

    variable_token = variable.set("the submitter's")
    with RetryingExecutor(1, policy=TEN, on_retry=hook, on_give_up=hook, clock=clock) as executor:
        job = Fails(9, clock)
        future = executor.submit(job)
        variable.reset(variable_token)
        clock.run_until(future.done)
        assert executor.submit(len, "").result(5) == 0
    assert [(type(e), e.attempt, e.job, e.future) for e in heard] == [
        (Retry, 1, job, future),
        (Retry, 2, job, future),
        (GiveUp, 3, job, future),
    ]
    assert [e.delay for e in heard[:2]] == [10, 10]
    assert heard[2].stop_reason is StopReason.MAX_ATTEMPTS
    assert heard[2].exception is future.exception()
    assert seen == [("the submitter's", False)] * 3
    with pytest.raises(FrozenInstanceError):
        heard[0].attempt = 5


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_hook_that_raises_does_not_affect_the_job(
    kind: type[BaseException], clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Any) -> None:
        raise kind

    error = Boom()
    with RetryingExecutor(
        1, policy=TEN, on_retry=broken, on_give_up=broken, clock=clock
    ) as executor:
        future = executor.submit(raise_, error)
        clock.advance(100)
        assert future.exception(0) is error
        assert executor.submit(len, "next").result(5) == 4
    assert future.attempts == (3 if kind is ValueError else 1)
    assert caplog.records


# ---- how it is


def test_stats_and_repr_tell_where_the_jobs_are(
    executor: RetryingExecutor, clock: VirtualClock
) -> None:
    assert executor.stats() == Stats(0, 0, 0, 0, 0, 0, 0, 0.0)
    failed = executor.using(max_attempts=1).submit(Fails(1, clock))
    executor.submit(len, "")
    executor.submit(Fails(1, clock))
    clock.advance(3)
    gate = Gate()
    executor.submit(gate)
    assert gate.reached()
    executor.submit(len, "")
    executor.submit(len, "").cancel()
    assert executor.stats() == Stats(
        queued=1, running=1, waiting=1, succeeded=1, failed=1, cancelled=1, attempts=3,
        oldest_wait=3.0,
    )  # fmt: skip
    assert repr(executor) == (
        "<RetryingExecutor 'saver': 1 queued, 1 running, 1 waiting, 1 succeeded, 1 failed, "
        "1 cancelled>"
    )
    gate.open()
    assert isinstance(failed.exception(), Boom)


class SavesLater:
    async def __call__(self) -> None: ...


class Marked:
    """Looks like any object that can be called, but for inspect's mark."""

    def __call__(self) -> Any:
        return coroutine()


@pytest.mark.parametrize("job", [SavesLater(), AsyncMock()], ids=["async call", "mock"])
def test_an_object_that_is_a_coroutine_function_is_refused(
    job: Any, executor: RetryingExecutor
) -> None:
    with pytest.raises(TypeError, match="never be awaited"):
        executor.submit(job)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect has no such mark before 3.12")
def test_an_object_marked_as_a_coroutine_function_is_refused(executor: RetryingExecutor) -> None:
    marked: Any = Marked()
    inspect.markcoroutinefunction(marked)
    with pytest.raises(TypeError, match="never be awaited"):
        executor.submit(marked)


def behind_a_plain_decorator() -> Any:
    return coroutine()


@pytest.mark.parametrize(
    "job",
    [behind_a_plain_decorator, lambda *_: coroutine(), partial(SavesLater())],
    ids=["decorated", "lambda", "partial"],
)
def test_a_job_that_only_makes_a_coroutine_fails_at_once(job: Any) -> None:
    """Nothing was saved; and the coroutine is closed, so that Python does not warn of it."""
    with RetryingExecutor(1) as executor:
        try:
            future = executor.submit(job)
        except TypeError:  # it was seen before the call
            return
        error = future.exception(10)
    assert isinstance(error, TypeError)
    assert "never be awaited" in str(error)
    assert (future.attempts, future.stop_reason) == (1, StopReason.PERMANENT)


def test_a_job_that_succeeds_lets_its_arguments_go_before_its_callbacks_run() -> None:
    class Argument:
        pass

    argument, ended = Argument(), Event()
    reference, kept = weakref.ref(argument), list[bool]()

    def callback(_: object) -> None:
        kept.append(reference() is not None)
        ended.set()

    with RetryingExecutor(1) as executor:
        gate = Gate()
        executor.submit(gate)  # so that the job ends once its callback is there
        future = executor.submit(id, argument)
        future.add_done_callback(callback)
        del argument
        gate.open()
        assert ended.wait(10)
    assert kept == [False]
