"""The pool behind an executor: the unfinished jobs, their queue, and the workers.

The way of a job: submit → queue → worker → policy → (timekeeper → queue → …)* → its end.

`unfinished` is the set of accepted jobs that have not ended. A job joins it first thing in
`accept`; whoever ends the job removes it, and counts it. Adding to and removing from a set is one
C call on objects hashed by identity, so neither a thread nor a signal handler comes in between. All
else follows from that set: how many jobs there are, whether there is room for one more, what a
shutdown or a fork has to end, and when the workers may exit.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from typing import TYPE_CHECKING, Any, TypeAlias

from retryexec._core.control import Control
from retryexec._core.controlled import ControlledJob
from retryexec._core.job import Job
from retryexec._core.room import Room
from retryexec._core.settings import Setup
from retryexec._core.shutdown import Shutdown
from retryexec._core.signals import Resuming, in_one_call
from retryexec._core.steering import Steering
from retryexec._core.timekeeper import Timekeeper
from retryexec._core.worker import Worker
from retryexec._errors import ShutdownError
from retryexec._exceptions import report
from retryexec._outcome import name_of, summarize_names

if TYPE_CHECKING:
    from retryexec._core.away import AwayQueue, Runner

logger = logging.getLogger("retryexec")
stdlib_logger = logging.getLogger("concurrent.futures")

# Below this many, ended jobs in the queue are not worth a sweep.
SWEEP_MIN = 64

AnyJob: TypeAlias = Job[Any]


class Pool:
    """Runs jobs on worker threads until each has ended."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.name = setup.thread_name_prefix
        self.now = setup.clock.now
        self.broken = False  # True once an initializer has failed
        self.forked = False  # True in a child of the process this pool works in
        # What submit raises, once it must: after shutdown, at exit, when broken. Written before a
        # sentinel is queued, and never taken back.
        self.refusal: Callable[[], Exception] | None = None
        self.stopping = False  # True once no further attempt may start
        self.halted = False  # True if so, and during a pause
        # The accepted jobs that have not ended.
        self.unfinished: set[AnyJob] = set()
        # Jobs ready to run. None is a sentinel: a worker that gets it resumes interrupted jobs and
        # checks whether to exit. A cancelled job stays here until a worker gets it, or a sweep.
        self.queue: SimpleQueue[AnyJob | None] | AwayQueue
        # Queues a sentinel. It is C code, so that an interrupt cannot keep it from being queued.
        self.wake_worker: Callable[[], None]
        # Where attempts run, if not on the workers.
        self.runner: Runner | None = None
        self._make_worker: type[Worker] = Worker
        if setup.make_runner is None:
            self.queue = queue = SimpleQueue[AnyJob | None]()
            self.wake_worker = partial(queue.put, None)
        else:
            from retryexec._core import away  # which few executors need

            self._make_worker = away.AwayWorker
            self.runner = runner = setup.make_runner()
            self.queue = away.AwayQueue(runner.size(), runner.isolation)
            self.wake_worker = self.queue.wake
        # Jobs that a thread was accepting or ending when an interrupt struck. A worker goes on with
        # them when it gets a sentinel. None stands for all that are unfinished.
        self.interrupted: deque[AnyJob | None] = deque()
        # Guards all below, and the timekeeper's due queue. A job that just succeeds does not take
        # it: threads that meet at a lock pass it, and the GIL, back and forth. Released before user
        # code runs. Reentrant, because a signal handler or a finalizer may run while this
        # thread holds it, and submit or cancel.
        self.lock = RLock()
        self._workers: list[Worker] = []  # all that were started
        self.growing = True  # False once all workers have been started
        self.cancelled = 0  # jobs that were
        self.abandoned = 0  # while pending; workers count those they ended themselves
        most = setup.max_pending
        self.room = None if most is None else Room(self, most)
        # A clock that tests move waits until the pool is at rest, and is told when it is.
        self._tell_rest = setup.clock.attach(self)
        self.watched = self._tell_rest is not None
        self.control = Control(self)
        self.steering = Steering(self)
        # Called by the last worker to exit, or by shutdown if there is none, with the seconds it
        # may take; None for no limit.
        self.on_drained: Callable[[float | None], object] | None = None
        self.logged_types: set[type] = set()  # see JobSettings
        self.shutdown = Shutdown(self)
        self.timekeeper: Timekeeper[AnyJob] = Timekeeper(
            setup.clock,
            self.lock,
            self._release,
            name=f"{setup.thread_name_prefix}_timekeeper",
            daemon=setup.exit_timeout is not None,
        )

    # ---- in: jobs come from submit, from a journal, and from the timekeeper

    def accept(self, job: AnyJob, control: Control | None = None) -> None:
        """Take *job*; block while `max_pending` jobs are unfinished.

        Args:
            control: puts a `ControlledJob` in its place; None for any other job, which is queued.

        Raises:
            RuntimeError: the pool takes no more jobs, or not from this thread.
        """
        if self.refusal is not None:
            raise self.refusal()
        try:
            if self.room is None:
                self.unfinished.add(job)
            elif control is None or not control.place_by_replacing(job):
                self.room.add(job)
            # Only now: close() sets `refusal` before a worker looks whether any job is unfinished.
            # So either a worker stays to run this one, or we see `refusal` here.
            if self.refusal is not None:
                if job.withdraw():
                    raise self.refusal()
                # It has replaced another, perhaps after all that were pending have been ended.
                if self.stopping:
                    self.interrupted.append(job)
                    self.shutdown.resume_interrupted()
            if self.growing:
                self._grow_or_raise()
            if control is None:
                self.queue.put(job)
            else:
                control.place(job)
        except BaseException:  # an interrupt, or a refusal, or no worker could be started
            try:  # for a second interrupt
                self.interrupted.append(job)
                job.withdraw()
            finally:
                self.wake_worker()
            raise

    def enqueue(self, job: AnyJob, due: float | None = None) -> bool:
        """Queue the pending *job*, or let it wait until *due*; return whether it waits."""
        if due is not None and self.let_wait(job, due):
            return True
        self.queue.put(job)
        if self.growing:
            with self.lock:
                self.grow()
        return False

    def let_wait(self, job: AnyJob, due: float) -> bool:
        """Let the pending *job* wait until *due*; return False if that cannot be."""
        keeper = self.timekeeper
        if not (keeper.ready() and job.wait_until(due, keeper.add)):
            return False
        keeper.added(job, due)
        return True

    def end_wait(self, job: AnyJob) -> bool:
        """Take *job* out of the due queue; return False if it does not wait there."""
        with self.lock:
            return self.timekeeper.discard(job)

    def resuming(self, job: AnyJob | None) -> Resuming:
        """Return what lets a worker go on with *job* if an interrupt strikes in a ``with`` block.

        None stands for all unfinished jobs.
        """
        return Resuming(self.interrupted, job, self.wake_worker)

    def take_over(self, jobs: Sequence[tuple[AnyJob, float | None]]) -> None:
        """Take *jobs* that were accepted before, each with when it is due, or None; room or not."""
        for job, _ in jobs:
            self.unfinished.add(job)
        if self.refusal is not None:  # looked at only now, as in `accept`
            for job, _ in jobs:
                job.expire(ShutdownError("the executor was shut down before it took this job over"))
                job.resume_end()
            return
        self.start_taken_over(jobs)

    def start_taken_over(self, jobs: Sequence[tuple[AnyJob, float | None]]) -> None:
        """Queue *jobs*, which are among the unfinished, or let them wait."""
        for job, due in jobs:
            if isinstance(job, ControlledJob):
                self.control.place(job, due, taken_over=True)
            elif due is None:
                self.queue.put(job)
            else:
                self.enqueue(job, due)
        with self.lock:
            self.grow(at_least=1)  # even if all of them wait: one worker, to get the sentinel

    def _release(self, due: deque[AnyJob]) -> None:
        """Queue the jobs that have come due, taking each off that list."""
        while due:
            job = due[0]
            self.queue.put(job)
            if self.control.used and self.queue.qsize() > SWEEP_MIN:
                self.control.note_due(job)
            due.popleft()
        if self.growing:
            with self.lock:
                self.grow()

    # ---- workers

    def _grow_or_raise(self) -> None:
        """Start a worker if need be; raise what prevents it if there is none at all."""
        with self.lock:
            failure = self.grow()
            alone = not self.alive
        if failure is not None and alone:
            raise failure
        if failure is not None:
            logger.warning("cannot start another worker: %s", failure)

    def grow(self, at_least: int = 0) -> Exception | None:
        """Start the workers that the load needs; lock held.

        Returns:
            what kept a worker from starting: the others do the work, more slowly.
        """
        most = self.setup.max_workers
        while len(self._workers) < min(max(self._needed(), at_least), most):
            # Daemon threads if exit_timeout is set: the interpreter joins others without limit.
            daemon = self.setup.exit_timeout is not None
            worker = self._make_worker(self, f"{self.name}_{len(self._workers)}", daemon=daemon)
            try:
                # Listed before it starts: a signal handler that submits in start() must count it.
                self._workers.append(worker)
                worker.start()
            except BaseException as failure:
                # The thread may have started all the same; it will ask whether it is registered.
                if worker in self._workers:
                    self._workers.remove(worker)
                if not isinstance(failure, Exception):
                    raise
                return failure
        self.growing = len(self._workers) < most
        return None

    def _needed(self) -> int:
        """Return how many workers are needed; lock held."""
        if self.runner is None:
            return self._load()
        # Attempts that are away need none, and one is enough to send and receive them.
        return bool(self.unfinished) + sum(worker.finishing for worker in self._workers)

    def _load(self) -> int:
        """Return how many jobs do not wait, with those that still run callbacks; lock held."""
        finishing = sum(worker.finishing for worker in self._workers)
        held = len(self.control.parked) + len(self.steering.set_aside)
        return len(self.unfinished) - len(self.timekeeper) - held + finishing

    @property
    def alive(self) -> int:
        """How many workers have not exited."""
        return sum(not worker.exited for worker in self._workers)

    def threads(self) -> list[Worker]:
        """Return the workers started so far."""
        with self.lock:
            return list(self._workers)

    def is_registered(self, worker: Worker) -> bool:
        """Return whether *worker*, whose thread has just begun, is one of the pool's."""
        with self.lock:  # held by whoever starts it
            return worker in self._workers

    def initialize_worker(self) -> bool:
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
            try:
                self.shutdown.fail_all(partial(BrokenThreadPool, message))
            except BaseException:  # a callback's SystemExit, for one
                report("a callback failed as %s was found broken", self.name)
            self.shutdown.resume_interrupted()  # for which there may be no other worker
            return False
        return True

    def wake_if_drained(self) -> None:
        """Wake a worker if the pool is closed and all jobs have ended."""
        if self.refusal is not None and not self.unfinished:
            self.wake_worker()

    # ---- out

    def remove(self, job: AnyJob, cancelled: bool) -> None:
        """Remove *job*, which no worker was running when it ended, and count it, once."""
        with self.lock:
            replaced = self.control.used and job.superseded_by is not None
            # The wait of one that was replaced goes on: it is that of the newer job.
            if job.due is not None and not replaced:
                self.timekeeper.discard(job)
            if job in self.unfinished:
                if replaced:
                    self.control.superseded += 1  # and cancelled just after that
                elif cancelled:
                    self.cancelled += 1
                else:
                    self.abandoned += 1
                # There is no call between the count and this, so no interrupt comes in between.
                self.unfinished.remove(job)
        if self.steering.set_aside:
            self.steering.give_up_seat(job)
        if self.queue.qsize() > SWEEP_MIN:
            self._sweep()
        if self.room is not None or (self.refusal is not None and not self.unfinished):
            self.after_removal()

    def after_removal(self) -> None:
        """Wake those who wait for room, or for all jobs to end: a job has been removed."""
        if self.room is not None:
            self.room.tell()
        if self.refusal is not None:
            self.wake_if_drained()

    def _sweep(self) -> None:
        """Drop ended jobs from the queue if they are the majority there.

        The workers may all be busy, and not get to them for a long time.
        """
        size = self.queue.qsize()
        if size < 2 * (len(self.unfinished) - len(self.timekeeper)):
            return
        if not isinstance(self.queue, SimpleQueue):
            self.queue.sweep(self.unfinished)
            return
        items = islice(iter(self.queue.get_nowait, self), size)
        with self.lock, self.resuming(None), suppress(Empty):
            # Each item is taken from the front and, if it is unfinished, put in again at the end.
            if not self.control.superseded:
                in_one_call(map(self.queue.put, filter(self.unfinished.__contains__, items)))
            else:
                for job in items:  # a job may stand there for the one that has replaced it
                    newest = job if job is None else job.superseded_by or job
                    if isinstance(newest, Job) and newest in self.unfinished:
                        self.queue.put(newest)
        self.wake_worker()  # instead of the sentinels that were dropped, too

    def empty_queue(self) -> None:
        """Empty the queue, once no further attempt may start; `unfinished` has the jobs."""
        with suppress(Empty):
            in_one_call(iter(self.queue.get_nowait, self))

    def at_rest(self) -> None:
        """Tell a clock that waits for the pool that a worker may be idle now."""
        if self._tell_rest is not None:
            self._tell_rest()

    # ---- for a clock that waits for the pool

    def next_due(self) -> float:
        """Return when the next job is due; infinity if none waits."""
        return self.timekeeper.next_due()

    def busy(self, asleep: Collection[Thread]) -> str | None:
        """Describe what is due, queued or running, or return None; workers *asleep* are idle."""
        if self.timekeeper.next_due() <= self.now():
            return f"a job of {self.name} is due"
        with self.lock:
            resting = [worker for worker in self._workers if worker in asleep]
            if len(resting) in (self._load(), self.setup.max_workers):
                return None  # no job goes on before they wake up
            jobs = [w.job for w in self._workers if w.job is not None and w not in resting]
        jobs += self.away()
        names = [name_of(what) for job in jobs if (what := job.submitted) is not None]
        return f"{self.name} is running {summarize_names(names)}"

    def recheck(self) -> None:
        """Look at the clock again."""
        self.timekeeper.recheck()

    # ---- what runs

    def running(self) -> list[AnyJob]:
        """Return the jobs that workers run, or have sent away."""
        jobs = [job for worker in self.threads() if (job := worker.job) is not None]
        return jobs + [job for job in self.away() if job not in jobs]

    def away(self) -> list[AnyJob]:
        """Return the jobs of which an attempt runs elsewhere."""
        return [] if isinstance(self.queue, SimpleQueue) else self.queue.away()

    # ---- fork

    def for_forked_child(self) -> "Pool":
        """Return a new pool with this one's settings, closed if this one is, for a forked child."""
        pool = Pool(self.setup)
        if self.refusal is not None:
            pool.shutdown.close(self.refusal)
        return pool

    def abandon_after_fork(self) -> None:
        """In a forked child: fail the jobs, which only the parent can run."""
        self.forked = True
        for job in list(self.unfinished):
            job.renew_after_fork()
        self.unfinished.clear()
