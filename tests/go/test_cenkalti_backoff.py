"""Facts of Go's cenkalti/backoff, v4 and v5, one by one: the same here, or better on purpose."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from helpers.jobs import Boom, InThread, raise_
from helpers.played import Script, play
from helpers.waits import AtOnceTimer, TellingClock

from retryexec import (
    Cancelled,
    CancelToken,
    ConstantBackoff,
    ExponentialBackoff,
    GiveUp,
    PermanentError,
    Retry,
    RetryAfter,
    RetryingExecutor,
    RetryPolicy,
    StopBackoff,
    StopReason,
    Ticker,
    ZeroBackoff,
    retry,
)
from retryexec.testing import VirtualClock

TENS = RetryPolicy(max_attempts=5, backoff=ConstantBackoff(10))


@pytest.fixture
def clock() -> TellingClock:
    return TellingClock()


def note_of(error: BaseException) -> str:
    (note,) = error.__notes__
    return str(note)


# ---- ticker.go


def test_the_first_tick_is_at_once_and_certain_even_under_a_cancelled_token(
    clock: VirtualClock,
) -> None:
    """TestTickerContext: exactly one."""
    token = CancelToken()
    token.cancel()
    assert list(Ticker(ZeroBackoff(), cancel=token, clock=clock)) == [0]


def test_a_stop_backoff_ticks_once_and_ends(clock: VirtualClock) -> None:
    assert list(Ticker(StopBackoff(), clock=clock)) == [0]


def test_the_gap_is_counted_from_the_receipt(clock: VirtualClock) -> None:
    ticker = Ticker(ConstantBackoff(10), clock=clock)
    clock.advance(7)
    assert ticker.wait() == 7
    assert ticker.wait() == 17


def test_a_slow_receiver_finds_one_tick_however_slow(clock: VirtualClock) -> None:
    ticker = Ticker(ConstantBackoff(10), clock=clock)
    ticker.wait()
    clock.advance(1000)
    assert ticker.wait(0) == 1000
    with pytest.raises(TimeoutError):
        ticker.wait(9)


def test_stop_may_be_called_any_number_of_times(clock: VirtualClock) -> None:
    ticker = Ticker(ZeroBackoff(), clock=clock)
    for stopping in [InThread(ticker.stop) for _ in range(4)]:
        stopping.result()
    ticker.stop()
    assert list(ticker) == []


def test_a_ticker_takes_a_timer_of_ones_own_and_none_for_the_default(clock: VirtualClock) -> None:
    timer = AtOnceTimer()
    assert list(Ticker([1, 2], timer=timer, clock=clock)) == [0, 0, 0]
    assert timer.started == [1, 2]
    assert list(Ticker([1], timer=None, clock=clock)) == [0, 1]


def test_a_loop_left_without_stop_leaks_nothing(clock: VirtualClock) -> None:
    """Go leaks the goroutine, and never stops the timer."""
    threads = threading.active_count()
    ticker = Ticker(ConstantBackoff(10), clock=clock)
    for _ in ticker:
        break
    gone = weakref.ref(ticker)
    del ticker
    gc.collect()
    assert gone() is None
    assert threading.active_count() == threads


def test_ticks_go_beside_other_sources(clock: VirtualClock) -> None:
    """Where Go selects over channels, several threads put into one queue."""
    heard: list[Any] = []
    with Ticker([5, 5], clock=clock) as ticker:
        ticker.feed(heard.append)
        clock.advance(7)
        heard.append("update")
        clock.advance(3)
    assert heard == [0, 5, "update", 10]


# ---- retry.go


def test_runs_at_least_once_under_a_cancelled_token(clock: VirtualClock) -> None:
    token = CancelToken()
    token.cancel()
    assert retry(lambda: "ran", policy=TENS, clock=clock, cancel=token) == "ran"
    job = Script(clock, Boom)
    with pytest.raises(Cancelled):
        retry(job.exec, policy=TENS, clock=clock, cancel=token)
    assert job.started == [0]


def test_the_last_error_is_kept_on_cancel(clock: VirtualClock) -> None:
    """Go returned ctx.Err() alone until v6."""
    token, error = CancelToken(timeout=15, clock=clock), Boom("why")
    with pytest.raises(Cancelled) as caught:
        retry(partial(raise_, error), policy=TENS, clock=clock, cancel=token)
    assert caught.value.__cause__ is error
    assert note_of(caught.value).endswith("after 2 attempts over 15.000 s: cancelled")


def test_notify_is_called_before_each_wait_and_not_for_the_final_failure(
    clock: VirtualClock,
) -> None:
    told: list[Retry] = []
    with pytest.raises(Boom):
        retry(partial(raise_, Boom()), policy=TENS, clock=clock, on_retry=told.append)
    assert [(event.attempt, event.delay) for event in told] == [(n, 10) for n in (1, 2, 3, 4)]


def test_the_final_failure_has_a_hook_of_its_own(clock: VirtualClock) -> None:
    """Go has none."""
    told: list[GiveUp] = []
    with RetryingExecutor(1, policy=TENS, clock=clock, on_give_up=told.append) as executor:
        future = executor.submit(raise_, Boom())
    (event,) = told
    assert (event.attempt, event.stop_reason) == (5, StopReason.MAX_ATTEMPTS)
    assert event.exception is future.exception()


def test_a_permanent_error_ends_it_with_the_inner_error(clock: VirtualClock) -> None:
    error, job = EOFError(), []
    with pytest.raises(EOFError) as caught:
        retry(lambda: (job.append(1), raise_(PermanentError(error))), policy=TENS, clock=clock)
    assert (caught.value, len(job)) == (error, 1)
    assert note_of(error).endswith(": permanent")


def test_a_permanent_error_with_words_around_it_keeps_them(clock: VirtualClock) -> None:
    """In Go, `fmt.Errorf("ctx: %w", Permanent(EOF))` ends as a bare EOF."""

    def job() -> None:
        try:
            raise PermanentError(EOFError())
        except PermanentError as error:
            raise Boom("ctx: saving") from error

    with pytest.raises(Boom) as caught:
        retry(job, policy=TENS, clock=clock)
    assert str(caught.value) == "ctx: saving"
    assert note_of(caught.value).endswith("after 1 attempt over 0.000 s: permanent")


def test_permanent_goes_before_max_tries(clock: VirtualClock) -> None:
    """With `WithMaxTries(1)` v5 leaked the wrapper (#177)."""
    with pytest.raises(EOFError):
        retry(partial(raise_, PermanentError(EOFError())), policy=RetryPolicy.never(), clock=clock)


def test_permanent_of_nothing_is_a_mistake() -> None:
    """Go lets Permanent(nil) be a success."""
    with pytest.raises(TypeError, match="PermanentError wraps the exception"):
        PermanentError(None)  # type: ignore[arg-type]


def test_a_retry_waits_by_a_timer_of_ones_own_and_stops_it(clock: VirtualClock) -> None:
    timer = AtOnceTimer()
    with pytest.raises(Boom):
        retry(partial(raise_, Boom()), policy=TENS, clock=clock, timer=timer)
    assert (timer.started, timer.stops, clock.now()) == ([10] * 4, 1, 0)


def test_the_last_value_is_returned_beside_no_error(clock: VirtualClock) -> None:
    """Go returns the last attempt's value beside the error; here a refused one is the result."""
    policy = TENS.replace(max_attempts=2, retry_on_result=lambda value: value < 10)
    values = iter([1, 2, 3])
    assert retry(lambda: next(values), policy=policy, clock=clock) == 2


# ---- tries.go, and v5's options


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2), (3, 4)])
def test_n_retries_are_n_plus_one_calls(retries: int, calls: int) -> None:
    """TestMaxTriesZero, issue 80: zero retries are one call."""
    played = play(TENS.replace(backoff=ZeroBackoff().take(retries), max_attempts=None), Boom)
    assert (len(played.started), played.reason) == (calls, StopReason.BACKOFF_EXHAUSTED)
    assert len(list(Ticker(ZeroBackoff().take(retries)))) == calls


def test_max_attempts_counts_calls_and_none_is_no_limit() -> None:
    """v5's WithMaxTries; there 0 is no limit, here it is a mistake."""
    assert len(play(TENS.replace(max_attempts=3), Boom).started) == 3
    endless = TENS.replace(max_attempts=None, max_elapsed=None)
    assert len(play(endless, *[Boom] * 500, "saved").started) == 501
    with pytest.raises(ValueError, match="max_attempts"):
        RetryPolicy(max_attempts=0)


def test_the_default_limit_is_fifteen_minutes() -> None:
    assert RetryPolicy().max_elapsed == 15 * 60


def test_retry_after_replaces_one_wait_and_not_the_sequence(clock: VirtualClock) -> None:
    """v5 resets the policy; here the sequence goes on where it was."""
    job = Script(clock, Boom, lambda: RetryAfter(100), Boom, "saved")
    policy = RetryPolicy(backoff=[1, 2, 3])
    assert retry(job.exec, policy=policy, clock=clock) == "saved"
    assert job.started == [0, 1, 101, 103]


def test_retry_after_beyond_the_limit_ends_at_once_and_says_so(clock: VirtualClock) -> None:
    """v5 silently stops retrying (#159)."""
    cause = Boom("503")
    played = play(RetryPolicy(), lambda: RetryAfter(3600, cause))
    assert (played.reason, played.ended, played.exception) == (StopReason.MAX_ELAPSED, 0, cause)
    assert note_of(cause) == "retryexec: gave up after 1 attempt over 0.000 s: max_elapsed"
    bare = play(RetryPolicy(), lambda: RetryAfter(3600)).exception
    assert str(bare) == "retry after 3600 s"
    played.future.exception()


# ---- exponential.go


def test_the_limit_counts_from_the_first_attempt_not_from_the_policys_making() -> None:
    clock = VirtualClock()
    policy = TENS.replace(max_elapsed=15)
    clock.advance(1000)
    assert play(policy, Boom, clock=clock).started == [1000, 1010]


def test_the_wait_counts_and_the_coming_attempts_own_time_does_not(clock: VirtualClock) -> None:
    def slow() -> None:
        clock.advance(4)
        raise Boom

    with pytest.raises(Boom) as caught:
        retry(slow, policy=TENS.replace(max_elapsed=14), clock=clock)
    assert note_of(caught.value).endswith("after 2 attempts over 18.000 s: max_elapsed")


def test_a_huge_number_of_retries_does_not_overflow() -> None:
    """TestBackOffOverflow: it stays at the cap."""
    delays = iter(ExponentialBackoff(1, 1e300, randomization_factor=0, max_interval=60))
    assert [next(delays) for _ in range(2000)][-1] == 60


def test_one_policy_serves_sixteen_threads(clock: VirtualClock) -> None:
    """In Go a shared BackOff is a data race."""
    policy = RetryPolicy(max_attempts=None, backoff=ZeroBackoff().take(50))
    together = threading.Barrier(16, timeout=10)

    def run() -> int:
        calls: list[int] = []
        together.wait()
        with pytest.raises(Boom):
            retry(lambda: (calls.append(1), raise_(Boom())), policy=policy)
        return len(calls)

    assert [thread.result() for thread in [InThread(run) for _ in range(16)]] == [51] * 16


@pytest.mark.parametrize("make", [lambda: iter([1, 2]), lambda: (n for n in [1, 2])])
def test_a_sequence_that_could_not_be_begun_again_is_refused(make: Callable[[], Any]) -> None:
    """Go's policies need a Reset before they serve again."""
    for take in (Ticker, lambda delays: RetryPolicy(backoff=delays)):
        with pytest.raises(TypeError, match="backoff"):
            take(make())
