"""From record to outcome: jobs are submitted, and what becomes of each is accounted for."""

import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from retryexec import Retry, RetryFuture, RetryingExecutor, ShutdownError, StopReason
from retryexec.cli._failures import Failure, FailureFile
from retryexec.cli._progress import Progress
from retryexec.cli._records import BadRecord, Reader, Record
from retryexec.cli._summary import describe
from retryexec.cli._tally import Tally

if TYPE_CHECKING:  # it needs locks that not every system has
    from retryexec.cli._journaled import JournaledWork
    from retryexec.cli._resume import Resume

INTERRUPTED = "interrupted"
"""The reason of a job whose attempt was running when the command quit."""


class Work:
    """A record on its way: what the executor runs."""

    __slots__ = ("_began", "attempts", "record", "size")

    counts = True
    """Whether its outcome is one of this run's."""

    def __init__(self, record: Record, size: int) -> None:
        self.record = record
        self.size = size
        self.attempts = 0
        self._began = 0.0

    def exec(self) -> None:
        """Make one attempt."""
        if not self.attempts:
            self._began = time.monotonic()
        self.attempts += 1
        self.record.job.exec()

    @property
    def seconds(self) -> float:
        """Seconds since the first attempt began; 0 before it."""
        return time.monotonic() - self._began if self.attempts else 0.0


class Feed:
    """Feeds records to an executor, and accounts for each of them.

    Reading has a thread of its own: both the reader and a full executor make it wait, and
    somebody has to look after Ctrl-C meanwhile.

    Args:
        name: what to call INPUT in messages.
        reader: gives the records.
        strict: whether a bad record ends the reading.
        tally: counts the outcomes.
        progress: tells people what goes wrong.
        failures: gets what does not succeed; None if nobody wants it.
        resume: what earlier processes have done; None if the run is to end with this one.
    """

    def __init__(
        self,
        name: str,
        reader: Reader,
        *,
        strict: bool,
        tally: Tally,
        progress: Progress,
        failures: FailureFile | None,
        resume: "Resume | None" = None,
    ) -> None:
        self._name = name
        self._reader = reader
        self._strict = strict
        self._tally = tally
        self._progress = progress
        self._failures = failures
        self._resume = resume
        self._noted: set[str] = set()  # unknown names that somebody has been told of
        # Guards the five below, and is released before anything is done.
        self._lock = threading.Lock()
        self._outstanding: dict[int, Work | JournaledWork] = {}  # not resolved, by id
        # Lines that an earlier process had accepted, and of which nothing has been heard yet.
        self._awaited: set[int] = set() if resume is None else set(resume.waiting)
        self._accounting = 0  # resolved, and about to be counted and written down
        self._reading = True
        self._stopping = False
        # Set when nothing is left to read, to resolve or to account for.
        self._finished = threading.Event()
        self.error: str | None = None
        """What made the run stop from within: INPUT or the failures file gave out."""
        self.read_to: int | None = None
        """The last line that was read, if the lines after it were not."""

    def start(self, executor: RetryingExecutor) -> None:
        """Begin to read, and to submit to *executor*."""
        # A daemon, because a read from a pipe may never return, and cannot be interrupted.
        threading.Thread(
            target=self._read, args=(executor,), name="retryexec-input", daemon=True
        ).start()

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds* until every record is accounted for; return whether it is."""
        return self._finished.wait(seconds)

    @property
    def reading(self) -> bool:
        """Whether more records may come."""
        return self._reading

    @property
    def pending(self) -> int:
        """How many records have been submitted and are not accounted for."""
        with self._lock:
            return len(self._outstanding) + self._accounting + len(self._awaited)

    @property
    def awaited(self) -> set[int]:
        """Lines of recovered jobs that have not ended."""
        with self._lock:
            return set(self._awaited)

    def stop(self) -> None:
        """Submit nothing any more: what is read from now on counts as never started."""
        self._stopping = True

    def abandon(self) -> None:
        """Write down all that is outstanding, without waiting for the attempts that run."""
        with self._lock:
            outstanding = list(self._outstanding.values())
            self._outstanding.clear()
        for work in outstanding:
            self._left(work, INTERRUPTED if work.attempts else StopReason.SHUTDOWN, None)

    def retried(self, event: Retry) -> None:
        """Count an attempt that failed; the executor's `on_retry`."""
        # Never None here: only a policy with retry_on_result tries again without an error.
        text = describe(cast("BaseException", event.exception))
        self._tally.retried(text)
        if self._resume is not None:
            self._resume.ledger.failed_attempt(text)

    def recovered(self, event: Any) -> None:
        """See to a job of an earlier process that is about to end; `on_success`, `on_give_up`."""
        work: JournaledWork = event.job
        with self._lock:
            if id(work) in self._outstanding:
                return  # submitted here
            self._outstanding[id(work)] = work
            vars(work).setdefault("attempts", event.attempt)  # if none was made in this process
            if work.of_this_run:
                self._awaited.discard(work.line)
        event.future.add_done_callback(partial(self._ended, work))

    def leave(self, lines: set[int]) -> None:
        """Count recovered jobs, by line, as left: they are for the next process to run."""
        with self._lock:
            left = self._awaited & lines
            self._awaited -= left
        for _ in left:
            self._tally.left(1, 0)
        with self._lock:
            self._look_for_the_end()

    def bury(self, letters: "list[tuple[Record, Failure]]") -> None:
        """Account for recovered jobs that have died with their processes, and not in attempts."""
        for record, failure in letters:
            with self._lock:
                if record.line not in self._awaited:
                    continue
                self._awaited.discard(record.line)
                self._accounting += 1
            try:
                self._failed(record, failure, 0.0, 0)
            finally:
                with self._lock:
                    self._accounting -= 1
                    self._look_for_the_end()

    def _read(self, executor: RetryingExecutor) -> None:
        end = 0
        try:
            for item in self._reader:
                size, end = item.end - end, item.end
                if isinstance(item, Record):
                    self._note_unknown(item)
                    self._take(executor, item, size)
                else:
                    self._tally.bad(size)
                    self._progress.say(f"{self._name}:{item.line}: bad record: {item.reason}")
                # After a stop, going on only serves to write the rest into the failures file.
                # With a journal, that is for the next process to do.
                useless = self._stopping and (self._failures is None or self._resume is not None)
                if useless or (self._strict and isinstance(item, BadRecord)):
                    self.read_to = item.line
                    break
        except Exception as error:
            self.error = describe(error)
        finally:
            with self._lock:
                self._reading = False
                self._look_for_the_end()

    def _note_unknown(self, record: Record) -> None:
        for name in record.unknown:
            if name not in self._noted:
                self._noted.add(name)
                self._progress.say(
                    f"{self._name}:{record.line}: note: {type(record.job).__name__} has no field "
                    f"{name!r}; it is left out from here on (--forbid-unknown refuses it)"
                )

    def _take(self, executor: RetryingExecutor, record: Record, size: int) -> None:
        """Submit a record, unless an earlier process has."""
        if self._resume is None:
            self._submit(executor, Work(record, size))
            return
        fate = self._resume.fate(record.line)
        if fate is False:
            self._submit(executor, self._resume.work(record, size))
            return
        self._tally.passed(size)
        # What a killed process has written there may be a line short, and is overwritten.
        if isinstance(fate, Failure) and self._failures is not None:
            self._failures.write(record, fate)

    def _submit(self, executor: RetryingExecutor, work: "Work | JournaledWork") -> None:
        if not self._stopping:
            with self._lock:
                self._outstanding[id(work)] = work
            try:
                future = executor.submit(work)  # waits while the executor is full
            except RuntimeError:
                with self._lock:
                    self._outstanding.pop(id(work), None)
                if not self._stopping:
                    raise
            else:
                future.add_done_callback(partial(self._ended, work))
                return
        self._left(work, StopReason.SHUTDOWN, None)

    def _ended(self, work: "Work | JournaledWork", future: Future[Any]) -> None:
        with self._lock:
            if self._outstanding.pop(id(work), None) is None:
                return  # abandoned: it has been written down
            self._accounting += 1
        try:
            self._account(work, cast("RetryFuture[Any]", future))
        except Exception as error:
            self.error = describe(error)
        finally:
            with self._lock:
                self._accounting -= 1
                self._look_for_the_end()

    def _account(self, work: "Work | JournaledWork", future: RetryFuture[Any]) -> None:
        line, attempts, seconds = work.record.line, future.attempts, work.seconds
        error = future.exception()
        if not work.counts:
            return
        if error is None:
            self._tally.succeeded(line, attempts, seconds, work.size)
            return
        reason = future.stop_reason
        if reason is StopReason.SHUTDOWN:
            cause = error.__cause__ if isinstance(error, ShutdownError) else error
            self._left(work, reason, describe(cause) if cause else None)
            return
        failure = Failure(str(reason), attempts, describe(error), line)
        self._failed(work.record, failure, seconds, work.size)

    def _failed(self, record: Record, failure: Failure, seconds: float, size: int) -> None:
        """Account for a record that has failed for good."""
        line, attempts, text = failure.line, failure.attempts, failure.error or failure.reason
        self._tally.failed(line, attempts, seconds, size, text)
        if self._resume is not None:
            self._resume.ledger.failed_attempt(text)
            self._resume.gave_up(failure, seconds)
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        self._progress.say(f"{self._name}:{line}: failed after {tries} ({failure.reason}): {text}")
        if self._failures is not None:
            self._failures.write(record, failure)

    def _left(self, work: "Work | JournaledWork", reason: str, error: str | None) -> None:
        self._tally.left(work.attempts, work.size)
        if self._failures is not None and self._resume is None:
            failure = Failure(str(reason), work.attempts, error, work.record.line)
            self._failures.write(work.record, failure)

    def _look_for_the_end(self) -> None:
        """With _lock held: tell whoever waits if nothing more is to come."""
        if not (self._reading or self._outstanding or self._accounting or self._awaited):
            self._finished.set()
