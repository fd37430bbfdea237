"""Shutdown: refuse new jobs, end the pending ones, stop the workers.

Much of this runs in the main thread, where an interrupt may come between any two calls. No job is
lost by that: those that are still to be ended are put into `Pool.interrupted`, for the workers.
"""

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from operator import methodcaller
from threading import Condition
from typing import TYPE_CHECKING, Any

from retryexec._core.counts import report as report_on
from retryexec._core.counts import snapshot
from retryexec._core.job import Job
from retryexec._core.signals import StartableThread
from retryexec._core.worker import give_up
from retryexec._errors import ExecutorShutdownError, ShutdownError
from retryexec._events import ShutdownReport
from retryexec._exceptions import report
from retryexec._outcome import StopReason, name_of, summarize_names

if TYPE_CHECKING:
    from retryexec._core.pool import Pool
    from retryexec._core.worker import Worker

logger = logging.getLogger("retryexec")


class Shutdown:
    """Brings a pool to its end."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._clock = pool.setup.clock
        # The pool's lock guards all below.
        # Notified when a worker exits.
        self._worker_exited = Condition(pool.lock)
        # How a job ends that is still pending, once no further attempt may start.
        self._end_pending: Callable[[Job[Any]], object] | None = None
        # Whether that has been done. Jobs unfinished after that are in their last attempt.
        self._pending_ended = False
        # Until when `on_drained`, called by the last worker, may take.
        self._deadline = math.inf
        # True at an exit with exit_timeout: one line names all abandoned jobs, and no other does.
        self.silent = False
        self._leftovers: list[str] = []  # their names

    # ---- closing

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Take no more jobs; `accept` raises what *refusal* makes. The first call decides that."""
        pool = self._pool
        # Without the lock: a finalizer may run, and close, while this thread holds another pool's.
        if pool.refusal is None:
            pool.refusal = refusal
        # At every call: an interrupt may have kept the first one from doing it.
        pool.wake_worker()
        if pool.room is not None:
            pool.room.close()

    def fail_all(self, refusal: Callable[[], Exception]) -> None:
        """Take no more jobs, and end all pending ones with what *refusal* makes."""
        self.close(refusal)
        self.stop_attempts(lambda job: self._abandon(job, refusal()))

    # ---- waiting

    def shut_down(
        self, *, wait: bool, cancel_futures: bool, timeout: float | None
    ) -> ShutdownReport:
        """Do what `RetryingExecutor.shutdown` says."""
        pool = self._pool
        if wait and threading.current_thread() in pool.threads():
            msg = (
                "shutdown(wait=True) inside a job of the same executor would wait for itself: "
                "call it from outside, or with wait=False"
            )
            raise RuntimeError(msg)
        self.close(after_shutdown)
        pool.steering.resume()  # else its jobs would never end
        if cancel_futures:
            # A running attempt is its job's last anyway, and that job fails for the shutdown.
            self.stop_attempts(methodcaller("cancel", or_request=False))
        deadline = math.inf if timeout is None else pool.now() + timeout
        if wait:
            self._finish(deadline)
        elif not pool.threads() and not pool.unfinished:
            self._on_drained()  # no worker will
        elif timeout is not None:
            name = f"{pool.name}_shutdown"
            StartableThread(self._finish_alone, name=name, args=(deadline,)).start()
        return report_on(pool)

    def _finish(self, deadline: float) -> None:
        """Wait until the workers have exited; at *deadline*, let no further attempt start."""
        pool = self._pool
        pool.steering.resume()
        with pool.lock:
            pool.grow()  # an interrupt may have kept the first job from starting one
            self._deadline = min(self._deadline, deadline)
            while pool.alive > 0 and pool.now() < deadline:
                self._clock.wait(self._worker_exited, deadline)
            in_time = pool.alive <= 0
        if not in_time:
            self.stop_attempts(self._abandon_unfinished)
            for worker in pool.threads():
                if worker.job is None and not pool.away():  # the others' attempts run on
                    worker.join()
            return
        for worker in pool.threads():
            worker.join()
        pool.timekeeper.join()
        self._resume_interrupted()  # for which there may have been no worker any more
        if not pool.threads():
            self._on_drained()  # since there was never a worker to do it

    def _finish_alone(self, deadline: float) -> None:
        """Do as `_finish`, on a thread that nobody waits for."""
        try:
            self._finish(deadline)
        except BaseException:  # a callback's SystemExit, for one; all jobs have ended
            report("a callback failed while %s was shut down", self._pool.name)

    def exit_deadline(self) -> float:
        """Return until when an exit of the interpreter that begins now waits for jobs."""
        timeout = self._pool.setup.exit_timeout
        return math.inf if timeout is None else self._pool.now() + timeout

    def finish_at_exit(self, deadline: float) -> None:
        """Let everything accepted finish; at *deadline* stop there, and name the rest."""
        self.silent = deadline < math.inf
        try:
            self._finish(deadline)
        except BaseException:  # a KeyboardInterrupt: the user does not want to wait
            self.silent = True
            self.stop_attempts(self._abandon_unfinished)
            raise
        finally:
            self._name_leftovers()
            if self.silent and self._pool.runner is not None:
                self._pool.runner.kill()

    def log_wait(self) -> None:
        """Log what an interrupted program waits for, if it waits for anything."""
        pool = self._pool
        s = snapshot(pool)
        if not pool.unfinished:
            return
        due_in = pool.next_due() - pool.now()
        when = f", the next one in {max(0.0, due_in):.3g} s" if math.isfinite(due_in) else ""
        logger.warning(
            "interrupted, and waiting for the jobs of %s: %d running, %d queued, %d between two "
            "attempts%s. shutdown(cancel_futures=True), shutdown(timeout=) and exit_timeout= wait "
            "for less.",
            pool.name,
            s.running,
            s.queued,
            s.waiting,
            when,
        )

    def _name_leftovers(self) -> None:
        """Log the names of the jobs that the interpreter's exit abandons, in one line."""
        jobs = self._pool.running()
        running = [name_of(what) for job in jobs if (what := job.submitted) is not None]
        if self._leftovers or running:
            timeout = self._pool.setup.exit_timeout
            when = "" if timeout is None else f" {timeout:g} s after its end began (exit_timeout)"
            logger.error(
                "the interpreter exits%s; jobs %s: %d (%s); cut off while running: %d (%s)",
                when,
                "abandoned" if self._pool.on_drained is None else "left in the journal",
                len(self._leftovers),
                summarize_names(self._leftovers),
                len(running),
                summarize_names(running),
            )

    # ---- ending what is pending

    def stop_attempts(self, end: Callable[[Job[Any]], object]) -> None:
        """Start no further attempt: end all pending jobs by *end*, in this thread.

        A running attempt is its job's last. The first call decides how jobs end.
        """
        pool = self._pool
        try:
            with pool.lock:
                self._end_pending = end = self._end_pending or end
                # From now on no job becomes pending again, and workers begin none.
                pool.stopping = pool.halted = True
            pool.timekeeper.close()
            pool.empty_queue()
            for job in list(pool.unfinished):
                end(job)
            self._pending_ended = True
        except BaseException:  # an interrupt, or what a callback has raised
            pool.interrupted.append(None)  # not each of them, which would be more than one step
            raise
        finally:
            pool.wake_worker()

    def _abandon_unfinished(self, job: Job[Any]) -> None:
        self._abandon(job, ShutdownError("the executor shut down before this job succeeded"))

    def _abandon(self, job: Job[Any], error: Exception) -> None:
        """End *job* with *error*, which comes from its last failure, if it is still pending."""
        submitted = job.submitted
        try:
            if job.expire(error):
                if self.silent and submitted is not None:
                    self._leftovers.append(name_of(submitted))
                give_up(self._pool, job, error, StopReason.SHUTDOWN)
        except BaseException:  # an interrupt, or what a callback has raised
            self._pool.interrupted.append(job)
            raise

    # ---- for workers

    def should_exit(self) -> bool:
        """In a worker that got a sentinel: resume interrupted jobs; return whether to exit.

        Once the pool is closed, no job comes any more; and if all are to end that are not running,
        other workers have what is left.
        """
        self.resume_interrupted()
        pool = self._pool
        # Attempts that are away come back to a worker, so one stays until there are none.
        others_have_it = self._pending_ended and pool.runner is None
        return pool.refusal is not None and (not pool.unfinished or others_have_it)

    def resume_interrupted(self) -> None:
        """In a worker, go on with all jobs that an interrupt has stranded, whatever that raises."""
        while self._pool.interrupted:
            try:
                self._resume_interrupted()
            except BaseException:  # a callback's SystemExit, for one
                report("a callback failed after an interrupt of %s", self._pool.name)

    def _resume_interrupted(self) -> None:
        """Go on with all interrupted jobs; several threads may do so at once."""
        interrupted = self._pool.interrupted
        with suppress(IndexError):  # another thread was quicker
            while interrupted:
                job = interrupted[0]
                for each in list(self._pool.unfinished) if job is None else [job]:
                    try:
                        self._resume(each)
                    except Exception:  # the journal's, for one; it would come again and again
                        report("a job of %s could not be ended in order", self._pool.name)
                if job is None:  # an interrupted `stop_attempts`, whose work is done now
                    self._pending_ended = self._pool.stopping
                with suppress(ValueError):
                    interrupted.remove(job)  # last, since this thread may be interrupted, too

    def _resume(self, job: Job[Any]) -> None:
        """Go on with *job* where an interrupt kept another thread from accepting or ending it."""
        pool = self._pool
        if self._end_pending is not None:
            self._end_pending(job)
        pool.timekeeper.recheck()
        if not job.resume_end() and job in pool.unfinished:
            pool.queue.put(job)  # perhaps a second time, but Job.begin succeeds only once

    def worker_exited(self, worker: "Worker") -> None:
        """Note that *worker* exits, and wake the next one."""
        pool = self._pool
        pool.wake_worker()
        with pool.lock:
            worker.exited = True
            last = not pool.alive
            if last:
                pool.timekeeper.close()
            self._worker_exited.notify_all()
        if last:
            if pool.runner is not None:
                pool.runner.close()
            self._on_drained()

    def _on_drained(self) -> None:
        """Call `Pool.on_drained`, once all jobs have ended and no worker is left."""
        if self._pool.on_drained is not None:
            left = self._deadline - self._pool.now()
            try:
                self._pool.on_drained(None if left == math.inf else max(0.0, left))
            except Exception:
                report("%s could not be ended in order", self._pool.name)


def after_shutdown() -> Exception:
    """Return what `submit` raises once the executor takes no more jobs."""
    return ExecutorShutdownError("cannot schedule new futures after shutdown")
