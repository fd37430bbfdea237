"""Guards in `retry`, `retry_async` and `retrying`."""

import asyncio
import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers.guards import SUCCESS, Asker

from retryexec import (
    AttemptRequest,
    Cancelled,
    CancelToken,
    CircuitBreaker,
    ConcurrencyLimit,
    Outcome,
    RateLimit,
    RetryAfter,
    RetryBudget,
    RetryPolicy,
    StopReason,
    ZeroBackoff,
    retry,
    retry_async,
    retrying,
)
from retryexec.testing import VirtualClock

AT_ONCE = RetryPolicy(backoff=ZeroBackoff(), max_attempts=5)


class Fails:
    """A call that fails so many times, and notes when it is made."""

    def __init__(self, times: int, clock: VirtualClock, error: Exception | None = None) -> None:
        self.left = times
        self.clock = clock
        self.error = error or OSError("down")
        self.times: list[float] = []

    def __call__(self) -> str:
        self.times.append(self.clock.now())
        if self.left:
            self.left -= 1
            raise self.error
        return "done"

    async def async_call(self) -> str:
        return self()


def call_sync(fails: Fails, **options: Any) -> str:
    return retry(fails, **options)


def call_asyncio(fails: Fails, **options: Any) -> str:
    return asyncio.run(retry_async(fails.async_call, **options))


def call_trio(fails: Fails, **options: Any) -> str:
    import trio

    return trio.run(functools.partial(retry_async, fails.async_call, **options))


Call = Callable[..., str]
everywhere = pytest.mark.parametrize("call", [call_sync, call_asyncio, call_trio])


@everywhere
def test_every_attempt_asks_the_guards(call: Call) -> None:
    clock = VirtualClock()
    fails = Fails(3, clock)
    assert call(fails, policy=AT_ONCE, clock=clock, guards=[RateLimit(0.5)]) == "done"
    assert fails.times == [0.0, 2.0, 4.0, 6.0]


@everywhere
def test_one_that_waits_to_be_woken_goes_when_it_is(call: Call) -> None:
    clock = VirtualClock()
    limit = ConcurrencyLimit(1)
    asker = Asker(limit)
    running = asker.request()
    asker.ask(running)
    clock.call_at(7.0, lambda: limit.release(running, SUCCESS))
    fails = Fails(0, clock)
    assert call(fails, clock=clock, guards=[limit]) == "done"
    assert fails.times == [7.0]
    assert repr(limit) == "<ConcurrencyLimit(1): 0 running, 0 held>"


@everywhere
def test_an_open_breaker_spends_no_attempts(call: Call) -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker(minimum_attempts=2, open_for=30.0)
    fails = Fails(4, clock)
    assert call(fails, policy=AT_ONCE, clock=clock, guards=[breaker]) == "done"
    assert fails.times == [0.0, 0.0, 30.0, 60.0, 90.0]
    assert breaker.state == "closed"


@everywhere
def test_retries_beyond_the_budget_are_put_off(call: Call) -> None:
    clock = VirtualClock()
    fails = Fails(4, clock)
    budget = RetryBudget(0.0, reserve=0.5)
    assert call(fails, policy=AT_ONCE, clock=clock, guards=[budget]) == "done"
    assert fails.times == [0.0, 0.0, 2.0, 4.0, 6.0]


@everywhere
def test_a_token_ends_the_wait(call: Call) -> None:
    clock = VirtualClock()
    limit = RateLimit(0.01)
    fails = Fails(1, clock)
    token = CancelToken(timeout=5.0, clock=clock)
    with pytest.raises(Cancelled) as caught:
        call(fails, policy=AT_ONCE, clock=clock, guards=[limit], cancel=token)
    assert caught.value.__cause__ is fails.error
    assert clock.now() == 5.0
    assert repr(limit) == "<RateLimit(0.01/s): 0 held>"


@everywhere
def test_a_token_ends_the_wait_for_the_first_attempt(call: Call) -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker()
    breaker.open()
    token = CancelToken(clock=clock)
    clock.call_at(3.0, token.cancel)
    fails = Fails(0, clock)
    with pytest.raises(Cancelled):
        call(fails, clock=clock, guards=[breaker], cancel=token)
    assert fails.times == []
    assert repr(breaker) == "<CircuitBreaker open: 0 held>"


@everywhere
def test_max_elapsed_counts_from_the_first_attempt(call: Call) -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker(minimum_attempts=1, open_for=100.0)
    breaker.open()
    clock.call_at(50.0, breaker.close)
    fails = Fails(9, clock)
    policy = AT_ONCE.replace(max_elapsed=20.0)
    with pytest.raises(OSError, match="down") as caught:
        call(fails, policy=policy, clock=clock, guards=[breaker])
    assert fails.times == [50.0]
    assert clock.now() == pytest.approx(70.0)
    assert StopReason.MAX_ELAPSED in caught.value.__notes__[0]
    assert repr(breaker) == "<CircuitBreaker open: 0 held>"


def test_the_guard_is_told_how_it_went() -> None:
    class Notes:
        def __init__(self) -> None:
            self.outcomes: list[Outcome | None] = []

        def admit(self, request: AttemptRequest) -> None:
            self.request = request

        def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
            assert request is self.request
            self.outcomes.append(outcome)

    clock, error, notes = VirtualClock(), ConnectionError("down"), Notes()
    results = iter([RetryAfter(1), ValueError(), "refused", "done"])

    def attempt() -> Any:
        clock.advance(0.5)
        result = next(results)
        if isinstance(result, RetryAfter):
            raise result from error
        if isinstance(result, Exception):
            raise result
        return result

    policy = AT_ONCE.replace(retry_on_result=lambda value: value == "refused")
    retry(attempt, policy=policy, clock=clock, guards=[notes])
    assert [type(o.exception) for o in notes.outcomes if o] == [
        ConnectionError,
        ValueError,
        type(None),
        type(None),
    ]
    assert [o.succeeded for o in notes.outcomes if o] == [False, False, False, True]
    assert [o.seconds for o in notes.outcomes if o] == [0.5] * 4
    assert notes.request.number == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_attempt_gives_its_permit_back(error: type[BaseException]) -> None:
    limit = ConcurrencyLimit(1)

    def attempt() -> None:
        raise error

    with pytest.raises(error):
        retry(attempt, guards=[limit])
    assert repr(limit) == "<ConcurrencyLimit(1): 0 running, 0 held>"


def test_a_cancelled_task_leaves_the_line() -> None:
    limit = ConcurrencyLimit(1)
    asker = Asker(limit)
    asker.ask()

    async def main() -> None:
        task = asyncio.create_task(retry_async(nothing, guards=[limit]))
        while repr(limit) != "<ConcurrencyLimit(1): 1 running, 1 held>":  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def nothing() -> None: ...

    asyncio.run(main())
    assert repr(limit) == "<ConcurrencyLimit(1): 1 running, 0 held>"


def test_tasks_of_one_loop_share_a_limit() -> None:
    threads = threading.active_count()
    limit = ConcurrencyLimit(2)
    running = 0
    most = 0

    async def attempt() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1

    async def main() -> None:
        await asyncio.gather(*(retry_async(attempt, guards=[limit]) for _ in range(20)))

    asyncio.run(main())
    assert most == 2
    assert threading.active_count() == threads


def test_threads_share_a_limit() -> None:
    limit = ConcurrencyLimit(1)
    inside, release = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        inside.set()
        release.wait(10)
        order.append("first")

    def second() -> None:
        order.append("second")

    threads = [threading.Thread(target=lambda: retry(first, guards=[limit]))]
    threads[0].start()
    inside.wait(10)
    threads.append(threading.Thread(target=lambda: retry(second, guards=[limit])))
    threads[1].start()
    while "1 held" not in repr(limit):
        threads[1].join(0.001)
    release.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


def test_a_decorated_function_gives_its_arguments_to_key() -> None:
    clock = VirtualClock()
    starts: list[tuple[str, float]] = []
    limit = RateLimit(1, key=lambda tenant, *, again=False: (tenant, again))

    @retrying(guards=[limit], clock=clock)
    def save(tenant: str, *, again: bool = False) -> None:
        starts.append((tenant, clock.now()))

    save("a")
    save("b")
    save("a", again=True)
    save("a")
    assert starts == [("a", 0.0), ("b", 0.0), ("a", 0.0), ("a", 1.0)]
    other = save.using(guards=[])
    other("a")
    assert starts[-1] == ("a", 1.0)
    assert save.stats().calls == 4


def test_a_timer_of_the_users_is_what_is_waited_by() -> None:
    clock = VirtualClock()

    class Notes:
        def __init__(self) -> None:
            self.started: list[float] = []

        def start(self, seconds: float) -> None:
            self.started.append(seconds)

        def stop(self) -> None: ...

        def wait(self, timeout: float | None = None) -> bool:
            clock.advance(min(self.started[-1], math.inf if timeout is None else timeout))
            return True

    for call in (call_sync, call_asyncio):
        timer, limit = Notes(), RateLimit(0.5)
        fails = Fails(1, clock)
        call(fails, policy=AT_ONCE, clock=clock, timer=timer, guards=[limit])
        assert timer.started == [0.0, 2.0]


def test_a_broken_guard_lets_the_attempts_go(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def admit(self, request: AttemptRequest) -> float | None:
            raise ValueError(request)

        def release(self, request: AttemptRequest, outcome: Outcome | None) -> None: ...

    assert retry(lambda: 3, guards=[Broken()]) == 3
    assert "Broken failed to decide; the attempt goes past it" in caplog.text


@pytest.mark.parametrize("guards", [RateLimit(1), [RateLimit], 3, [None]], ids=repr)
def test_what_is_not_a_list_of_guards_is_refused(guards: Any) -> None:
    with pytest.raises(TypeError, match="guards takes"):
        retry(lambda: 3, guards=guards)
    with pytest.raises(TypeError, match="guards takes"):
        retrying(guards=guards)
    with pytest.raises(TypeError, match="guards takes"):
        asyncio.run(retry_async(lambda: 3, guards=guards))  # type: ignore[arg-type]
