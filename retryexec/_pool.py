"""The pool behind an executor: one queue, its workers, and the counts of what became of jobs.

A job goes one way round: submit → queue → worker → policy → (timekeeper → queue →)* → future.
Every job accepted is, until it ends, in exactly one of three hands: the queue's, a worker's or
the timekeeper's. Shutdown rests on that.
"""

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from concurrent.futures.thread import BrokenThreadPool
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Condition, RLock, Thread
from typing import Any

from retryexec._clock import Clock
from retryexec._errors import PendingLimitError, ShutdownError
from retryexec._events import GiveUp, Retry, ShutdownReport, Stats, StopReason, name_of
from retryexec._future import Unread
from retryexec._policy import Terms, decide
from retryexec._timekeeper import Job, Timekeeper

logger = logging.getLogger("retryexec")
stdlib_logger = logging.getLogger("concurrent.futures")

NOTE_PREFIX = "retryexec: "
"""How the note begins that a final exception carries."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a pool is built from, and built anew from in a forked child."""

    max_workers: int
    thread_name_prefix: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_pending: int | None
    on_retry: Callable[[Retry], object] | None
    on_give_up: Callable[[GiveUp], object] | None
    exit_timeout: float | None
    clock: Clock


@dataclass(frozen=True, slots=True)
class JobTerms(Terms):
    """The terms of a job that belongs to a pool."""

    pool: "Pool"


class Worker(Thread):
    """A thread of the pool, and the job in its hand."""

    def __init__(self, pool: "Pool", name: str) -> None:
        # A daemon where the exit is bounded: the interpreter joins all others without limit.
        super().__init__(name=name, daemon=pool.setup.exit_timeout is not None)
        self.pool = pool
        self.job: Job | None = None
        # What it has done, written by this thread alone.
        self.succeeded = 0
        self.failures = 0  # attempts that did not succeed
        self.failed = 0
        self.abandoned = 0

    def run(self) -> None:
        self.pool.work(self)


class Pool:
    """Runs jobs on worker threads until each has ended."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.forked = False  # True in a child of the process this pool works in
        self._now = setup.clock.now
        # Ready jobs, and None to make a worker look whether it may end.
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        # Guards all below, and the timekeeper's heap. Not taken on the way of a job that just
        # succeeds, since threads that meet at a lock hand it, and the GIL, to and fro for good.
        # Released before anything of the user's runs; reentrant, because a signal handler or a
        # finalizer may strike while this thread is in here, and submit or cancel.
        self.lock = RLock()
        # Notified when a worker ends.
        self._worker_ended = Condition(self.lock)
        self._workers: list[Worker] = []  # all that were started
        self._alive = 0  # how many of them have not ended
        self._cancelled = 0
        self._abandoned_elsewhere = 0  # ended by a thread that is no worker, in a shutdown
        self._stale = 0  # cancelled jobs still in the queue
        # Jobs queued or in hand: while there may be more workers, each job that makes it exceed
        # their number starts one. Once all have been started nobody counts any more, but for a
        # clock that moves only when the pool is at rest: that one attaches itself.
        self._load = 0
        self._counting = True
        attach: Callable[[Pool], Callable[[], None]] | None = getattr(setup.clock, "attach", None)
        self._at_rest = None if attach is None else attach(self)
        # What submit raises, once it must: after shutdown, at exit, when broken. Written before
        # a None is put into the queue.
        self._refusal: Callable[[], Exception] | None = None
        # How a job ends that is still pending, once no further attempt may start.
        self._end_pending: Callable[[Job], object] | None = None
        self._leftovers: list[str] | None = None  # names of abandoned jobs, at interpreter exit
        # One None for each job that there is room for, if max_pending is set.
        self._room: SimpleQueue[None] | None = None
        if setup.max_pending is not None:
            self._room = SimpleQueue()
            for _ in range(setup.max_pending):
                self._room.put(None)
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
        if self._refusal is None and self._room is not None:
            self._wait_for_room(self._room)
        if self._refusal is not None:
            raise self._refusal()
        if self._counting:
            with self.lock:
                self._expect(1)
        self._queue.put(job)
        # Whoever refuses writes so before putting a None behind all jobs. Either this one is in
        # front of it and will be run, or this look comes after the word.
        if self._refusal is not None:
            self._withdraw(job)

    def _wait_for_room(self, room: "SimpleQueue[None]") -> None:
        try:
            room.get_nowait()
        except Empty:
            if threading.current_thread() in self._workers:
                msg = (
                    f"the executor is full (max_pending={self.setup.max_pending}), and a job that "
                    "waits for room in its own executor could wait for ever: submit from outside, "
                    "or to another executor"
                )
                raise PendingLimitError(msg) from None
            room.get()
        if self._refusal is not None:
            room.put(None)  # for the next one who waits, to hear the same

    def _withdraw(self, job: Job) -> None:
        """Refuse *job* after all, unless a worker has begun it."""
        if job._end(CANCELLED_AND_NOTIFIED, reason=StopReason.SHUTDOWN, count=self._count_back):
            assert self._refusal is not None
            raise self._refusal()

    def _release(self, jobs: list[Job]) -> None:
        """Queue *jobs* whose wait is over."""
        with self.lock:
            if self._counting:
                self._expect(len(jobs))
            for job in jobs:
                self._queue.put(job)

    def _expect(self, jobs: int) -> None:
        """Count *jobs* about to be queued, and start the workers they need; lock held."""
        wanted = min(self._load + jobs, self.setup.max_workers)
        while len(self._workers) < wanted:
            worker = Worker(self, f"{self.setup.thread_name_prefix}_{len(self._workers)}")
            try:
                worker.start()
            except RuntimeError:
                if not self._alive:
                    raise
                # The others do the work, more slowly; the next job tries again.
                logger.warning("cannot start worker %s", worker.name, exc_info=True)
                break
            self._workers.append(worker)
            self._alive += 1
        self._load += jobs
        if len(self._workers) == self.setup.max_workers:
            self._counting = self._at_rest is not None

    def _unload(self, jobs: int) -> None:
        """Count *jobs* as no longer queued or in hand."""
        with self.lock:
            self._load -= jobs
            if self._load == 0 and self._at_rest is not None:
                self._at_rest()

    # ---- the workers

    def work(self, worker: Worker) -> None:
        """Run jobs until the pool is closed and no more are to come; a worker thread's life."""
        if not self._initialize():
            self._leave()
            return
        get, put = self._queue.get, self._queue.put
        while True:
            job = get()
            if job is None:
                if self._may_leave():
                    self._leave()
                    return
                continue
            worker.job = job
            again = False
            try:
                again = self._attempt(worker, job)
            except BaseException as error:  # noqa: BLE001  the job must end and the worker go on
                self._rescue(worker, job, error)
            if again:
                put(job)
            # Nothing here may outlive the job, in this frame least of all: it sleeps in get().
            worker.job = job = None
            if self._counting and not again:
                self._unload(1)
            if self._refusal is not None and not again:
                self._look_for_the_end()

    def _attempt(self, worker: Worker, job: Job) -> bool:
        """Run one attempt of *job*; return whether it goes back into the queue at once."""
        # Not "with", here and where the job succeeds: a third of what those few lines cost.
        lock = job._lock
        lock.acquire()
        if job._state != PENDING or self._end_pending is not None:
            lock.release()
            self._skip(job)
            return False
        job._state = RUNNING
        lock.release()
        policy = job._terms.policy
        now = self._now()
        if job.attempts and job._too_late(policy, now):
            self._give_up(job, job._previous, StopReason.MAX_ELAPSED, worker)
            return False
        job._begin_attempt(now)
        _, call, args, kwargs, context = job._work
        # A fresh copy for each attempt: what one sets, the next does not see.
        context = context.copy()
        raised: BaseException | None = None
        try:
            value = context.run(call, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001  all of them are the future's to tell
            value, raised = None, error
            _trim(error)
        else:
            if policy.retry_on_result is None:
                call = args = kwargs = context = None
                self._succeed(worker, job, value)
                return False
        call = args = kwargs = None
        try:
            return self._judge(worker, job, context, raised, value)
        finally:
            # The frames of a traceback lead back to this one: it must not lead to the job.
            del job, context, raised, value

    def _skip(self, job: Job) -> None:
        """Pass over *job*, which has been cancelled, or ends now that attempts are over."""
        end = self._end_pending
        if end is not None:
            end(job)
        if job.cancelled():
            with self.lock:
                self._stale -= 1

    def _judge(
        self,
        worker: Worker,
        job: Job,
        context: Context,
        raised: BaseException | None,
        value: Any,
    ) -> bool:
        """Act on what an attempt raised or returned; return whether *job* is queued again."""
        now = self._now()
        job._failed(raised, now)
        exception, delay, reason = decide(job._terms.policy, job, raised, value, now)
        if reason is StopReason.SUCCEEDED:
            job._unrecorded = False
            self._succeed(worker, job, value)
            return False
        job._previous, job._refused = exception, value
        if delay is not None:
            hook = self.setup.on_retry
            if hook is not None and not job._cancel_requested:
                self._tell(hook, Retry(job.attempts, exception, delay, job._work[0], job), context)
            due = None if delay == 0.0 else now + delay
            worker.failures += 1
            reason = self._put_off(job, due)
            if reason is None:
                return due is None
        else:
            worker.failures += 1
        assert reason is not None  # it was there instead of a delay, or why that cannot be
        self._give_up(job, exception, reason, worker, context)
        return False

    def _put_off(self, job: Job, due: float | None) -> StopReason | None:
        """Make *job* pending until *due*, or for the queue if None; return why not, or None."""
        exception = job._previous
        traceback = None if exception is None else exception.__traceback__
        with job._lock:
            if job._cancel_requested:
                return StopReason.CANCELLED
            # Once the lock is released another worker may have the job.
            _drop_tracebacks(exception)
            if due is None or self.timekeeper.schedule(job, due):
                job._state = PENDING
                return None
        if exception is not None:
            exception.__traceback__ = traceback
        return StopReason.SHUTDOWN

    # ---- out: every job ends here, by success, by failure or by being cancelled

    # Counts are kept by each worker for itself, and written before the future ends: whoever has
    # seen the end finds it counted.

    def _succeed(self, worker: Worker, job: Job, value: Any) -> None:
        worker.succeeded += 1
        worker.job = None
        if self._room is not None:
            self._room.put(None)
        job._succeed(value)

    def _give_up(
        self,
        job: Job,
        exception: BaseException | None,
        reason: StopReason,
        worker: Worker | None = None,
        context: Context | None = None,
    ) -> None:
        """End *job*, in the hands of this thread, with *exception* or the value it refused."""
        setup, value, work = self.setup, job._refused, job._work
        elapsed = self._now() - job._began if job.attempts else 0.0
        attempts = f"{job.attempts} attempt{'' if job.attempts == 1 else 's'}"
        note = f"gave up after {attempts} over {elapsed:.3f} s: {reason}"
        if exception is not None:
            _annotate(exception, NOTE_PREFIX + note)
        try:
            if setup.on_give_up is not None:
                event = GiveUp(job.attempts, exception, reason, work[0], job)
                self._tell(setup.on_give_up, event, context or work[-1].copy())
                del event
            elif setup.on_retry is None and exception is not None and self._leftovers is None:
                job._unread = Unread(name_of(work[0]), exception, note)
        finally:
            context = work = None
            job._let_go()
            if worker is None:
                with self.lock:
                    self._abandoned_elsewhere += 1
            else:
                worker.job = None
                if reason is StopReason.SHUTDOWN:
                    worker.abandoned += 1
                else:
                    worker.failed += 1
            if self._room is not None:
                self._room.put(None)
            job._end(FINISHED, value, exception, reason)

    def count_cancelled(self, job: Job) -> None:
        """Note that *job* was cancelled while it was queued or waiting."""
        with self.lock:
            self._cancelled += 1
        self._count_back(job)

    def _count_back(self, job: Job) -> None:
        """Note that pending *job* has ended in no worker's hands."""
        waited = self.timekeeper.discard(job)
        with self.lock:
            self._stale += not waited
        if self._room is not None:
            self._room.put(None)
        if self._refusal is not None:
            self._look_for_the_end()

    def _rescue(self, worker: Worker, job: Job, error: BaseException) -> None:
        """End *job* all the same, when *error* came from anywhere but its attempt."""
        logger.critical("%s, running a job, met an error", self._name, exc_info=error)
        if job.done():
            return  # the error came from a callback, and the job has ended
        exception = job._previous if job._unrecorded else error
        self._give_up(job, exception, StopReason.NOT_RETRIABLE, worker)

    def _tell(self, hook: Callable[[Any], object], event: Retry | GiveUp, context: Context) -> None:
        """Call the user's *hook*; what it raises costs the job nothing."""
        try:
            context.run(hook, event)
        except Exception:
            kind = "on_retry" if isinstance(event, Retry) else "on_give_up"
            logger.exception("%s failed for %s; the job goes on", kind, name_of(event.job))

    # ---- the end of the pool

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Take no more jobs; `accept` raises what *refusal* makes. The first word stands."""
        with self.lock:
            if self._refusal is None:
                self._refusal = refusal
        self._queue.put(None)
        if self._room is not None:
            self._room.put(None)

    def shut_down(
        self, *, wait: bool, cancel_futures: bool, timeout: float | None
    ) -> ShutdownReport:
        """Do what `RetryingExecutor.shutdown` says."""
        if wait and threading.current_thread() in self._workers:
            msg = (
                "shutdown(wait=True) inside a job of the same executor would wait for itself: "
                "call it from outside, or with wait=False"
            )
            raise RuntimeError(msg)
        self.close(after_shutdown)
        if cancel_futures:
            self._stop_attempts(Job.cancel)
        deadline = math.inf if timeout is None else self._now() + timeout
        if wait:
            self._finish(deadline)
        elif timeout is not None:
            Thread(target=self._finish, args=(deadline,), name=f"{self._name}_shutdown").start()
        return self.report()

    def _finish(self, deadline: float) -> None:
        """Wait until the workers have ended; at *deadline*, let no further attempt start."""
        with self.lock:
            while self._alive and self._now() < deadline:
                self.setup.clock.wait(self._worker_ended, deadline)
            in_time = not self._alive
        if not in_time:
            self._stop_attempts(self._abandon)
            return
        for thread in self._workers:
            thread.join()
        self.timekeeper.join()

    def finish_at_exit(self) -> None:
        """Let everything accepted finish; with `exit_timeout`, stop there and name the rest."""
        timeout = self.setup.exit_timeout
        if timeout is None:
            self._finish(math.inf)
            return
        self._leftovers = []
        self._finish(self._now() + timeout)
        running = [
            name_of(job._work[0]) for w in self._workers if (job := w.job) and not job.done()
        ]
        if self._leftovers or running:
            logger.error(
                "the interpreter exits %g s after its end began (exit_timeout), with %d jobs "
                "abandoned (%s) and %d cut off while running (%s)",
                timeout,
                len(self._leftovers),
                _few(self._leftovers),
                len(running),
                _few(running),
            )

    def _stop_attempts(self, end: Callable[[Job], object]) -> None:
        """Start no further attempt: end all pending jobs by *end*, now or as they turn up."""
        with self.lock:
            if self._end_pending is None:
                self._end_pending = end
            end = self._end_pending
        # In this order, since the timekeeper hands on to the queue and closes for good.
        pending = deque(self.timekeeper.close())
        pending.extendleft(reversed(self._drain()))
        try:
            while pending:
                end(pending.popleft())
        finally:
            # Left early by a KeyboardInterrupt or its like: the workers will see to the rest.
            for job in pending:
                self._queue.put(job)
            if self._refusal is not None:
                self._queue.put(None)  # one may have gone with what was drained

    def _drain(self) -> list[Job]:
        """Take everything out of the queue."""
        jobs = []
        try:
            while True:
                if (job := self._queue.get_nowait()) is not None:
                    jobs.append(job)
        except Empty:
            pass
        self._unload(len(jobs))
        return jobs

    def _abandon(self, job: Job) -> None:
        """End a pending *job* because the executor shuts down."""
        self._fail_pending(job, ShutdownError("the executor shut down before this job succeeded"))

    def _fail_pending(self, job: Job, error: Exception) -> None:
        with self.lock:
            if job._state != PENDING:
                return  # cancelled, a moment ago
            job._state = RUNNING
        if self._leftovers is not None:
            self._leftovers.append(name_of(job._work[0]))
        error.__cause__ = job._previous
        self._give_up(job, error, StopReason.SHUTDOWN)

    def _initialize(self) -> bool:
        """Run the user's initializer in a new worker; one that fails breaks the pool."""
        if self.setup.initializer is None:
            return True
        try:
            self.setup.initializer(*self.setup.initargs)
        except BaseException:
            stdlib_logger.critical("Exception in initializer:", exc_info=True)
            message = "A thread initializer failed, the thread pool is not usable anymore"
            self.close(partial(BrokenThreadPool, message))
            self._stop_attempts(lambda job: self._fail_pending(job, BrokenThreadPool(message)))
            return False
        return True

    def _may_leave(self) -> bool:
        """Return whether a worker that has come upon a None is not needed any more.

        With nothing waiting and nothing queued, the jobs left are in the hands of other workers,
        each of whom will come here after its own.
        """
        return (
            self._refusal is not None
            and self._queue.empty()  # else whoever takes what is left will look after that
            and self.timekeeper.next_due() == math.inf
        )

    def _look_for_the_end(self) -> None:
        """After a job has ended in a closed pool: wake a worker if that was the last one."""
        if self._queue.empty() and not self.timekeeper:
            self._queue.put(None)

    def _leave(self) -> None:
        """Count the calling worker out, and pass the word on to the next one."""
        self._queue.put(None)
        with self.lock:
            self._alive -= 1
            if self._alive == 0:
                self.timekeeper.close()
            self._worker_ended.notify_all()

    # ---- for a clock that waits for the pool

    def next_due(self) -> float:
        """Return when the next job is due; infinity if none waits."""
        return self.timekeeper.next_due()

    def busy(self, asleep: Collection[Thread]) -> str | None:
        """Return what is due, queued or running, in words, or None; workers *asleep* rest."""
        if self.timekeeper.next_due() <= self._now():
            return f"a job of {self._name} is due"
        with self.lock:
            resting = [worker for worker in self._workers if worker in asleep]
            if self._load <= len(resting):
                return None
            jobs = [w.job for w in self._workers if w.job is not None and w not in resting]
        return f"{self._name} is running {_few([name_of(job._work[0]) for job in jobs])}"

    def poke(self) -> None:
        """Look at the clock again."""
        self.timekeeper.poke()

    # ---- how things are

    @property
    def stopping(self) -> bool:
        """Whether no further attempt will start."""
        return self._end_pending is not None

    @property
    def _name(self) -> str:
        return self.setup.thread_name_prefix

    def stats(self) -> Stats:
        """Return where the jobs are."""
        oldest = self.timekeeper.longest_waiting()
        wait = 0.0 if oldest is None else self._now() - oldest._started - oldest._seconds
        return self.snapshot(oldest_wait=max(0.0, wait))

    def snapshot(self, oldest_wait: float = 0.0) -> Stats:
        """Return where the jobs are, without a look at every waiting one."""
        with self.lock:
            workers = self._workers
            return Stats(
                queued=self._queued(),
                running=sum(worker.job is not None for worker in workers),
                waiting=len(self.timekeeper),
                succeeded=sum(worker.succeeded for worker in workers),
                failed=sum(worker.failed for worker in workers) + self._abandoned(),
                cancelled=self._cancelled,
                attempts=sum(worker.succeeded + worker.failures for worker in workers),
                oldest_wait=oldest_wait,
            )

    def report(self) -> ShutdownReport:
        """Return what became of all jobs."""
        with self.lock:
            s = self.snapshot()
            abandoned = self._abandoned()
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
        if self._refusal is None:
            return max(0, self._queue.qsize() - self._stale)
        # One None is about from then on, and the last worker leaves it behind.
        return max(0, self._queue.qsize() - self._stale - 1) if self._alive else 0

    def _abandoned(self) -> int:
        return sum(worker.abandoned for worker in self._workers) + self._abandoned_elsewhere

    # ---- fork

    def heir(self) -> "Pool":
        """Return a pool like this one as it was made, for a forked child."""
        return Pool(self.setup)

    def abandon_after_fork(self) -> None:
        """In a forked child: fail the jobs, which only the parent can run. No user code runs."""
        self.forked = True
        jobs = self._drain() + self.timekeeper.close()
        jobs += [worker.job for worker in self._workers if worker.job is not None]
        for job in jobs:
            if not job.done():
                job._fail_after_fork()


def after_shutdown() -> Exception:
    """Return what `submit` raises once the executor takes no more jobs."""
    return RuntimeError("cannot schedule new futures after shutdown")


def _trim(error: BaseException) -> None:
    """Take the frame of the pool off *error*'s traceback: nobody reads it to find us."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


def _drop_tracebacks(exception: BaseException | None) -> None:
    """Let go of the tracebacks of *exception* and of those it came from.

    They keep the variables of every frame alive, for as long as the job waits; and an exception
    that is raised again would add its new traceback to the old one.
    """
    seen = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        exception.__traceback__ = None
        exception = exception.__cause__ or exception.__context__


def _annotate(exception: BaseException, note: str) -> None:
    """Give *exception* our note (PEP 678), instead of one it may have from an earlier job."""
    try:
        notes = getattr(exception, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [n for n in notes if not str(n).startswith(NOTE_PREFIX)]
        exception.add_note(note)
    except Exception:
        logger.debug("cannot add a note to %s", type(exception).__name__, exc_info=True)


def _few(names: list[str]) -> str:
    """Return *names* for a line of log: how often each, the commonest first, at most ten."""
    counted = Counter(names).most_common()
    words = [name if n == 1 else f"{n} × {name}" for name, n in counted[:10]]
    return ", ".join(words + ["…"] * (len(counted) > 10)) or "none"
