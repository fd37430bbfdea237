"""``retryexec run``: a job for every record of INPUT, from start to summary."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retryexec import Backoff, RetryingExecutor, RetryPolicy
from retryexec.cli._csv import csv_records
from retryexec.cli._failures import FailureFile, check_apart
from retryexec.cli._feed import Feed
from retryexec.cli._interrupt import EXIT_INTERRUPTED, Interrupts
from retryexec.cli._jsonl import jsonl_records
from retryexec.cli._lines import Source, open_source
from retryexec.cli._misuse import Misuse
from retryexec.cli._output import show
from retryexec.cli._parse import exception_type
from retryexec.cli._progress import Snapshot, for_terminal
from retryexec.cli._records import Reader, check_types
from retryexec.cli._summary import headline, summary
from retryexec.cli._table import moment
from retryexec.cli._tally import Tally, Totals
from retryexec.cli._target import file_of, load

if TYPE_CHECKING:
    from retryexec.cli._resume import Resume

LOOK = 1.0
"""Seconds between two looks for jobs of earlier processes that have ended unseen."""

TICK = 0.1
"""Seconds between two looks at where the run stands, and whether it should stop."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``retryexec run`` was asked for; the fields are its options."""

    target: str
    input: str
    format: str | None
    workers: int | None
    attempts: int | None
    max_elapsed: float | None
    backoff: Backoff
    retry_on: tuple[str, ...]
    max_pending: int
    failures: Path | None
    strict: bool
    forbid_unknown: bool
    quiet: bool
    journal: Path | None = None


def run(options: Options) -> int:
    """Run a job for every record; return the exit status.

    Raises:
        Misuse: something about *options* cannot work; no job has run.
    """
    cls = load(options.target)
    check_types(cls)
    # After TARGET, whose own exceptions can be meant.
    types = tuple(exception_type(name) for name in options.retry_on)
    policy = RetryPolicy(
        max_attempts=options.attempts,
        max_elapsed=options.max_elapsed,
        backoff=options.backoff,
        retry_on=types or Exception,
    )
    source = open_source(options.input)
    try:
        reader = _reader(options, source, cls)
        # Opened last: by then, nothing about the command line can still be wrong, and what a
        # former run has left there is not thrown away for a slip of the pen.
        if options.failures is not None:
            check_apart(options.failures, source, file_of(options.target))
        resume = _resume(options, cls)
        try:
            failures = FailureFile(options.failures) if options.failures else None
            try:
                return _Run(
                    options, source, reader, policy, failures=failures, resume=resume
                ).to_the_end()
            finally:
                if failures is not None:
                    failures.close()
        finally:
            if resume is not None:
                resume.ledger.close(complete=False)
    finally:
        source.close()


def _resume(options: Options, cls: type[Any]) -> "Resume | None":
    if options.journal is None:
        return None
    try:
        from retryexec.cli._resume import Resume
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        msg = "--journal needs locks that this system does not have"
        raise Misuse(msg) from error
    return Resume(options.journal, cls, options.input, _format(options))


def _reader(options: Options, source: Source, cls: type[Any]) -> Reader:
    read = csv_records if _format(options) == "csv" else jsonl_records
    try:
        return read(source.read, cls, forbid_unknown=options.forbid_unknown)
    except OSError as error:
        msg = f"INPUT {source.name!r} cannot be read: {error.strerror}"
        raise Misuse(msg) from error


def _format(options: Options) -> str:
    return options.format or ("csv" if options.input.lower().endswith(".csv") else "jsonl")


class _Run:
    """One run, and its one way from the first record to the summary."""

    def __init__(
        self,
        options: Options,
        source: Source,
        reader: Reader,
        policy: RetryPolicy,
        *,
        failures: FailureFile | None,
        resume: "Resume | None",
    ) -> None:
        self._resume = resume
        self._options = options
        self._source = source
        self._failures = failures
        self._tally = Tally()
        self._progress = for_terminal(quiet=options.quiet)
        self._feed = Feed(
            source.name,
            reader,
            strict=options.strict,
            tally=self._tally,
            progress=self._progress,
            failures=failures,
            resume=resume,
        )
        self._look_at = 0.0  # when to look after recovered jobs again
        self._missing: set[int] = set()  # lines that the last look has found nowhere
        self._before = 0  # records that earlier processes have finished
        if resume is not None:
            resume.restore(self._tally)
            self._before = self._tally.totals().records
            self._say_where(resume)
        self._began = time.monotonic()
        # The last one to be made: with a journal, its jobs begin to run at once.
        self._executor = RetryingExecutor(
            options.workers,
            "retryexec",
            policy=policy,
            max_pending=options.max_pending,
            on_retry=self._feed.retried,
            **self._of_journal(),
        )

    def _of_journal(self) -> dict[str, Any]:
        if self._resume is None:
            return {}
        seen = self._feed.recovered
        return {"journal": self._resume.journal, "on_success": seen, "on_give_up": seen}

    def _say_where(self, resume: "Resume") -> None:
        """Tell people that this is not the beginning."""
        ledger = resume.ledger
        if not ledger.resumed or self._options.quiet or ledger.complete:
            return
        waiting = len(resume.waiting)
        self._progress.say(
            f"going on with the run that began {moment(ledger.began_at)}: {self._before:,} records "
            f"are finished, {waiting:,} are under way"
        )

    def to_the_end(self) -> int:
        """Run all there is to run, tell about it, and return the exit status."""
        try:
            with Interrupts() as interrupts, self._progress:
                self._feed.start(self._executor)
                self._watch(interrupts)
        except BaseException:
            self._executor.shutdown(timeout=0)
            raise
        self._executor.shutdown()  # its jobs have ended, and its threads are about to
        return self._tell()

    def _watch(self, interrupts: Interrupts) -> None:
        """Wait until every record is accounted for, and see to Ctrl-C meanwhile."""
        stopper = None
        while not self._feed.wait(TICK):
            self._progress.update(self._snapshot())
            if interrupts.count > 1:
                self._quit()
            if self._resume is not None and self._feed.error is None:
                self._feed.error = self._resume.ledger.error
            if stopper is None and (interrupts.count or self._feed.error):
                self._feed.stop()
                # In a thread: it ends many jobs, and the second Ctrl-C must be seen meanwhile.
                stopper = threading.Thread(target=self._stop, daemon=True)
                stopper.start()
            if stopper is None:
                self._look_after_recovered()
            elif self._resume is not None and not stopper.is_alive():
                self._feed.leave(self._feed.awaited)  # the journal keeps them
            # Nobody knows whether more will ever come out of a pipe.
            if stopper and not self._feed.pending and self._source.read.waiting:
                break
        if stopper is not None:
            stopper.join()

    def _look_after_recovered(self) -> None:
        """Account for jobs of earlier processes that have ended in no attempt of this one."""
        resume, feed = self._resume, self._feed
        if resume is None or feed.reading or time.monotonic() < self._look_at:
            return
        awaited = feed.awaited
        if not awaited or feed.pending > len(awaited):
            return  # there is time for that when nothing else is left
        self._look_at = time.monotonic() + LOOK
        feed.bury(resume.crashed(awaited))
        missing = resume.missing(feed.awaited)
        # At the second look: the first may have met a job that was just about to end.
        gone, self._missing = missing & self._missing, missing
        if gone:
            feed.leave(gone)
            self._progress.say(
                f"retryexec: {len(gone):,} records have gone from {self._options.journal} without "
                "an outcome: the same command runs them from INPUT"
            )

    def _stop(self) -> None:
        """Start nothing new, and say so once that is true."""
        self._executor.shutdown(timeout=0)
        rest = (
            f"the rest stays in {self._options.journal} for the next time"
            if self._resume
            else f"the rest goes to {self._options.failures}"
            if self._failures
            else "the rest is left (--failures FILE would keep it)"
        )
        self._progress.say(
            f"stopping: attempts that run may end, nothing new starts, and {rest}; "
            "Ctrl-C again quits"
        )

    def _quit(self) -> None:
        running = self._feed.pending
        self._feed.abandon()
        self._progress.close()
        attempts = "1 attempt was" if running == 1 else f"{running:,} attempts were"
        self._progress.say(f"quit: {attempts} running, with an outcome that nobody knows")
        if self._resume is not None:
            self._resume.ledger.close(complete=False)
        sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)

    def _snapshot(self) -> Snapshot:
        totals, stats = self._tally.totals(), self._executor.stats()
        size, pending = self._source.size, self._feed.pending
        if size:
            fraction: float | None = min(1.0, totals.bytes / size)
        elif self._feed.reading:
            fraction = None
        else:
            fraction = totals.records / max(1, totals.records + pending)
        return Snapshot(
            seconds=time.monotonic() - self._began,
            done=totals.records,
            failed=totals.failed + totals.bad,
            running=stats.running,
            waiting=stats.waiting,
            fraction=fraction,
            last_error=totals.last_error,
        )

    def _tell(self) -> int:
        """Print the summary and what to do about it; return the exit status."""
        totals, seconds = self._tally.totals(), time.monotonic() - self._began
        if not self._options.quiet:
            show(summary(totals, seconds))
        elif not totals.all_succeeded:
            self._progress.say(headline(totals, seconds))
        for remark in self._remarks(totals):
            self._progress.say(remark)
        feed = self._feed
        all_read = not feed.reading and feed.read_to is None
        if self._resume is not None:
            left = totals.unstarted + totals.unfinished
            self._resume.ledger.close(complete=all_read and not left and feed.error is None)
        return 0 if totals.all_succeeded and all_read and feed.error is None else 1

    def _remarks(self, totals: Totals) -> Iterator[str]:
        feed, options, name = self._feed, self._options, self._source.name
        if feed.error is not None:
            yield f"retryexec: stopped by {feed.error}"
        if feed.reading:
            yield f"{name} was not read to its end"
        elif feed.read_to is not None:
            yield f"{name} was read up to line {feed.read_to}; what follows has not been looked at"
        if totals.bad and totals.bad == totals.records:
            expected = "JSON Lines, one object per line"
            if _format(options) == "csv":
                expected = "CSV with a header"
            yield f"no record of {name} was good: expected {expected}; --format names another"
        if not totals.records and not feed.reading:
            yield f"{name} holds no records"
        if self._resume is not None:
            yield from self._remarks_of_journal(totals, self._resume)
            kept = totals.failed
        else:
            kept = totals.failed + totals.unstarted + totals.unfinished
        if kept and options.failures is not None and feed.error is None:
            records = "1 record is" if kept == 1 else f"{kept:,} records are"
            again = f"retryexec run {options.target} {options.failures}"
            yield f"{records} in {options.failures}; to try again: {again}"

    def _remarks_of_journal(self, totals: Totals, resume: "Resume") -> Iterator[str]:
        directory = self._options.journal
        if resume.ledger.error is not None:
            yield f"retryexec: {directory}: {resume.ledger.error}"
        if totals.unstarted or totals.unfinished or self._feed.reading or self._feed.read_to:
            yield f"what is left is in {directory} and in INPUT; the same command goes on with it"
        elif resume.ledger.complete and totals.records - totals.bad == self._before:
            yield (
                f"all of it was done before, by the run that began "
                f"{moment(resume.ledger.began_at)}: to do it again, name another directory for "
                "--journal"
            )
        if totals.failed:
            letters = (
                "1 record is a dead letter"
                if totals.failed == 1
                else (f"{totals.failed:,} records are dead letters")
            )
            yield (
                f"{letters} in {directory}; to try again: retryexec journal rerun {directory} "
                "--all, and then the same command"
            )
