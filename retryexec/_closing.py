"""How a pool ends: its last word, the ends of the jobs still pending, and its workers' leave.

A job pending then is in the queue's hands or the timekeeper's; whoever ends it takes it from there
under the rule that every other hand-over goes by: first into the new hand, then out of the old.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from contextlib import suppress
from queue import Empty
from threading import Condition, Thread
from typing import Any, Protocol

from retryexec._clock import Clock
from retryexec._errors import ShutdownError
from retryexec._events import ShutdownReport
from retryexec._exceptions import report
from retryexec._outcome import StopReason, few, name_of
from retryexec._timekeeper import Job
from retryexec._worker import Employer, Worker, give_up

logger = logging.getLogger("retryexec")
_NOTHING = object()  # what is never in a queue


class Closable(Employer, Protocol):
    """What the closing has of its pool.

    The signs that every submit and every attempt looks at are the pool's; they are put up here.
    """

    name: str
    lock: Any  # reentrant; never taken, or held, around what is the user's
    alive: int  # how many workers have not ended
    stale: int  # cancelled jobs still in the queue
    # What submit raises, once it must: after shutdown, at exit, when broken. Written before a
    # None is put into the queue.
    _refusal: Callable[[], Exception] | None

    def threads(self) -> list[Worker]:
        """Return the workers started so far."""
        ...

    def make_room(self) -> None:
        """Let one more job in, if there is a limit."""
        ...

    def unload(self, jobs: int) -> None:
        """Count *jobs* as no longer queued or in hand."""
        ...

    def report(self) -> ShutdownReport:
        """Return what became of all jobs."""
        ...


class Closing:
    """Brings a pool to its end."""

    def __init__(self, pool: Closable, clock: Clock, exit_timeout: float | None) -> None:
        self._pool = pool
        self._clock = clock
        self._exit_timeout = exit_timeout
        # The pool's lock guards all below.
        # Notified when a worker ends.
        self._worker_ended = Condition(pool.lock)
        # How a job ends that is still pending, once no further attempt may start.
        self._end_pending: Callable[[Job], object] | None = None
        self._ending = 0  # how many threads hold pending jobs, to end them
        self.abandoned = 0  # while pending; workers count those they ended themselves
        self._leftovers: list[str] = []  # names of abandoned jobs, at interpreter exit

    # ---- the word

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Take no more jobs; `accept` raises what *refusal* makes. The first word stands."""
        # Without the lock: a finalizer may strike, and close, inside another pool's.
        first = self._pool._refusal is None
        if first:
            self._pool._refusal = refusal
            self._pool.closed = True
        # A later call may have to do what an interrupt kept the first one from.
        if first or self._pool.queue.empty():
            self._pool.queue.put(None)
            self._pool.make_room()

    def break_off(self, refusal: Callable[[], Exception]) -> None:
        """Take no more jobs, and end all pending ones with what *refusal* makes."""
        self.close(refusal)
        self.stop_attempts(lambda job: self.fail_pending(job, refusal()))

    # ---- the wait

    def shut_down(
        self, *, wait: bool, cancel_futures: bool, timeout: float | None
    ) -> ShutdownReport:
        """Do what `RetryingExecutor.shutdown` says."""
        if wait and threading.current_thread() in self._pool.threads():
            msg = (
                "shutdown(wait=True) inside a job of the same executor would wait for itself: "
                "call it from outside, or with wait=False"
            )
            raise RuntimeError(msg)
        self.close(after_shutdown)
        if cancel_futures:
            self.stop_attempts(Job.cancel)
        deadline = math.inf if timeout is None else self._pool.now() + timeout
        if wait:
            self._finish(deadline)
        elif timeout is not None:
            name = f"{self._pool.name}_shutdown"
            Thread(target=self._finish_alone, args=(deadline,), name=name).start()
        return self._pool.report()

    def _finish(self, deadline: float) -> None:
        """Wait until the workers have ended; at *deadline*, let no further attempt start."""
        with self._pool.lock:
            while self._pool.alive > 0 and self._pool.now() < deadline:
                self._clock.wait(self._worker_ended, deadline)
            in_time = self._pool.alive <= 0
        if not in_time:
            self.stop_attempts(self._abandon)
            return
        for worker in self._pool.threads():
            worker.join()
        self._pool.timekeeper.join()

    def _finish_alone(self, deadline: float) -> None:
        """Do as `_finish`, on a thread that nobody waits for."""
        try:
            self._finish(deadline)
        except BaseException:  # a callback's SystemExit, for one; all jobs have ended
            report("a callback failed while %s was shut down", self._pool.name)

    def exit_deadline(self) -> float:
        """Return when an exit of the interpreter that begins now will not wait any longer."""
        timeout = self._exit_timeout
        return math.inf if timeout is None else self._pool.now() + timeout

    def finish_at_exit(self, deadline: float) -> None:
        """Let everything accepted finish; at *deadline* stop there, and name the rest."""
        self._pool.silent = deadline < math.inf
        try:
            self._finish(deadline)
        except BaseException:  # a KeyboardInterrupt: they want out
            self._pool.silent = True
            self.stop_attempts(self._abandon)
            raise
        finally:
            self._name_leftovers()

    def _name_leftovers(self) -> None:
        """Log what the interpreter leaves undone, in one line."""
        jobs = [job for worker in self._pool.threads() if (job := worker.job) is not None]
        running = [name_of(what) for job in jobs if (what := job._submitted) is not None]
        if self._leftovers or running:
            timeout = self._exit_timeout
            when = "" if timeout is None else f" {timeout:g} s after its end began (exit_timeout)"
            logger.error(
                "the interpreter exits%s; jobs abandoned: %d (%s); cut off while running: %d (%s)",
                when,
                len(self._leftovers),
                few(self._leftovers),
                len(running),
                few(running),
            )

    # ---- the ends of pending jobs

    def stop_attempts(self, end: Callable[[Job], object]) -> None:
        """Start no further attempt: end all pending jobs by *end*, now or as they turn up."""
        with self._pool.lock:
            if self._end_pending is None:
                self._end_pending = end
            self._pool.stopping = True
            self._ending += 1  # until then no worker leaves, who might have to take over
        pending: deque[Job | None] = deque()
        try:
            # In this order, since the timekeeper hands on to the queue and closes for good.
            self._pool.timekeeper.close(pending)
            self.drain(pending)
            while pending:
                if (job := pending[0]) is not None:
                    self.skip(job)
                pending.popleft()  # only now: an interrupt in between loses nobody
        finally:
            # Left early by a KeyboardInterrupt or its like: the workers will see to the rest.
            self._pool.unload(-_jobs_in(pending))
            with self._pool.lock:
                for job in pending:
                    self._pool.queue.put(job)
                self._ending -= 1
            if self._pool.queue.empty():
                self._pool.queue.put(None)  # one may have gone with what was drained

    def drain(self, into: deque[Job | None]) -> None:
        """Take everything out of the queue."""
        before = _jobs_in(into)
        with suppress(Empty):
            # One call, which no interrupt divides: an item is always here or there.
            into.extend(iter(self._pool.queue.get_nowait, _NOTHING))
        self._pool.unload(_jobs_in(into) - before)

    def _abandon(self, job: Job) -> None:
        """End a pending *job* because the executor shuts down."""
        self.fail_pending(job, ShutdownError("the executor shut down before this job succeeded"))

    def fail_pending(self, job: Job, error: Exception) -> None:
        """End *job* with *error*, which comes from its last failure, if it is still pending."""
        taken = False
        try:
            with job._lock:
                if job._state != PENDING:
                    return
                taken = True
                job._state = RUNNING
            if self._pool.silent:
                self._leftovers.append(name_of(job._submitted))
            with self._pool.lock:
                self.abandoned += 1
            error.__cause__ = None if job._progress is None else job._progress.previous
            give_up(self._pool, job, error, StopReason.SHUTDOWN)
        finally:
            # A KeyboardInterrupt strikes between any two lines: nobody else has the job by now.
            if taken and job._end(FINISHED, None, error, StopReason.SHUTDOWN):
                job._let_go()
                job._run_callbacks()

    def skip(self, job: Job) -> None:
        """Pass over *job*, which has been cancelled, or ends now that attempts are over."""
        try:
            if self._end_pending is not None:
                self._end_pending(job)  # which runs callbacks
        finally:
            if job.cancelled():
                with self._pool.lock:
                    self._pool.stale -= 1

    # ---- the workers' leave

    def may_leave(self) -> bool:
        """Return whether a worker that has come upon a None is not needed any more.

        With nothing waiting and nothing queued, the jobs left are in the hands of other workers,
        each of whom will come here after its own.
        """
        # With the lock, so that nobody takes pending jobs, or gives them back, in between. And
        # in this order, in which jobs go: looking the other way round one could pass unseen.
        with self._pool.lock:
            return (
                self._pool._refusal is not None
                and not self._ending
                and self._pool.timekeeper.next_due() == math.inf
                and self._pool.queue.empty()  # else whoever takes what is left will look after that
            )

    def look_for_the_end(self) -> None:
        """After a job has ended in a closed pool: wake a worker if that was the last one."""
        if not self._pool.timekeeper and self._pool.queue.empty():
            self._pool.queue.put(None)

    def leave(self) -> None:
        """Count the calling worker out, and pass the word on to the next one."""
        self._pool.queue.put(None)
        with self._pool.lock:
            self._pool.alive -= 1
            if self._pool.alive == 0:
                self._pool.timekeeper.close()
            self._worker_ended.notify_all()


def _jobs_in(items: Collection[Job | None]) -> int:
    return sum(item is not None for item in items)


def after_shutdown() -> Exception:
    """Return what `submit` raises once the executor takes no more jobs."""
    return RuntimeError("cannot schedule new futures after shutdown")
