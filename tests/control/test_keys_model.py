"""Jobs with keys against a model of them, through whatever a user may do, in any order.

Attempts and waits take virtual time, with a fraction of its own each, so that no two things happen
at the same time and the model can say which attempt starts when. What happens at the same time is
for the staged races and the storms beside this file.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
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
    PermanentError,
    RetryFuture,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    StopReason,
)
from retryexec.testing import VirtualClock

ENDS = {"succeeded", "failed", "cancelled"}
PENDING = {"queued", "waiting", "held", "paused"}


@dataclass(frozen=True)
class Attempt:
    """What a job does when it is tried: take some time, and end in some way."""

    seconds: float
    outcome: str  # "value", "boom" or "permanent"


# ---- the model


@dataclass(eq=False)
class Life:
    """How far a job has come, by the model."""

    number: int
    key: str | None
    latest: bool
    script: list[Attempt]
    delays: list[float]
    max_attempts: int
    state: str = (
        "queued"  # running, waiting, held, paused, superseded; succeeded, failed, cancelled
    )
    reason: StopReason | None = None
    superseded_by: Life | None = None
    attempts: int = 0
    started_at: list[float] = field(default_factory=list)
    until: float = math.inf  # when its attempt or its wait ends
    not_before: float | None = None  # when it may start, if its turn comes before that
    cancel_requested: bool = False

    @property
    def unfinished(self) -> bool:
        return self.state not in ENDS | {"superseded"}

    @property
    def newest(self) -> Life:
        """The job that it follows at last, or itself."""
        found = self
        while found.superseded_by is not None:
            found = found.superseded_by
        return found

    @property
    def outcome(self) -> str | None:
        """How its future has ended, or None."""
        if self.state == "superseded":
            return self.newest.outcome
        return self.state if self.state in ENDS else None

    @property
    def attempt(self) -> Attempt:
        return self.script[min(self.attempts, len(self.script)) - 1]


class Model:
    """An executor in which one thing happens at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.now = 0.0
        self.lives: list[Life] = []
        self.lines: dict[str, list[Life]] = {}  # by key: the unfinished jobs, in their order
        self.queue: deque[Life] = deque()  # one that was replaced stands for the newer
        self.paused: list[Life] | None = None  # drawn from the queue in a pause
        self.stopping = False
        self.superseded = 0

    def in_state(self, *states: str) -> list[Life]:
        return [life for life in self.lives if life.state in states]

    def submit(self, life: Life) -> None:
        self.lives.append(life)
        line = [] if life.key is None else self.lines.setdefault(life.key, [])
        if line and life.latest and line[-1].latest and line[-1].state in PENDING:
            self.replace(line[-1], life)
            line[-1] = life
        elif line:
            line.append(life)
            life.state = "held"
        else:
            line.append(life)
            self.queue.append(life)
        self.give_out()

    def replace(self, older: Life, newer: Life) -> None:
        newer.state, newer.until, newer.not_before = older.state, older.until, older.not_before
        older.state, older.until, older.superseded_by = "superseded", math.inf, newer
        self.superseded += 1

    def end(self, life: Life, state: str, reason: StopReason) -> None:
        life.state, life.reason, life.until = state, reason, math.inf
        if life.superseded_by is None and life.key is not None:
            line = self.lines[life.key]
            was_its_turn = line[0] is life
            line.remove(life)
            if line and was_its_turn:
                self.let_go(line[0])
            if not line:
                del self.lines[life.key]

    def let_go(self, life: Life) -> None:
        if life.not_before is not None and life.not_before > self.now:
            life.state, life.until = "waiting", life.not_before
        else:
            life.state = "queued"
            self.queue.append(life)

    def cancel(self, life: Life) -> None:
        if life.state in PENDING | {"superseded"}:
            self.end(life, "cancelled", StopReason.CANCELLED)
        elif life.state == "running":
            life.cancel_requested = True
        self.give_out()

    def retry_now(self, life: Life) -> bool:
        if life.state != "waiting":
            return False
        life.state, life.until = "queued", math.inf
        self.queue.append(life)
        self.give_out()
        return True

    def postpone(self, life: Life, seconds: float) -> bool:
        if life.state not in PENDING:
            return False
        if life.state == "held":
            life.not_before = self.now + seconds
        else:
            life.state, life.until = "waiting", self.now + seconds
        return True

    def pause(self) -> None:
        if self.paused is None:
            self.paused = []

    def resume(self) -> None:
        self.queue += self.paused or []
        for life in self.paused or []:
            if life.newest.state == "paused":
                life.newest.state = "queued"
        self.paused = None
        self.give_out()

    def stop(self, *, cancel: bool) -> None:
        """Let no further attempt start."""
        self.stopping = True
        for life in self.in_state(*PENDING):
            life.state, life.until = "held", math.inf
        for life in self.in_state("held"):
            if cancel:
                self.end(life, "cancelled", StopReason.CANCELLED)
            else:
                self.end(life, "failed", StopReason.SHUTDOWN)
        self.queue.clear()

    def run_to(self, time: float) -> None:
        while True:
            due = min((life.until for life in self.lives), default=math.inf)
            if due > time or due == math.inf:
                break
            self.now = due
            for life in self.lives:
                if life.until == self.now:
                    self.move_on(life)
            self.give_out()
        if time < math.inf:
            self.now = time

    def move_on(self, life: Life) -> None:
        life.until = math.inf
        if life.state == "waiting":
            life.state = "queued"
            self.queue.append(life)
            return
        outcome, delays = life.attempt.outcome, life.delays
        if outcome == "value":
            self.end(life, "succeeded", StopReason.SUCCEEDED)
        elif outcome == "permanent":
            self.end(life, "failed", StopReason.PERMANENT)
        elif life.attempts >= life.max_attempts:
            self.end(life, "failed", StopReason.MAX_ATTEMPTS)
        elif life.attempts > len(delays):
            self.end(life, "failed", StopReason.BACKOFF_EXHAUSTED)
        elif life.cancel_requested:
            self.end(life, "failed", StopReason.CANCELLED)
        elif self.stopping:
            self.end(life, "failed", StopReason.SHUTDOWN)
        else:
            self.try_again(life, delays[life.attempts - 1])

    def try_again(self, life: Life, delay: float) -> None:
        line = [life] if life.key is None else self.lines[life.key]
        due = self.now + delay if delay else None
        if life.latest and len(line) > 1 and line[1].latest:
            newer = line[1]
            not_before = max(due or 0.0, newer.not_before or 0.0)
            self.replace(life, newer)
            newer.not_before = not_before
            del line[0]
            self.let_go(newer)
        elif due is None:
            life.state = "queued"
            self.queue.append(life)
        else:
            life.state, life.until = "waiting", due

    def give_out(self) -> None:
        while self.queue and len(self.in_state("running")) < self.workers:
            drawn = self.queue.popleft()
            life = drawn.newest
            if life.state != "queued":
                continue
            if self.paused is not None:
                life.state = "paused"
                self.paused.append(life)
                continue
            life.state = "running"
            life.attempts += 1
            life.started_at.append(self.now)
            life.until = self.now + life.attempt.seconds
            if not life.attempt.seconds:
                self.move_on(life)


# ---- the machine


class Ledger:
    """Written by the attempts themselves: which jobs of a key have started, and run."""

    def __init__(self) -> None:
        self.running: Counter[str | None] = Counter()
        self.broken: list[str] = []
        self.started: dict[str | None, int] = {}  # the newest job of a key that has started


class Scripted:
    """A job that does one Attempt after the other, the last one for ever."""

    def __init__(self, life: Life, clock: VirtualClock, ledger: Ledger) -> None:
        self.number, self.key = life.number, life.key
        self.script, self.clock, self.ledger = life.script, clock, ledger
        self.started_at: list[float] = []

    def exec(self) -> int:
        ledger, key = self.ledger, self.key
        if key is not None:
            ledger.running[key] += 1
            if ledger.running[key] > 1:
                ledger.broken.append(f"two attempts of {key!r} at {self.clock.now()}")
            if self.number < ledger.started.get(key, -1):
                ledger.broken.append(f"{self.number} after a newer one of {key!r}")
            ledger.started[key] = self.number
        try:
            attempt = self.script[min(len(self.started_at), len(self.script) - 1)]
            self.started_at.append(self.clock.now())
            if attempt.seconds:
                busy_for(self.clock, attempt.seconds)
            if attempt.outcome == "value":
                return self.number
            error = Boom(self.number)
            raise PermanentError(error) if attempt.outcome == "permanent" else error
        finally:
            if key is not None:
                ledger.running[key] -= 1


@dataclass
class Watched:
    """A job that was submitted, and what is needed to see how it does."""

    life: Life
    job: Scripted
    future: RetryFuture[int]
    callbacks: int = 0
    called: list[str] = field(default_factory=list)


spans = st.integers(0, 9)
indices = st.integers(0, 30)
attempts = st.tuples(st.integers(0, 5), st.sampled_from(("value", "boom", "boom", "permanent")))


class KeyedJobs(RuleBasedStateMachine):
    """Jobs of a few keys, in virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.fractions = random.Random(7)
        self.clock = VirtualClock(patience=5)
        self.ledger = Ledger()
        self.watched: list[Watched] = []
        self.hooks: Counter[int] = Counter()
        self.closed = False

    def span(self, whole: int, least: int = 0) -> float:
        whole = max(whole, least)
        return whole and whole + self.fractions.random()

    @initialize(many_workers=st.booleans())
    def begin(self, many_workers: bool) -> None:
        self.shortest = 0 if many_workers else 1  # of an attempt; see the head of this file
        workers = 60 if many_workers else 1
        self.model = Model(workers)

        def count(event: Any) -> None:
            self.hooks[id(event.future)] += 1

        self.executor = RetryingExecutor(
            workers, clock=self.clock, on_success=count, on_give_up=count
        )

    @rule(
        key=st.sampled_from(("a", "a", "a", "b", "c", None)),
        latest=st.sampled_from((True, True, False)),
        script=st.lists(attempts, min_size=1, max_size=3),
        delays=st.lists(spans, max_size=3),
        max_attempts=st.sampled_from((1, 3, 9)),
    )
    def submit(
        self,
        key: str | None,
        latest: bool,
        script: list[tuple[int, str]],
        delays: list[int],
        max_attempts: int,
    ) -> None:
        life = Life(
            len(self.watched),
            key,
            latest,
            [Attempt(self.span(seconds, self.shortest), outcome) for seconds, outcome in script],
            [self.span(delay) for delay in delays],
            max_attempts,
        )
        policy = RetryPolicy(
            max_attempts=max_attempts, max_elapsed=None, backoff=life.delays, retry_on=Boom
        )
        job = Scripted(life, self.clock, self.ledger)
        view = self.executor.using(policy, key=key, keep="latest" if latest else "all")
        if self.closed:
            with pytest.raises(RuntimeError, match="after shutdown"):
                view.submit(job)
            return
        future = view.submit(job)
        self.model.submit(life)
        self.watched.append(Watched(life, job, future))

    @rule(whole=spans)
    def advance(self, whole: int) -> None:
        self.clock.advance(self.span(whole))
        self.model.run_to(self.clock.now())

    @precondition(lambda self: self.watched)
    @rule(index=indices)
    def cancel(self, index: int) -> None:
        watched = self.watched[index % len(self.watched)]
        self.model.cancel(watched.life)
        assert watched.future.cancel() is (watched.life.outcome == "cancelled")

    @precondition(lambda self: self.watched)
    @rule(index=indices)
    def retry_now(self, index: int) -> None:
        watched = self.watched[index % len(self.watched)]
        assert watched.future.retry_now() is self.model.retry_now(watched.life)

    @precondition(lambda self: self.watched)
    @rule(index=indices, whole=spans)
    def postpone(self, index: int, whole: int) -> None:
        seconds = self.span(whole, 1)
        watched = self.watched[index % len(self.watched)]
        assert watched.future.postpone(seconds) is self.model.postpone(watched.life, seconds)

    @precondition(lambda self: not self.closed)
    @rule()
    def pause(self) -> None:
        self.executor.pause()
        self.model.pause()

    @rule()
    def resume(self) -> None:
        self.executor.resume()
        self.model.resume()

    @precondition(lambda self: self.watched)
    @rule(index=indices)
    def add_callback(self, index: int) -> None:
        watched = self.watched[index % len(self.watched)]
        watched.callbacks += 1

        def callback(future: Any, called: list[str] = watched.called) -> None:
            called.append(future._state)

        watched.future.add_done_callback(callback)

    @precondition(lambda self: len(self.watched) > 4 and not self.closed)
    @rule(how=st.sampled_from(("wait", "cancel", "timeout")), whole=spans)
    def shutdown(self, how: str, whole: int) -> None:
        self.resume()  # as the shutdown does; here, so that what starts by it has started before
        self.clock.advance(0)
        self.closed = True
        model = self.model
        if how == "wait":
            self.executor.shutdown()
            model.run_to(math.inf)
        elif how == "cancel":
            model.stop(cancel=True)
            self.executor.shutdown(cancel_futures=True)
            model.run_to(math.inf)
        else:
            deadline = self.clock.now() + (seconds := self.span(whole))
            self.executor.shutdown(timeout=seconds)
            model.run_to(deadline)
            model.stop(cancel=False)
        model.now = self.clock.now()

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        self.clock.advance(0)
        model = self.model
        model.run_to(self.clock.now())
        assert self.ledger.broken == []
        self.compare_stats(model)
        for watched in self.watched:
            self.compare(watched)

    def compare_stats(self, model: Model) -> None:
        stats = self.executor.stats()
        # A job that was cancelled after it had been replaced counts as superseded.
        cancelled = [life for life in model.in_state("cancelled") if life.superseded_by is None]
        expected = {
            "queued": len(model.in_state("queued")),
            "running": len(model.in_state("running")),
            "waiting": len(model.in_state("waiting")),
            "held": len(model.in_state("held", "paused")),
            "succeeded": len(model.in_state("succeeded")),
            "failed": len(model.in_state("failed")),
            "cancelled": len(cancelled),
            "superseded": model.superseded,
        }
        assert {name: getattr(stats, name) for name in expected} == expected
        assert sum(expected.values()) == len(model.lives)
        assert len(self.executor._pool.control.keys) == len(model.lines)

    def compare(self, watched: Watched) -> None:
        life, future, newest = watched.life, watched.future, watched.life.newest
        end = life.outcome
        assert watched.job.started_at == life.started_at
        assert future.attempts == life.attempts
        assert future.done() == (end is not None)
        assert future.cancelled() == (end == "cancelled")
        assert future.running() == (life.state == "running")
        assert future.next_attempt_at == (life.until if life.state == "waiting" else None)
        assert future.held_by == {"held": "key", "paused": "pause"}.get(life.state)
        assert len(watched.called) == (watched.callbacks if end else 0)
        ran = newest is life and life.state in {"succeeded", "failed"}
        assert self.hooks[id(future)] == ran
        if newest is not life:
            assert future.superseded_by is self.watched[newest.number].future
        else:
            assert future.superseded_by is None
        if life.state == "superseded" and end != "cancelled":
            assert future.stop_reason is StopReason.SUPERSEDED
        elif end is not None:
            assert future.stop_reason is (
                StopReason.CANCELLED if end == "cancelled" else life.reason
            )
        if end == "cancelled":
            with pytest.raises(CancelledError):
                future.result(0)
        elif end == "succeeded":
            assert future.result(0) == newest.number
        elif newest.reason is StopReason.SHUTDOWN and end:
            assert isinstance(future.exception(0), (ShutdownError, Boom))
        elif end:
            error = future.exception(0)
            assert isinstance(error, Boom)
            assert error.args == (newest.number,)
            assert error is self.watched[newest.number].future.exception(0)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        if not self.closed:
            self.shutdown("wait", 0)
        self.clock.run_until(lambda: self.executor.stats().running == 0)
        self.model.run_to(math.inf)
        self.clock.advance(0)
        self.model.now = self.clock.now()
        self.all_is_as_the_model_says()
        assert all(watched.future.done() for watched in self.watched)
        pool = self.executor._pool
        for thread in pool.threads():
            thread.join(5)
        assert len(pool.control.keys) == 0
        assert not pool.control.parked
        assert not pool.steering.set_aside
        assert not pool.unfinished


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # What pytest keeps of the log holds tracebacks, and those hold futures.
    monkeypatch.setattr(logging.getLogger("retryexec"), "disabled", True)
    return


@pytest.mark.usefixtures("quiet")
def test_jobs_of_a_key_live_as_the_model_says() -> None:
    run_state_machine_as_test(
        KeyedJobs,
        settings=settings(
            max_examples=50,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
        ),
    )
