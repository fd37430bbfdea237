"""The pool behind an executor: one queue, its workers, and the way in.

A job goes one way round: submit → queue → worker → policy → (timekeeper → queue →)* → future.
Every job accepted is, until it ends, in exactly one of three hands: the queue's, a worker's or
the timekeeper's. The closing rests on that.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, filterfalse, islice
from operator import itemgetter
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from typing import Any

from retryexec._clock import Clock
from retryexec._closing import Closing
from retryexec._errors import PendingLimitError, ShutdownError
from retryexec._events import GiveUp, Retry, ShutdownReport, Stats
from retryexec._outcome import StopReason, few, name_of
from retryexec._policy import Terms
from retryexec._timekeeper import Job, Timekeeper
from retryexec._worker import Worker

logger = logging.getLogger("retryexec")

# Below this many, cancelled jobs in the queue are not worth a sweep.
_FEW = 64

stdlib_logger = logging.getLogger("concurrent.futures")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a pool is built from, and built anew from in a forked child."""

    max_workers: int
    thread_name_prefix: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_pending: int | None
    exit_timeout: float | None
    clock: Clock


@dataclass(frozen=True, slots=True)
class JobTerms(Terms):
    """The terms of a job that belongs to a pool.

    The hooks are here and not in the pool, whose threads would keep them alive, and whatever
    they lead to: often the very executor that its user has forgotten.
    """

    pool: "Pool"
    on_retry: Callable[[Retry], object] | None
    on_give_up: Callable[[GiveUp], object] | None
    quiet: bool  # whether nothing is logged of failures, for the user has a hook
    journal: (
        Any  # a JournalLink, or None: with one the job is on disk, for the next process if need be
    )


class Room(SimpleQueue[None]):
    """Room for jobs that may be overdrawn."""

    def __init__(self, jobs: int) -> None:
        self._lock = RLock()  # guards _debt
        self._debt = 0
        for _ in range(jobs):
            self.put(None)

    def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
        """Make room for one more job, or pay back what was overdrawn."""
        with self._lock:
            if self._debt:
                self._debt -= 1
                return
        super().put(item, block, timeout)

    def overdraw(self) -> None:
        """Take room for a job, whether there is some or not."""
        with self._lock:
            try:
                self.get_nowait()
            except Empty:
                self._debt += 1


class Pool:
    """Runs jobs on worker threads until each has ended."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.name = setup.thread_name_prefix
        self.broken = False  # True once an initializer has failed
        self.forked = False  # True in a child of the process this pool works in
        self.now = setup.clock.now
        self.silent = False  # True at interpreter exit, when one line tells of all abandoned jobs
        # Ready jobs, and None to make a worker look whether it may end.
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        # Guards all below, and the timekeeper's heap. Not taken on the way of a job that just
        # succeeds, since threads that meet at a lock hand it, and the GIL, to and fro for good.
        # Released before anything of the user's runs; reentrant, because a signal handler or a
        # finalizer may strike while this thread is in here, and submit or cancel.
        self.lock = RLock()
        self._workers: list[Worker] = []  # all that were started
        self._cancelled = 0
        self.stale: set[Job] = set()  # cancelled jobs still in the queue
        self.words = 0  # how many None are in the queue
        # Jobs queued or in hand: while there may be more workers, each job that makes it exceed
        # their number starts one. Once all have been started nobody counts any more, but for a
        # clock that moves only when the pool is at rest: that one attaches itself.
        self._load = 0
        self.counting = True
        attach: Callable[[Pool], Callable[[], None]] | None = getattr(setup.clock, "attach", None)
        self._at_rest = None if attach is None else attach(self)
        # What submit raises, once it must: after shutdown, at exit, when broken. Written before
        # a None is put into the queue.
        self._refusal: Callable[[], Exception] | None = None
        self.closed = False  # whether that is so
        self.stopping = False  # whether no further attempt may start
        # One None for each job that there is room for, if max_pending is set.
        self.room: SimpleQueue[None] | None = None
        if setup.max_pending is not None:
            self.room = SimpleQueue()
            for _ in range(setup.max_pending):
                self.room.put(None)
        # Called by the last worker to end, or by shutdown, if there is none.
        self.at_the_end: Callable[[], object] | None = None
        self.closing = Closing(self, setup.clock, setup.exit_timeout)
        self.skip = self.closing.skip
        self.may_leave, self.leave = self.closing.may_leave, self.closing.leave
        self.timekeeper = Timekeeper(
            setup.clock,
            self.lock,
            self._release,
            name=f"{setup.thread_name_prefix}_timekeeper",
            daemon=setup.exit_timeout is not None,
        )

    # ---- in: jobs come from submit, from the timekeeper, and back from an attempt

    def accept(self, job: Job) -> None:
        """Take *job*; block while `max_pending` jobs are unresolved.

        Raises:
            RuntimeError: the pool takes no more jobs, or not from this thread.
        """
        if self._refusal is None and self.room is not None:
            self._accept_into(self.room, job)
        elif self._refusal is None:
            # Counted first: if an interrupt strikes in between, there is a worker too many.
            if self.counting:
                self._expect_one()
            self.queue.put(job)
        else:
            raise self._refusal()
        # Whoever refuses writes so before putting a None behind all jobs. Either this one is in
        # front of it and will be run, or this look comes after the word.
        if self._refusal is None:
            return
        if self.broken:
            self.closing.skip(job)  # as it would be in the queue
        else:
            self._withdraw(job, self._refusal())

    def _accept_into(self, room: "SimpleQueue[None]", job: Job) -> None:
        """Queue *job* once there is room for it."""
        # Not empty while *job* has got room and is not in the queue. An interrupt strikes between
        # two calls, so an item goes from one hand to the other in a single one.
        hand: list[Any] = []
        try:
            self._wait_for_room(room, hand)
            if self._refusal is not None:
                raise self._refusal()
            if self.counting:
                self._expect_one()
            hand[0] = job
            deque(map(self.queue.put, islice(iter(hand.pop, None), 1)), 0)
        except BaseException:
            if hand:
                room.put(None)  # after shutdown, for the next one who waits, to hear the same
            raise

    def _wait_for_room(self, room: "SimpleQueue[None]", hand: list[Any]) -> None:
        try:
            hand.extend(islice(iter(room.get_nowait, hand), 1))
        except Empty:
            if threading.current_thread() in self._workers:
                msg = (
                    f"the executor is full (max_pending={self.setup.max_pending}), and a job that "
                    "waits for room in its own executor could wait for ever: submit from outside, "
                    "or to another executor"
                )
                raise PendingLimitError(msg) from None
            hand.extend(islice(iter(room.get, hand), 1))

    def refuse_if_closed(self) -> None:
        """Raise RuntimeError if the pool takes no more jobs."""
        if self._refusal is not None:
            raise self._refusal()

    def expect_to_take_over(self) -> None:
        """Be ready for `take_over`, which may be more than there is room for."""
        if self.setup.max_pending is not None:
            self.room = Room(self.setup.max_pending)

    def take_over(self, jobs: list[tuple[Job, float | None]]) -> None:
        """Take *jobs* that have been accepted before, each with when it is due, or None for now.

        No room is asked for, though it is counted. A pool that takes no more jobs leaves them.
        """
        for job, due in jobs:
            if self._refusal is not None:
                self._leave(job)
                continue
            if isinstance(self.room, Room):
                self.room.overdraw()
            if due is None or not self.timekeeper.ready():
                if self.counting:
                    self._expect_one()
                self.queue.put(job)
                if self._refusal is not None:
                    self.closing.look_for_the_end()
            elif not self.timekeeper.schedule(job, due) or job.done():
                self.came_late(job)
        with self.lock:
            if not self._workers:
                # Jobs that wait have a worker about, who sees to them when the pool is closed.
                self._expect(1)
                self._load -= 1

    def _leave(self, job: Job) -> None:
        error = ShutdownError("the executor was shut down before it took this job over")
        job._end(FINISHED, None, error, StopReason.SHUTDOWN)
        job._wind_up()

    def _withdraw(self, job: Job, refusal: Exception) -> None:
        """Refuse *job* after all, unless a worker has begun it."""
        with job._lock:
            if job._state != PENDING or job.attempts:
                return
            job._state = CANCELLED_AND_NOTIFIED
        job._let_go()
        self._count_out(job, cancelled=0)
        raise refusal

    def _expect_one(self) -> None:
        """Count a job about to be queued, and see to it that there is a worker for it."""
        with self.lock:
            failure = self._expect(1)
            alone = self.alive == 0
            if failure is not None and alone:
                self._load -= 1
        if failure is not None and alone:
            raise failure
        if failure is not None:
            logger.warning("cannot start another worker: %s", failure)

    def _release(self, jobs: deque[Job]) -> None:
        """Queue *jobs* whose wait is over, and take them off that list; lock held."""
        if self.counting:
            self._expect(len(jobs))
        while jobs:
            # Off the list first: who has run the job, and looks whether any waits, finds none.
            job = jobs.popleft()
            try:
                self.queue.put(job)
            except BaseException:
                jobs.appendleft(job)  # no memory; the next call sees to it
                raise

    def _expect(self, jobs: int) -> Exception | None:
        """Count *jobs* into the load, and start the workers they need; lock held.

        Returns:
            what kept a worker from starting: the others do the work, more slowly.
        """
        self._load += jobs
        while len(self._workers) < min(self._load, self.setup.max_workers):
            # A daemon where the exit is bounded: the interpreter joins all others without limit.
            daemon = self.setup.exit_timeout is not None
            worker = Worker(self, f"{self.name}_{len(self._workers)}", daemon=daemon)
            try:
                # Counted first, for a signal handler that strikes within start() and submits.
                self._workers.append(worker)
                worker.start()
            except BaseException as failure:
                # The thread may have started all the same; it will ask whether it is wanted.
                if worker in self._workers:
                    self._workers.remove(worker)
                if not isinstance(failure, Exception):
                    raise
                return failure
        if len(self._workers) == self.setup.max_workers:
            self.counting = self._at_rest is not None
        return None

    @property
    def alive(self) -> int:
        """How many workers have not ended."""
        return sum(not worker.gone for worker in self._workers)

    def wants(self, worker: Worker) -> bool:
        """Return whether *worker*, whose thread has just begun, counts as one."""
        with self.lock:  # held by whoever starts it
            return worker in self._workers

    def unload(self, jobs: int) -> None:
        """Count *jobs* as no longer queued or in hand."""
        with self.lock:
            self._load -= jobs
            if self._at_rest is not None:
                self._at_rest()

    def prepare(self) -> bool:
        """Run the user's initializer in a new worker; one that fails breaks the pool."""
        if self.setup.initializer is None:
            return True
        try:
            self.setup.initializer(*self.setup.initargs)
        except BaseException:
            with suppress(Exception):  # a log handler's
                stdlib_logger.critical("Exception in initializer:", exc_info=True)
            message = "A thread initializer failed, the thread pool is not usable anymore"
            self.broken = True
            self.closing.break_off(partial(BrokenThreadPool, message))
            return False
        return True

    # ---- out: what workers and cancelled futures tell

    def done_with(self, *, counted: bool) -> None:
        """Hear that a job, still *counted* as a load or not, has left a worker's hands."""
        if self.counting and counted:
            self.unload(1)
        if self.closed:
            self.closing.look_for_the_end()

    def about_to_end(self) -> bool:
        """Hear that a worker is about to end a job; return whether it counts as free from now.

        Not for a clock that waits for the pool, which must also wait for what comes of the end.
        """
        if self._at_rest is not None:
            return False
        self.unload(1)
        return True

    def call_back(self, job: Job) -> None:
        """Run the callbacks of *job*, which a free worker has ended, and now is not quite."""
        with self.lock:
            self._expect(1)  # a callback may wait for a job that took the worker for free
        try:
            job._run_callbacks()
        finally:
            self.unload(1)

    def make_room(self) -> None:
        """Let one more job in, if there is a limit."""
        if self.room is not None:
            self.room.put(None)

    def count_cancelled(self, job: Job) -> None:
        """Note that *job* was cancelled while it was queued or waiting; once, if told again."""
        self._count_out(job, cancelled=1)

    def _count_out(self, job: Job, *, cancelled: int) -> None:
        """Note that pending *job* has ended in no worker's hands."""
        with self.lock:
            if not job._counted:
                if job._due is None:
                    if not job._passed:
                        self.stale.add(job)
                else:
                    job._due = None
                    self.timekeeper.dead += 1
                # No call comes before the last line: to an interrupt this is one step.
                job._counted = True
                self._cancelled += cancelled
                if self.room is not None:
                    self.room.put(None)
            self.timekeeper.sweep()
            if len(self.stale) > _FEW and len(self.stale) * 2 > self.queue.qsize():
                self._sweep()
        if self.closed and not self.stopping:  # else whoever ends all will look
            self.closing.look_for_the_end()

    def _sweep(self) -> None:
        """Take cancelled jobs out of the queue, where nobody may come by for long; lock held."""
        taken, kept = count(), count()
        first = itemgetter(0)
        # Each item comes out in front and, if it is alive, goes in again behind: in one call, in
        # which neither an interrupt nor, but for a Python without its lock, a thread comes between.
        items = islice(iter(self.queue.get_nowait, _FEW), self.queue.qsize())
        alive = filterfalse(self.stale.__contains__, map(first, zip(items, taken, strict=False)))
        with suppress(Empty):
            deque(map(self.queue.put, map(first, zip(alive, kept, strict=False))), 0)
        self.stale.clear()
        if self.counting:
            self.unload(next(taken) - next(kept))

    def passed(self, job: Job) -> None:
        """Note that *job*, which may have been cancelled, is in the queue no more."""
        with self.lock:
            # Told before its end has been counted, too: a worker may be quicker than who cancels.
            job._passed = True
            self.stale.discard(job)

    def came_late(self, job: Job) -> None:
        """Hear that *job* was cancelled, or the timekeeper closed, when it came to wait there."""
        if self.timekeeper.discard(job):  # cancelled before it could be found there
            self.passed(job)
            if self.closed:
                self.closing.look_for_the_end()
        elif not job.done():
            self.closing.skip(job)

    # ---- for a clock that waits for the pool

    def next_due(self) -> float:
        """Return when the next job is due; infinity if none waits."""
        return self.timekeeper.next_due()

    def busy(self, asleep: Collection[Thread]) -> str | None:
        """Return what is due, queued or running, in words, or None; workers *asleep* rest."""
        if self.timekeeper.next_due() <= self.now():
            return f"a job of {self.name} is due"
        with self.lock:
            resting = [worker for worker in self._workers if worker in asleep]
            if len(resting) in (self._load, self.setup.max_workers):
                return None  # no job moves before they do
            jobs = [w.job for w in self._workers if w.job is not None and w not in resting]
        names = [name_of(what) for job in jobs if (what := job._submitted) is not None]
        return f"{self.name} is running {few(names)}"

    def poke(self) -> None:
        """Look at the clock again."""
        self.timekeeper.poke()

    # ---- how things are

    def stats(self) -> Stats:
        """Return where the jobs are."""
        since = (job._in_trouble().failed_at for job in self.timekeeper.waiting())
        return self.snapshot(oldest_wait=max(0.0, self.now() - min(since, default=math.inf)))

    def snapshot(self, oldest_wait: float = 0.0) -> Stats:
        """Return where the jobs are, without a look at every waiting one."""
        with self.lock:
            workers = self._workers
            return Stats(
                queued=self._queued(),
                running=sum(worker.job is not None for worker in workers),
                waiting=len(self.timekeeper),
                succeeded=sum(worker.succeeded for worker in workers),
                failed=sum(worker.failed for worker in workers) + self._all_abandoned(),
                cancelled=self._cancelled,
                attempts=sum(worker.succeeded + worker.failures for worker in workers),
                oldest_wait=oldest_wait,
            )

    def report(self) -> ShutdownReport:
        """Return what became of all jobs."""
        with self.lock:
            s = self.snapshot()
            abandoned = self._all_abandoned()
            return ShutdownReport(
                done=s.succeeded,
                failed=s.failed - abandoned,
                cancelled=s.cancelled,
                abandoned=abandoned,
                unfinished=s.queued + s.running + s.waiting,
            )

    def threads(self) -> list[Worker]:
        """Return the workers started so far."""
        with self.lock:
            return list(self._workers)

    def _queued(self) -> int:
        return max(0, self.queue.qsize() - len(self.stale) - self.words)

    def _all_abandoned(self) -> int:
        return sum(worker.abandoned for worker in self._workers) + self.closing.abandoned

    # ---- fork

    def heir(self) -> "Pool":
        """Return a pool like this one as it was made, and as closed, for a forked child."""
        heir = Pool(self.setup)
        if self._refusal is not None:
            heir.closing.close(self._refusal)
        return heir

    def abandon_after_fork(self) -> None:
        """In a forked child: fail the jobs, which only the parent can run."""
        self.forked = True
        jobs: deque[Job | None] = deque(worker.job for worker in self._workers)
        self.closing.drain(jobs)
        self.timekeeper.close(jobs)
        for job in (*jobs, *self.closing.held()):
            if job is not None:
                job._renew_after_fork()
