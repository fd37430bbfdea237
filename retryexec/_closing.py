"""How a pool ends: its last word, the ends of the jobs still pending, and its workers' leave.

Much of this is done in the main thread, where a KeyboardInterrupt may strike at every call. So
that it costs no job its end, whatever is still to be done lies where a worker finds it, in which
no interrupt strikes: jobs go from hand to hand in a single call, and each step may be done twice.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from contextlib import suppress
from queue import Empty
from threading import Condition
from typing import Any, Protocol

from retryexec._clock import Clock
from retryexec._errors import ShutdownError
from retryexec._events import ShutdownReport
from retryexec._exceptions import report
from retryexec._outcome import StopReason, few, name_of
from retryexec._timekeeper import Job
from retryexec._worker import Employer, Startable, Worker, give_up

logger = logging.getLogger("retryexec")
_NOTHING = object()  # what is never in a queue


class Closable(Employer, Protocol):
    """What the closing has of its pool.

    The signs that every submit and every attempt looks at are the pool's; they are put up here.
    """

    name: str
    lock: Any  # reentrant; never taken, or held, around what is the user's
    words: int  # how many None are in the queue
    at_the_end: Callable[[], object] | None  # called when no worker is left
    # What submit raises, once it must: after shutdown, at exit, when broken. Written before a
    # None is put into the queue.
    _refusal: Callable[[], Exception] | None

    @property
    def alive(self) -> int:
        """How many workers have not ended."""
        ...

    def threads(self) -> list[Worker]:
        """Return the workers started so far."""
        ...

    def make_room(self) -> None:
        """Let one more job in, if there is a limit."""
        ...

    def passed(self, job: Job) -> None:
        """Note that *job*, which has ended, is not in the queue any more."""
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
        # Jobs taken from the queue and the timekeeper to be ended so.
        self._pending: deque[Job | None] = deque()
        # One item for each thread that is about to do so, or else the workers do.
        self._enders: deque[object] = deque()
        # Jobs that have ended but for what their thread still had to do, when it was interrupted.
        self.orphans: deque[Job] = deque()
        self.abandoned = 0  # while pending; workers count those they ended themselves
        self._leftovers: list[str] = []  # names of abandoned jobs, at interpreter exit

    # ---- the word

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Take no more jobs; `accept` raises what *refusal* makes. The first word stands."""
        # Without the lock: a finalizer may strike, and close, inside another pool's.
        if self._pool._refusal is None:
            self._pool._refusal = refusal
            self._pool.closed = True
        # Each time: a later call may have to do what an interrupt kept the first one from.
        self._pool.words += 1
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
            Startable(target=self._finish_alone, args=(deadline,), name=name).start()
        return self._pool.report()

    def _finish(self, deadline: float) -> None:
        """Wait until the workers have ended; at *deadline*, let no further attempt start."""
        self.find_orphans()
        with self._pool.lock:
            while self._pool.alive > 0 and self._pool.now() < deadline:
                self._clock.wait(self._worker_ended, deadline)
            in_time = self._pool.alive <= 0
        if not in_time:
            self.stop_attempts(self._abandon)
            for worker in self._pool.threads():
                if worker.job is None:  # the others' attempts run on
                    worker.join()
            return
        for worker in self._pool.threads():
            worker.join()
        self._pool.timekeeper.join()
        if not self._pool.threads():
            self._end_it_all()  # since there was never a worker to do it

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
                "the interpreter exits%s; jobs %s: %d (%s); cut off while running: %d (%s)",
                when,
                "abandoned" if self._pool.at_the_end is None else "left in the journal",
                len(self._leftovers),
                few(self._leftovers),
                len(running),
                few(running),
            )

    # ---- the ends of pending jobs

    def stop_attempts(self, end: Callable[[Job], object]) -> None:
        """Start no further attempt: end all pending jobs by *end*, now or as they turn up."""
        me = object()
        try:
            with self._pool.lock:
                if self._end_pending is None:
                    self._end_pending = end
                self._pool.stopping = True
                self._enders.append(me)  # until then no worker leaves, who might have to take over
            self._end_all()
        finally:
            # If not all have ended, for an interrupt, or what a callback raised, a worker goes on.
            if me in self._enders:
                self._enders.remove(me)
            self._say_word()
            self.find_orphans()

    def _end_all(self) -> None:
        """End all pending jobs, or what is left of them after an interrupt."""
        # In this order, since the timekeeper hands on to the queue and closes for good.
        self._pool.timekeeper.close(self._pending)
        self.drain(self._pending)
        with suppress(IndexError):  # another thread may be at it, too
            while self._pending:
                job = self._pending[0]
                if job is not None:
                    self.skip(job)
                try:  # noqa: SIM105  a suppress for each of a million takes half a second
                    self._pending.remove(job)  # only now: an interrupt in between loses nobody
                except ValueError:
                    pass

    def held(self) -> list[Job]:
        """Return the jobs that a fork finds in here."""
        return [job for job in (*self._pending, *self.orphans) if job is not None]

    def find_orphans(self) -> None:
        """See to it that somebody goes on where an interrupt has struck."""
        if self.orphans and self._pool.alive:
            self._say_word()
        elif self.orphans:
            self._adopt()

    def _adopt(self) -> None:
        """Do what is left to do for jobs that have ended."""
        with suppress(IndexError):
            while self.orphans:
                job = self.orphans[0]
                fate = None if job._progress is None else job._progress.fate
                if fate is not None:
                    self._count_abandoned(job)
                    job._end(FINISHED, None, fate, StopReason.SHUTDOWN)
                job._wind_up(again=True)
                with suppress(ValueError):
                    self.orphans.remove(job)

    def _go_on(self) -> None:
        """In a worker, do what an interrupt has kept another thread from doing."""
        while self.orphans or (self._pool.stopping and not self._enders):
            try:
                self._adopt()
                if self._pool.stopping:
                    self._end_all()
                    break
            except BaseException:  # a callback's SystemExit, for one
                report("a callback failed while %s was shut down", self._pool.name)

    def drain(self, into: deque[Job | None]) -> None:
        """Take everything out of the queue."""
        before = len(into)
        with suppress(Empty):
            # One call, which no interrupt divides: an item is always here or there.
            into.extend(iter(self._pool.queue.get_nowait, _NOTHING))
        taken = list(into)[before:]
        with self._pool.lock:
            self._pool.words -= taken.count(None)
        self._pool.unload(len(taken) - taken.count(None))

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
                progress = job._in_trouble()
                progress.fate, error.__cause__ = error, progress.previous
                job._state = RUNNING
                taken = True
            self._count_abandoned(job)
            give_up(self._pool, job, error, StopReason.SHUTDOWN)
        except BaseException:
            # An interrupt has struck, or a callback has raised.
            if taken:
                self.orphans.append(job)  # in one step: no second one loses it
            raise

    def _count_abandoned(self, job: Job) -> None:
        """Count *job*, which ends with its `fate`; once, if told again."""
        with self._pool.lock:
            if job._counted:
                return
            submitted = job._submitted
            if self._pool.silent and submitted is not None:
                name = name_of(submitted)
                self._leftovers.append(name)
            job._counted = True
            self.abandoned += 1
            if self._pool.room is not None:
                self._pool.room.put(None)

    def skip(self, job: Job) -> None:
        """Pass over *job*, which has been cancelled, or ends now that attempts are over."""
        try:
            if self._end_pending is not None:
                self._end_pending(job)  # which runs callbacks
        finally:
            self._pool.passed(job)

    # ---- the workers' leave

    def may_leave(self) -> bool:
        """Return whether a worker that has come upon a None is not needed any more.

        With nothing waiting and nothing queued, the jobs left are in the hands of other workers,
        each of whom will come here after its own.
        """
        # With the lock, so that nobody takes pending jobs, or gives them back, in between. And
        # in this order, in which jobs go: looking the other way round one could pass unseen.
        with self._pool.lock:
            self._pool.words -= 1
        self._go_on()
        with self._pool.lock:
            return (
                self._pool._refusal is not None
                and not (self._enders or self._pending or self.orphans)
                and self._pool.timekeeper.next_due() == math.inf
                and self._pool.queue.empty()  # else whoever takes what is left will look after that
            )

    def look_for_the_end(self) -> None:
        """After a job has ended in a closed pool: wake a worker if that was the last one."""
        if not self._pool.timekeeper and self._pool.queue.empty():
            self._say_word()

    def _say_word(self) -> None:
        """Make a worker look whether it may leave, or has to go on for somebody else."""
        with self._pool.lock:
            self._pool.words += 1
            self._pool.queue.put(None)

    def leave(self, worker: Worker) -> None:
        """Count *worker* out, and pass the word on to the next one."""
        self._say_word()
        with self._pool.lock:
            worker.gone = True
            if not self._pool.alive:
                self._pool.timekeeper.close()
            self._worker_ended.notify_all()
        if not self._pool.alive:
            self._go_on()
            self._end_it_all()

    def _end_it_all(self) -> None:
        """Do what is to be done once no worker is left."""
        if self._pool.at_the_end is not None:
            try:
                self._pool.at_the_end()
            except Exception:
                report("%s could not be ended in order", self._pool.name)


def after_shutdown() -> Exception:
    """Return what `submit` raises once the executor takes no more jobs."""
    return RuntimeError("cannot schedule new futures after shutdown")
