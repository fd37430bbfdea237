"""The life of jobs against a model of it, through whatever a user may do, in any order.

Attempts take virtual time, in which they keep a worker busy: so jobs queue, run and wait while
the machine cancels, shuts down and forgets. All spans get a fraction of their own, so that no two
things happen at the same time and the model can say in which order they do. What happens at
the same time is for the staged races elsewhere, and for the fault run.
"""

from __future__ import annotations

import gc
import logging
import math
import random
import weakref
from collections import Counter, deque
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from helpers.jobs import Boom, busy_for
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from retryexec import (
    CancelToken,
    PermanentError,
    RetryAfter,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    ShutdownReport,
    StopReason,
)
from retryexec._core.counts import stats as stats_of
from retryexec.testing import VirtualClock

REFUSED = "refused"
FAILURES = ("boom", "refused", "permanent", "later", "other", "exit")


class Other(Exception):
    """What no policy here tries again."""


@dataclass(frozen=True)
class Attempt:
    """What a job does when it is tried: take some time, and end in some way."""

    seconds: float
    outcome: str  # "value", or one of FAILURES
    later: float  # seconds that "later" asks for


class Scripted:
    """A job that does one Attempt after the other, the last one for ever."""

    def __init__(self, script: list[Attempt], clock: VirtualClock) -> None:
        self.script, self.clock = script, clock
        self.started_at: list[float] = []
        self.errors: list[BaseException] = []

    def exec(self) -> str:
        script, clock, started_at, errors = self.script, self.clock, self.started_at, self.errors
        del self  # the traceback of what is raised below must not hold it
        attempt = script[min(len(started_at), len(script) - 1)]
        started_at.append(clock.now())
        if attempt.seconds:
            busy_for(clock, attempt.seconds)
        if attempt.outcome == "value":
            return "value"
        error: BaseException = {"other": Other, "exit": SystemExit}.get(attempt.outcome, Boom)()
        errors.append(error)
        if attempt.outcome == REFUSED:
            return REFUSED
        if attempt.outcome == "permanent":
            raise PermanentError(error)
        if attempt.outcome == "later":
            raise RetryAfter(attempt.later, cause=error)
        raise error


# ---- the model


@dataclass(eq=False)
class Life:
    """How far a job has come, by the model."""

    script: list[Attempt]
    policy: RetryPolicy
    state: str = "queued"  # running, waiting; succeeded, failed, cancelled
    reasons: tuple[StopReason, ...] = ()  # why it ended: one, or any of two that came together
    attempts: int = 0
    failures: int = 0
    started_at: list[float] = field(default_factory=list)
    until: float = math.inf  # when its attempt or its wait ends
    cancel_requested: bool = False
    refused: bool = False  # its latest attempt returned what the policy refuses
    abandoned: bool = False  # ended by the shutdown while pending

    @property
    def over(self) -> bool:
        return self.state in {"succeeded", "failed", "cancelled"}

    def end(self, state: str, *reasons: StopReason) -> None:
        self.state, self.reasons, self.until = state, reasons, math.inf

    def too_late(self, start: float) -> bool:
        limit = self.policy.max_elapsed
        return limit is not None and start - self.started_at[0] > limit

    def decide(self, now: float) -> float | StopReason:
        """Return the delay that follows the attempt just made, or why none does."""
        attempt = self.script[min(self.attempts, len(self.script)) - 1]
        delays = list(self.policy.backoff)
        self.refused = attempt.outcome == REFUSED
        if attempt.outcome == "value":
            return StopReason.SUCCEEDED
        self.failures += 1
        if attempt.outcome == "permanent":
            return StopReason.PERMANENT
        if attempt.outcome in {"other", "exit"}:
            return StopReason.NOT_RETRIABLE
        if self.policy.max_attempts is not None and self.attempts >= self.policy.max_attempts:
            return StopReason.MAX_ATTEMPTS
        if attempt.outcome == "later":
            delay = attempt.later
        elif self.delays_taken < len(delays):
            delay = delays[self.delays_taken]
            self.delays_taken += 1
        else:
            return StopReason.BACKOFF_EXHAUSTED
        return StopReason.MAX_ELAPSED if self.too_late(now + delay) else delay

    delays_taken: int = 0


class Model:
    """An executor in which one thing happens at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.now = 0.0
        self.lives: list[Life] = []
        self.queue: deque[Life] = deque()
        self.closed = False
        self.ending: str | None = None  # how pending jobs end, once no attempt may start
        self.stops: list[float] = []  # when shutdown(wait=False, timeout=...) says so

    def in_state(self, *states: str) -> list[Life]:
        return [life for life in self.lives if life.state in states]

    def submit(self, life: Life) -> None:
        self.lives.append(life)
        self.queue.append(life)
        self.give_out()

    def cancel(self, life: Life) -> None:
        if life.state in {"queued", "waiting"}:
            life.end("cancelled", StopReason.CANCELLED)
        elif life.state == "running":
            life.cancel_requested = True

    def stop(self, ending: str) -> None:
        """Let no further attempt start; the first call decides how jobs end by that."""
        self.ending = self.ending or ending
        for life in self.in_state("queued", "waiting"):
            if self.ending == "cancel":
                self.cancel(life)
            else:
                life.abandoned = True
                life.end("failed", StopReason.SHUTDOWN)

    def run_to(self, time: float) -> None:
        while True:
            due = [life.until for life in self.lives] + self.stops
            if min(due, default=math.inf) > time or not (self.pending() or self.stops):
                break
            self.now = min(due)
            if self.now in self.stops:
                self.stops.remove(self.now)
                if self.pending():
                    self.stop("abandon")
            for life in self.lives:
                if life.until == self.now:
                    self.move_on(life)
            self.give_out()
        if time < math.inf:
            self.now = time

    def pending(self) -> list[Life]:
        return self.in_state("queued", "running", "waiting")

    def move_on(self, life: Life) -> None:
        life.until = math.inf
        if life.state == "waiting":
            life.state = "queued"
            self.queue.append(life)
            return
        delay = life.decide(self.now)
        if delay is StopReason.SUCCEEDED:
            life.end("succeeded", delay)
        elif isinstance(delay, StopReason):
            life.end("failed", delay)
        elif life.cancel_requested or self.ending:
            reasons = [StopReason.CANCELLED] * life.cancel_requested
            life.end("failed", *reasons, *[StopReason.SHUTDOWN] * bool(self.ending))
        elif delay == 0:
            life.state = "queued"
            self.queue.append(life)
        else:
            life.state, life.until = "waiting", self.now + delay

    def give_out(self) -> None:
        while self.queue and len(self.in_state("running")) < self.workers:
            life = self.queue.popleft()
            if life.state != "queued":
                continue
            if life.attempts and life.too_late(self.now):
                life.end("failed", StopReason.MAX_ELAPSED)
                continue
            life.state = "running"
            life.attempts += 1
            life.started_at.append(self.now)
            seconds = life.script[min(life.attempts, len(life.script)) - 1].seconds
            life.until = self.now + seconds
            if not seconds:
                self.move_on(life)


# ---- the machine

spans = st.integers(0, 12)
# Not the jobs themselves, since hypothesis holds on to what it has drawn.
indices = st.integers(0, 20)
attempts = st.tuples(spans, st.sampled_from(("value", "boom", "boom", *FAILURES)), spans)


@dataclass
class Watched:
    """A job that was submitted, and what is needed to see how it does, but never the job."""

    life: Life
    job: weakref.ref[Scripted]
    future: RetryFuture[str] | None  # None once dropped
    future_ref: weakref.ref[RetryFuture[str]]
    started_at: list[float]
    errors: list[BaseException]
    cancel: CancelToken | None
    called: list[str] = field(default_factory=list)
    callbacks: int = 0


class Jobs(RuleBasedStateMachine):
    """Jobs of one executor, in virtual time."""

    def __init__(self) -> None:
        super().__init__()
        gc.disable()  # what is let go must be gone without it
        self.fractions = random.Random(5)
        self.clock = VirtualClock(patience=1)
        self.watched: list[Watched] = []
        self.given_up: list[StopReason] = []
        self.token = CancelToken()
        self.executor: RetryingExecutor | None = None

    def span(self, whole: int) -> float:
        return whole and whole + self.fractions.random()

    @initialize(workers=st.integers(1, 3))
    def begin(self, workers: int) -> None:
        self.model = Model(workers)
        self.executor = RetryingExecutor(
            workers,
            clock=self.clock,
            on_give_up=lambda event, given_up=self.given_up: given_up.append(event.stop_reason),
        )
        self.pool = self.executor._pool

    def still(self, states: tuple[str, ...]) -> list[Watched]:
        return [w for w in self.watched if w.life.state in states]

    @precondition(lambda self: self.executor is not None)
    @rule(
        script=st.lists(attempts, min_size=1, max_size=4),
        max_attempts=st.sampled_from((1, 2, 3, 5, None)),
        max_elapsed=st.sampled_from((None, None, 5, 20)),
        backoff=st.lists(spans, max_size=4),
        under_token=st.booleans(),
    )
    def submit(
        self,
        script: list[Any],
        max_attempts: int | None,
        max_elapsed: int | None,
        backoff: list[int],
        under_token: bool,
    ) -> None:
        assert self.executor is not None
        if script[-1][1] == "later":
            script = [*script, (1, "value", 0)]  # or it would be later for ever
        steps = [Attempt(self.span(a), outcome, self.span(b)) for a, outcome, b in script]
        policy = RetryPolicy(
            max_attempts=max_attempts,
            max_elapsed=None if max_elapsed is None else self.span(max_elapsed),
            backoff=[self.span(s) for s in backoff],
            retry_on=(Boom, RetryAfter),
            retry_on_result=REFUSED.__eq__,
        )
        job = Scripted(steps, self.clock)
        token = self.token if under_token else None
        view = self.executor.using(policy, cancel=token)
        if self.model.closed:
            with pytest.raises(RuntimeError, match="after shutdown"):
                view.submit(job)
            reference = weakref.ref(job)
            del job
            assert reference() is None
            return
        future = view.submit(job)
        life = Life(steps, policy)
        if token is not None and token.cancelled:
            life.end("cancelled", StopReason.CANCELLED)
        self.model.submit(life)
        self.watched.append(
            Watched(
                life,
                weakref.ref(job),
                future,
                weakref.ref(future),
                job.started_at,
                job.errors,
                token,
            )
        )

    @rule(whole=spans)
    def advance(self, whole: int) -> None:
        self.clock.advance(self.span(whole))
        self.model.run_to(self.clock.now())

    @precondition(lambda self: self.watched)
    @rule(index=indices)
    def cancel(self, index: int) -> None:
        watched = self.watched[index % len(self.watched)]
        if watched.future is not None:
            self.model.cancel(watched.life)
            assert watched.future.cancel() is (watched.life.state == "cancelled")

    @rule(renew=st.booleans())
    def cancel_token(self, renew: bool) -> None:
        for watched in self.watched:
            if watched.cancel is self.token:
                self.model.cancel(watched.life)
        self.token.cancel()
        if renew:
            self.token = CancelToken()

    @precondition(lambda self: self.watched)
    @rule(index=indices, fails=st.booleans())
    def add_callback(self, index: int, fails: bool) -> None:
        watched = self.watched[index % len(self.watched)]

        def callback(
            future: RetryFuture[str], called: list[str] = watched.called, fails: bool = fails
        ) -> None:
            called.append(future._state)
            if fails:
                raise Boom

        if watched.future is not None:
            watched.callbacks += 1
            watched.future.add_done_callback(callback)  # type: ignore[arg-type]

    @precondition(lambda self: self.watched)
    @rule(index=indices)
    def drop(self, index: int) -> None:
        self.watched[index % len(self.watched)].future = None

    @precondition(lambda self: self.executor is not None and len(self.watched) > 2)
    @rule(wait=st.booleans(), cancel=st.booleans(), timeout=st.none() | spans)
    def shutdown(self, wait: bool, cancel: bool, timeout: int | None) -> None:
        assert self.executor is not None
        if timeout == 0 and not wait:
            timeout = 1  # at once, but in a thread of its own: nobody knows when that is
        span = None if timeout is None else self.span(timeout)
        report = self.executor.shutdown(wait, cancel_futures=cancel, timeout=span)
        model, now = self.model, self.clock.now()
        model.closed = True
        if cancel:
            model.stop("cancel")
        if not wait:
            expected = self.report()  # of the moment
            if span is not None and model.pending():
                model.stops.append(model.now + span)
        elif span is None:
            model.run_to(math.inf)
            expected = self.report()
        else:
            deadline = model.now + span
            model.run_to(deadline)
            if model.pending():
                assert now == deadline
                model.stop("abandon")
            expected = self.report()
        if not model.pending():
            model.now = now  # the clock may have gone on to the deadline of a wait for nothing
            model.stops.clear()
        # What was cancelled and shut down during its last attempt may count as either.
        moot = len([life for life in model.lives if len(life.reasons) > 1])
        assert expected.failed <= report.failed <= expected.failed + moot
        assert report.failed + report.abandoned == expected.failed + expected.abandoned
        assert replace(report, failed=0, abandoned=0) == replace(expected, failed=0, abandoned=0)

    @precondition(lambda self: self.executor is not None and len(self.watched) > 2)
    @rule()
    def forget(self) -> None:
        reference = weakref.ref(self.executor)
        self.executor = None
        self.clock.advance(0)
        assert reference() is None
        self.model.closed = True

    def report(self) -> ShutdownReport:
        failed = self.model.in_state("failed")
        abandoned = [life for life in failed if StopReason.SHUTDOWN in life.reasons]
        return ShutdownReport(
            done=len(self.model.in_state("succeeded")),
            failed=len(failed) - len(abandoned),
            cancelled=len(self.model.in_state("cancelled")),
            abandoned=len(abandoned),
            unfinished=len(self.model.pending()),
        )

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        self.clock.advance(0)
        self.model.run_to(self.clock.now())
        stats, model = stats_of(self.pool), self.model
        assert {
            state: getattr(stats, state)
            for state in ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
        } == {
            state: len(model.in_state(state))
            for state in ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
        }
        begun = sum(life.attempts for life in model.lives)
        assert stats.attempts == begun - len(model.in_state("running"))
        for watched in self.watched:
            self.compare(watched)
        reasons = [life.reasons for life in model.in_state("failed")]
        if all(len(r) == 1 for r in reasons):
            assert Counter(self.given_up) == Counter(r for (r,) in reasons)
        assert len(self.given_up) == len(reasons)

    def compare(self, watched: Watched) -> None:
        life, future = watched.life, watched.future
        assert watched.started_at == life.started_at
        assert len(watched.called) == (watched.callbacks if life.over else 0)
        assert (watched.job() is None) == life.over
        if future is None:
            # A cancelled one stays as an empty shell where nobody has come upon it yet.
            if life.over and life.state != "cancelled":
                assert watched.future_ref() is None
            return
        assert future.attempts == life.attempts
        assert future.done() == life.over
        assert future.running() == (life.state == "running")
        assert future.cancelled() == (life.state == "cancelled")
        due = life.until if life.state == "waiting" else None
        assert future.next_attempt_at == due
        if not life.over:
            assert future.stop_reason is None
            return
        assert future.stop_reason in life.reasons
        last = (
            range(life.attempts + 1)[-life.failures or life.attempts + 1 :] if life.failures else []
        )
        if life.state == "succeeded":
            last = range(1, life.attempts)
        assert [failure.number for failure in future.history] == list(last)[-5:]
        if life.state == "cancelled":
            with pytest.raises(CancelledError):
                future.result(0)
        elif life.abandoned:
            error = future.exception(0)
            assert isinstance(error, ShutdownError)
            assert error.__cause__ is (
                watched.errors[-1] if watched.errors and not life.refused else None
            )
        elif life.state == "succeeded" or life.refused:
            assert future.result(0) == (REFUSED if life.refused else "value")
        else:
            assert future.exception(0) is watched.errors[-1]

    def teardown(self) -> None:
        try:
            if not hasattr(self, "model"):
                return
            if self.executor is not None:
                self.executor.shutdown()
                self.executor = None
            else:
                self.clock.run_until(lambda: stats_of(self.pool).running == 0 and not self.left())
            self.model.run_to(math.inf)
            self.clock.advance(0)
            self.model.now = self.clock.now()
            self.all_is_as_the_model_says()
            assert not self.model.pending()
            self.nothing_is_left()
        finally:
            gc.enable()

    def left(self) -> int:
        stats = stats_of(self.pool)
        return stats.queued + stats.waiting

    def nothing_is_left(self) -> None:
        for thread in (*self.pool.threads(), self.pool.timekeeper._thread):
            if thread is not None:
                thread.join(5)
                assert not thread.is_alive()
        assert len(self.pool.timekeeper) == 0
        assert not self.pool.unfinished
        while not self.pool.queue.empty():
            job = self.pool.queue.get()
            assert job is None or job.cancelled()
        job = None
        for watched in self.watched:
            watched.future = None
            assert watched.future_ref() is None
        del self.pool


def test_jobs_live_as_the_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # What pytest keeps of the log holds tracebacks, and those hold futures.
    monkeypatch.setattr(logging.getLogger("retryexec"), "disabled", True)
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=50,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
        ),
    )
