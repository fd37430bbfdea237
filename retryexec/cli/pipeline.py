"""From record to outcome: jobs are submitted, and what becomes of each is accounted for."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Any, cast

from retryexec import (
    Retry,
    RetryFuture,
    RetryingExecutor,
    ShutdownError,
    StopReason,
)
from retryexec.cli.checkpoint import CRASHES, MOST_DEATHS, Checkpoint
from retryexec.cli.jsonl import FailuresFile
from retryexec.cli.options import UsageError
from retryexec.cli.output import clean, counted, describe
from retryexec.cli.records import NOT_UTF8, BadRecord, BlankRow, FailedRecord, Reader, Record
from retryexec.cli.stats import RunStats
from retryexec.cli.timeline import Timeline
from retryexec.cli.work import Admission, Work

INTERRUPTED = "interrupted"
"""The reason of a job whose attempt was running when the command quit."""


class Pipeline:
    """Takes records to an executor, and accounts for each of them.

    Reading has a thread of its own: both the reader and a full executor make it wait, and
    somebody has to look after Ctrl-C meanwhile.

    Args:
        name: what to call INPUT in messages.
        reader: gives the records.
        strict: whether a bad record ends the reading.
        limit: how many records to run at most; None for all.
        key: gives a record its key; None for one without.
        latest: whether a record replaces an earlier one of its key that waits.
        ahead: how many records to submit ahead of those that have started; None for few.
        stats: counts the outcomes.
        say: tells people what goes wrong.
        workers: how many attempts run at a time.
        failures: gets what does not succeed; None if nobody wants it.
        checkpoint: knows what earlier processes have done, and learns what this one does; None
            if the run is to end with this process.
        timeline: is told what happens when; None if nobody wants to know.
    """

    def __init__(
        self,
        name: str,
        reader: Reader,
        *,
        stats: RunStats,
        say: Callable[[str], None],
        strict: bool = False,
        limit: int | None = None,
        key: Callable[[Record], Hashable] = lambda _: None,
        latest: bool = False,
        ahead: int | None = None,
        workers: int = 1,
        failures: FailuresFile | None = None,
        checkpoint: Checkpoint | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self._name = name
        self._timeline = timeline
        self._reader = reader
        self._strict = strict
        self._limit = limit
        self._stats = stats
        self._say = say
        self._failures = failures
        self._checkpoint = checkpoint
        self._key = key
        self._admission = Admission(workers, ahead)
        self._noted = False  # whether somebody was told of unknown names
        self._hinted = False  # whether somebody was told of other encodings
        # Guards the five below, and is released before anything is done.
        self._lock = threading.Lock()
        self._outstanding: set[Work] = set()  # submitted, not resolved
        # Of these, by key, in their order, if the latest one of a key may stand for the others.
        self._of_key: dict[Hashable, list[Work]] | None = {} if latest else None
        self._accounting = 0  # resolved, and about to be counted and written down
        self._reading = True
        self._stopping = False
        # Set when nothing is left to read, to resolve or to account for.
        self._finished = threading.Event()
        self.error: str | None = None
        """What made the run stop from within: INPUT or the failures file gave out."""
        self.usage_error: UsageError | None = None
        """What is wrong with INPUT as a whole, found before any job has run."""
        self.read_to: int | None = None
        """The last line that was read, if the lines after it were not."""
        self.limited = False
        """Whether reading ended since as many records were run as asked for."""
        self.records_read = 0
        """Records read so far, bad ones included."""
        self.bytes_read = 0
        """Bytes of the records read so far."""
        self.unknown: dict[str, None] = {}
        """Names in records that the dataclass does not have, in the order they came."""

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
            return len(self._outstanding) + self._accounting

    def stop(self) -> None:
        """Submit nothing any more: what is read from now on counts as never started."""
        self._stopping = True
        self._admission.stop()

    def abandon(self) -> int:
        """Write down all that is outstanding, without waiting for the attempts that run.

        Returns:
            How many records that were.
        """
        with self._lock:
            outstanding = list(self._outstanding)
            self._outstanding.clear()
        for work in outstanding:
            self._leave(work, INTERRUPTED if work.attempts else StopReason.SHUTDOWN, None)
        return len(outstanding)

    def retried(self, event: Retry) -> None:
        """Count an attempt that failed; the executor's `on_retry`."""
        # Never None here: only a policy with retry_on_result tries again without an error.
        self._stats.count_retry(describe(cast("BaseException", event.exception)))
        if self._timeline is not None:
            self._timeline.retried(event.job.record.line, event.delay)
        if self._checkpoint is not None:
            self._checkpoint.mark_waiting(event.job.record.line, event.attempt)

    # ---- in the reader's thread

    def _read(self, executor: RetryingExecutor) -> None:
        ran = 0
        try:
            for item in self._reader:
                self.bytes_read = item.end
                if isinstance(item, BlankRow):
                    self._stats.count_blank()
                    continue
                self.records_read += 1
                if isinstance(item, BadRecord):
                    self._report_bad(item)
                else:
                    self._note_unknown(item)
                    ran += self._take(executor, item)
                # After a stop, going on only serves to write the rest into the failures file.
                # A checkpoint makes that needless: the rest is for the next time.
                useless = self._stopping and (
                    self._failures is None or self._checkpoint is not None
                )
                self.limited = ran == self._limit
                if useless or self.limited or (self._strict and isinstance(item, BadRecord)):
                    self.read_to = item.line
                    break
        except UsageError as error:
            self.usage_error = error
        except BaseException as error:
            self.error = describe(error)
        finally:
            with self._lock:
                self._reading = False
                self._finish_if_all_is_done()

    def _report_bad(self, bad: BadRecord) -> None:
        self._stats.count_bad()
        self._say(f"{self._name}:{bad.line}: bad record: {bad.reason}")
        if bad.reason.startswith(NOT_UTF8) and not self._hinted:
            self._hinted = True
            self._say(f"{self._name}: note: --encoding names another encoding, as cp1252 or utf-16")

    def _note_unknown(self, record: Record) -> None:
        if not record.unknown:
            return
        if len(self.unknown) < 10_000:
            self.unknown.update(dict.fromkeys(record.unknown))
        if self._noted:
            return
        self._noted = True
        names = ", ".join(clean(repr(name)) for name in record.unknown[:3])
        if len(record.unknown) > 3:
            names += f" and {len(record.unknown) - 3:,} more"
        fields, it = ("a field", "it is") if len(record.unknown) == 1 else ("fields", "they are")
        self._say(
            f"{self._name}:{record.line}: note: {type(record.job).__name__} does not have {fields} "
            f"{names}; {it} left out from here on (--forbid-unknown refuses such records)"
        )

    def _take(self, executor: RetryingExecutor, record: Record) -> bool:
        """Submit *record*, unless an earlier process has finished it; return whether it was not."""
        suspect = False
        if self._checkpoint is not None:
            if self._checkpoint.error is not None:
                self.stop()  # what is done from here on would be done again
            before = self._checkpoint.before(record.line)
            if before.failed is not None:
                self._report_failed_before(record, before.failed)
            if before.done or before.failed is not None:
                return False
            suspect = before.deaths >= MOST_DEATHS - 1
        work = Work(record, self._admission, self._checkpoint, self._key(record), self._timeline)
        # One more death would be its last: it runs alone, so that no other is blamed along with
        # it. Not earlier, since many records would wait after a mere kill.
        self._admission.wait_for_turn(alone=suspect)
        self._submit(executor, work)
        if suspect:
            self._admission.wait_until_idle()
        return True

    def _report_failed_before(self, record: Record, failed: FailedRecord) -> None:
        if failed.reason == CRASHES:
            self._say(
                f"{self._name}:{record.line}: failed ({CRASHES}): {MOST_DEATHS} times it was "
                "running when its process died"
            )
        # The file begins anew with every process.
        if self._failures is not None:
            self._failures.write(record, failed)

    def _submit(self, executor: RetryingExecutor, work: Work) -> None:
        if not self._stopping:
            with self._lock:
                self._outstanding.add(work)
                if self._of_key is not None and work.key is not None:
                    self._of_key.setdefault(work.key, []).append(work)
            if self._timeline is not None:
                self._timeline.submitted(work.record.line, work.key)
            try:
                future = executor.submit(work)  # waits while the executor is full
            except RuntimeError:
                with self._lock:
                    self._outstanding.discard(work)
                if not self._stopping:
                    raise
            else:
                work.future = future
                future.add_done_callback(partial(self._ended, work))
                return
        self._leave(work, StopReason.SHUTDOWN, None)

    # ---- in the workers' threads

    def _ended(self, work: Work, future: Future[Any]) -> None:
        with self._lock:
            if work not in self._outstanding:
                return  # abandoned: it has been written down
            # Those for which this one stands come first. If the process dies in between, this one
            # runs again; else the next process would run an earlier one after it.
            ended = [*self._superseded_by(work, future), work]
            self._outstanding.difference_update(ended)
            self._accounting += len(ended)
        try:
            for each in ended:
                if not each.attempts:
                    self._admission.drop()
                if self._timeline is not None:
                    self._timeline.ended(each.record.line, each.key)
                if each is work and work.future is not None and work.future.superseded_by is None:
                    self._account(work, cast("RetryFuture[Any]", future))
                else:
                    self._account_superseded(each, cast("RetryFuture[Any]", future))
        except Exception as error:
            self.error = describe(error)
        finally:
            with self._lock:
                self._accounting -= len(ended)
                self._finish_if_all_is_done()

    def _superseded_by(self, work: Work, future: Future[Any]) -> list[Work]:
        """With _lock held: return the records for which *work*, which has ended, stands."""
        if self._of_key is None or work.key is None:
            return []
        of_key = self._of_key.get(work.key, [])
        ended = [w for w in of_key if w.future is not None and w.future.superseded_by is future]
        of_key[:] = [w for w in of_key if w is not work and w not in ended]
        if not of_key:
            self._of_key.pop(work.key, None)
        return [w for w in ended if w in self._outstanding]

    def _account_superseded(self, work: Work, future: RetryFuture[Any]) -> None:
        """Account for a record for which a later one stands, whose *future* has ended."""
        if future.stop_reason is StopReason.SHUTDOWN or isinstance(
            future.exception(), ShutdownError
        ):
            self._leave(work, StopReason.SHUTDOWN, None)
            return
        if self._checkpoint is not None:
            self._checkpoint.mark_superseded(work.record.line, work.attempts)
        self._stats.count_superseded()

    def _account(self, work: Work, future: RetryFuture[Any]) -> None:
        line, attempts, seconds = work.record.line, future.attempts, work.seconds
        error = future.exception()
        if error is None:
            if self._checkpoint is not None:
                self._checkpoint.mark_done(line, attempts, seconds)
            self._stats.count_success(line, attempts, seconds)
            return
        reason = future.stop_reason
        if reason is StopReason.SHUTDOWN:
            cause = error.__cause__ if isinstance(error, ShutdownError) else error
            self._leave(work, reason, describe(cause) if cause else None)
            return
        failed = FailedRecord(str(reason), attempts, describe(error), line)
        text = failed.error or failed.reason
        if self._checkpoint is not None:
            self._checkpoint.mark_failed(failed, seconds)
        self._stats.count_failure(line, attempts, seconds, text)
        tries = counted(attempts, "attempt")
        self._say(f"{self._name}:{line}: failed after {tries} ({failed.reason}): {text}")
        if self._failures is not None:
            self._failures.write(work.record, failed)

    def _leave(self, work: Work, reason: str, error: str | None) -> None:
        """Account for a record that the end of the run has kept from its outcome."""
        self._stats.count_left(work.attempts)
        if self._checkpoint is not None:
            if work.attempts:
                self._checkpoint.mark_waiting(work.record.line, work.attempts)
        elif self._failures is not None:
            failed = FailedRecord(str(reason), work.attempts, error, work.record.line)
            self._failures.write(work.record, failed)

    def _finish_if_all_is_done(self) -> None:
        """With _lock held: tell whoever waits if nothing more is to come."""
        if not (self._reading or self._outstanding or self._accounting):
            self._finished.set()
