"""Attempts that run elsewhere: at an engine, and on no thread of ours.

A worker begins such an attempt as any other, but sends it away in place of calling the job, and
takes the next job from the queue. When the engine's future is done, the job comes back into the
queue. The worker that gets it there reads the outcome, and goes on as after a call of its own.

The queue gives out a job only while the engine has room for it. So what waits for the engine is
still queued: it can be cancelled, and counts as such.

When the engine breaks, which of the attempts there broke it is not known. All of them are suspects:
each is run again alone. That is not another attempt. A suspect whose run ends in any other way is
none any more, and one that has broken the engine often enough fails.
"""

from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from queue import Empty, SimpleQueue
from threading import RLock
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from retryexec._core.job import Job
from retryexec._core.worker import Worker, give_up
from retryexec._exceptions import with_traceback
from retryexec._outcome import StopReason
from retryexec._typing import override

if TYPE_CHECKING:
    from retryexec._core.pool import Pool

AnyJob: TypeAlias = Job[Any]


class Isolation(Enum):
    """How it becomes known which attempt an engine broke with.

    EXACT: the engine says. SECLUDED: suspects run one by one at another engine of the same kind,
    and other jobs meanwhile at the first. EXCLUSIVE: while there are suspects, one of them runs,
    and nothing else.
    """

    EXACT = auto()
    SECLUDED = auto()
    EXCLUSIVE = auto()


class Outcome(NamedTuple):
    """What became of an attempt: it raised, or returned, or its engine broke, maybe many times."""

    raised: BaseException | None
    value: Any = None
    crash: Exception | None = None
    crashes: int = 1


class Flight:
    """One attempt of a job that is sent to the engine.

    Attributes:
        alone: whether no other attempt is with it, so that it is to blame if the engine breaks.
        sent: whether it is at the engine, or was; until then it is about to be sent.
        engine: where it was sent; the runner's own.
        future: what the engine has given for it; done once it has come back.
    """

    __slots__ = ("alone", "engine", "future", "job", "sent")

    def __init__(self, job: AnyJob, *, alone: bool) -> None:
        self.job = job
        self.alone = alone
        self.sent = False
        self.engine: Any = None
        self.future: Future[Any] | None = None


class Runner(Protocol):
    """What a pool asks of the engine where its attempts run."""

    max_crashes: int
    """How often the engine may break with a job before that job fails."""
    isolation: Isolation

    def size(self) -> int:
        """Return how many attempts the engine runs at a time."""
        ...

    def send(self, flight: Flight) -> Future[Any]:
        """Send an attempt to the engine; raise if it cannot be sent at all."""
        ...

    def outcome(self, flight: Flight) -> Outcome:
        """Return what became of an attempt that has come back; renew the engine if it broke."""
        ...

    def can_renew(self) -> bool:
        """Return whether there can be another engine in the place of one that broke."""
        ...

    def rest(self) -> None:
        """Learn that no attempt runs alone now, and none waits to."""
        ...

    def close(self) -> None:
        """Let go of the engine, to which nothing will be sent any more."""
        ...

    def kill(self) -> None:
        """Stop what runs at the engine, if that can be."""
        ...


# In the queue of events: there may be a job for which there is room.
_GO: Final = object()


class AwayQueue:
    """The queue of a pool whose attempts run elsewhere: gives out a job only if it can be sent.

    To the pool it is a queue of jobs, as `SimpleQueue` is.
    """

    def __init__(self, limit: int, isolation: Isolation) -> None:
        self._isolation = isolation
        # What workers wait for: a job that has come back; None, a sentinel; or _GO.
        self._events: SimpleQueue[Any] = SimpleQueue()
        self.wake = partial(self._events.put, None)
        # Guards all below. Reentrant, because a signal handler or a finalizer may submit.
        self._lock = RLock()
        self._told = False  # whether there is a _GO among the events
        self._limit = limit  # of attempts that are away, beside the one alone
        self._ready: deque[AnyJob] = deque()
        self._suspects: deque[AnyJob] = deque()  # those of the ready that come first, and alone
        # How often the engine broke with a job that has not ended, or run without that, since.
        self._crashes: dict[AnyJob, int] = {}
        self._flights: dict[AnyJob, Flight] = {}  # given out, and not back yet
        self._alone: Flight | None = None  # the one of them that is alone
        self._returned: dict[AnyJob, Flight] = {}  # back, and not seen by a worker yet

    # ---- as SimpleQueue

    def put(self, job: AnyJob) -> None:
        """Queue *job*."""
        with self._lock:
            (self._suspects if job in self._crashes else self._ready).append(job)
            self._tell_if_ready()

    def get(self) -> AnyJob | None:
        """Wait for a job that can be sent, or has come back, or for a sentinel, which is None."""
        while True:
            event = self._events.get()
            if event is not _GO:
                return event  # type: ignore[no-any-return]
            if (job := self._take()) is not None:
                return job

    def get_nowait(self) -> AnyJob:
        """Take a job out that waits to be sent, in order to drop it.

        Raises:
            Empty: there is none.
        """
        with self._lock, suppress(IndexError):
            return self._ready.popleft()
        raise Empty

    def qsize(self) -> int:
        """Return how many jobs wait to be sent."""
        return len(self._ready)

    # ---- giving out

    def _tell_if_ready(self) -> None:
        """Tell a worker if there is a job that can be sent, and none has been told; lock held."""
        if not self._told and self._can_send():
            self._told = True
            self._events.put(_GO)

    def _can_send(self) -> bool:
        if self._suspects and self._suspect_can_go():
            return True
        return bool(self._ready) and self._has_room()

    def _suspect_can_go(self) -> bool:
        if self._isolation is Isolation.EXACT:
            return len(self._flights) < self._limit
        if self._alone is not None:
            return False
        return self._isolation is Isolation.SECLUDED or not self._flights

    def _has_room(self) -> bool:
        if self._alone is None and not self._suspects:  # as nearly always
            return len(self._flights) < self._limit
        shared = len(self._flights) - (self._alone is not None)
        return self._isolation is not Isolation.EXCLUSIVE and shared < self._limit

    def _take(self) -> AnyJob | None:
        """Give out a job that can be sent, a suspect first; None if there is none."""
        with self._lock:
            self._told = False
            while self._can_send():
                suspect = bool(self._suspects) and self._suspect_can_go()
                job = (self._suspects if suspect else self._ready).popleft()
                # It may have been cancelled; or, after an interrupt, be in the queue twice.
                if job.done():
                    self._crashes.pop(job, None)
                    continue
                if job in self._flights or job in self._returned:
                    continue
                alone = suspect and self._isolation is not Isolation.EXACT
                flight = self._flights[job] = Flight(job, alone=alone)
                if alone:
                    self._alone = flight
                self._tell_if_ready()  # another worker
                return job
        return None

    def flight(self, job: AnyJob) -> Flight | None:
        """Return the flight of *job*, which has been given out."""
        return self._flights.get(job)

    def release(self, job: AnyJob) -> None:
        """Take back *job*, which has been given out and was not sent."""
        with self._lock:
            self._land(job)
            self._tell_if_ready()

    def _land(self, job: AnyJob) -> None:
        flight = self._flights.pop(job, None)
        if flight is self._alone:
            self._alone = None

    def pass_on(self, job: AnyJob, newer: AnyJob) -> None:
        """Give the place of *job*, which has been given out and was not sent, to *newer*."""
        with self._lock:
            flight = self._flights.get(job)
            if flight is not None and newer not in self._flights:
                self._land(job)
                self._flights[newer] = Flight(newer, alone=flight.alone)
                if flight.alone:
                    self._alone = self._flights[newer]

    # ---- coming back

    def come_back(self, flight: Flight, future: "Future[Any]") -> None:
        """Hand an attempt to a worker that has come back; called in the engine's thread."""
        flight.future = future
        with self._lock:
            self._land(flight.job)
            self._returned[flight.job] = flight
            self._tell_if_ready()  # first, so that the engine is not idle meanwhile
        self._events.put(flight.job)

    def returned(self, job: AnyJob) -> Flight | None:
        """Take the flight of *job* that has come back; None if none has."""
        return self._returned.pop(job, None)

    def resize(self, limit: int) -> None:
        """Let *limit* attempts be away at a time."""
        if limit != self._limit:
            with self._lock:
                self._limit = limit
                self._tell_if_ready()

    # ---- suspects

    def count_crash(self, job: AnyJob, crashes: int) -> int:
        """Count that the engine broke with *job*, so many times; return how often it has by now.

        From now on the job is a suspect: it is given out before others, and alone.
        """
        with self._lock:
            self._crashes = {job: n for job, n in self._crashes.items() if not job.done()}
            self._crashes[job] = crashes = self._crashes.get(job, 0) + crashes
            return crashes

    def clear(self, job: AnyJob) -> None:
        """Note that an attempt of *job* has come to an end, so that it is no suspect any more."""
        if self._crashes:
            with self._lock:
                self._crashes.pop(job, None)

    def has_suspects(self) -> bool:
        """Return whether an attempt runs alone, or waits to."""
        with self._lock:
            return self._alone is not None or bool(self._suspects)

    # ---- for the pool

    def sweep(self, unfinished: "set[AnyJob]") -> None:
        """Drop the jobs that have ended."""
        with self._lock:
            # A job may stand there for the one that has replaced it.
            newest: list[Any] = [job.superseded_by or job for job in self._ready]
            self._ready = deque(filter(unfinished.__contains__, newest))

    def away(self) -> list[AnyJob]:
        """Return the jobs that are at the engine, or come from there."""
        with self._lock:
            flights = [flight for flight in self._flights.values() if flight.sent]
            return [flight.job for flight in flights] + list(self._returned)


class AwayWorker(Worker):
    """A worker that sends attempts away, and acts on what comes back."""

    def __init__(self, pool: "Pool", name: str, *, daemon: bool) -> None:
        super().__init__(pool, name, daemon=daemon)
        assert pool.runner is not None
        assert isinstance(pool.queue, AwayQueue)
        self._runner: Runner = pool.runner
        self._queue: AwayQueue = pool.queue

    @override
    def _attempt(self, job: AnyJob) -> bool:
        flight = self._queue.returned(job)
        if flight is not None:
            return self._receive(flight)
        flight = self._queue.flight(job)
        if flight is None or flight.sent:
            return False
        try:
            return super()._attempt(job)
        finally:
            if not flight.sent:
                self._queue.release(job)

    @override
    def _send(self, job: AnyJob) -> bool:
        flight = self._queue.flight(job)
        assert flight is not None
        try:
            future = self._runner.send(flight)
        except BaseException as error:
            raised = with_traceback(error, None)
        else:
            flight.sent = True
            # From now on another worker may have the job.
            future.add_done_callback(partial(self._queue.come_back, flight))
            self._queue.resize(self._runner.size())
            return False
        try:
            return self._judge(job, job.context.copy(), raised, None)
        finally:
            del job, flight, raised

    def _receive(self, flight: Flight) -> bool:
        """Act on an attempt that has come back; return whether its job is queued again."""
        job, pool = flight.job, self._pool
        if not job.running():
            return False  # it was ended, after an error of ours
        settings = job.settings
        raised, value, crash, crashes = self._runner.outcome(flight)
        self._queue.resize(self._runner.size())
        if crash is None:
            self._queue.clear(job)
        else:
            self._after_crash(flight, crash, crashes)
        if flight.alone and not self._queue.has_suspects():
            self._runner.rest()
        if crash is not None:
            return False
        if settings.on_retry or settings.on_success or settings.on_give_up:
            # They may take long, and other jobs should not wait for that.
            with pool.lock:
                self.finishing = True
                pool.grow()
        context = job.context.copy()
        try:
            refusable = settings.policy.retry_on_result is not None
            if raised is None and not refusable and type(value) is not CoroutineType:
                self._succeed(job, value, context)
                return False
            return self._judge(job, context, raised, value)
        finally:
            del job, flight, context, raised, value
            if not pool.watched:
                self.finishing = False

    def _after_crash(self, flight: Flight, crash: Exception, crashes: int) -> None:
        """Run the job again, of which the engine broke an attempt, or end it."""
        job, pool = flight.job, self._pool
        job.give_back()  # to the guards, since it was no attempt
        progress = job.ensure_progress()
        progress.attempts -= 1
        crashes = self._queue.count_crash(job, crashes)
        known = flight.alone or self._runner.isolation is Isolation.EXACT
        guilty = known and crashes >= self._runner.max_crashes
        reason: StopReason | None = StopReason.CRASHED
        if not guilty and self._runner.can_renew():
            if job.settings.controlled and pool.control.hand_over(job, None):
                self._queue.clear(job)
                return
            reason = job.put_off(progress, None)
        if reason is None:
            self._queue.put(job)
        else:
            self._queue.clear(job)
            give_up(pool, job, crash, reason, worker=self)

    @override
    def _instead_of(self, job: AnyJob) -> bool:
        newer = job.superseded_by
        if isinstance(newer, Job) and not self._pool.halted:
            self._queue.pass_on(job, newer)
        return super()._instead_of(job)
