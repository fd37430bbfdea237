"""``retryexec run``: a job for every record of INPUT, from start to summary."""

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path

from retryexec import RetryingExecutor, RetryPolicy
from retryexec.cli.checkpoint import Checkpoint, identify
from retryexec.cli.csv_records import csv_records
from retryexec.cli.holds import Holds, guards_of, key_of_record
from retryexec.cli.jsonl import FailuresFile, jsonl_records
from retryexec.cli.options import UsageError, exception_type
from retryexec.cli.output import clean, counted, describe, format_time, show
from retryexec.cli.pipeline import Pipeline
from retryexec.cli.progress import Display, Snapshot, for_terminal
from retryexec.cli.records import BadRecord, BlankRow, Reader, Record, RecordType
from retryexec.cli.run_options import RunOptions
from retryexec.cli.shell import short
from retryexec.cli.signals import EXIT_INTERRUPTED, Interrupts
from retryexec.cli.source import Source, check_apart, open_source, unreadable
from retryexec.cli.stats import RunStats, Totals, headline, summary
from retryexec.cli.target import file_of, identity_of, load
from retryexec.cli.timeline import NotesAsking, PictureFile, Timeline
from retryexec.cli.timeline_picture import picture
from retryexec.guards import Guard

_TICK = 0.1  # seconds between two looks at where the run stands, and whether it should stop
_SYNC = 1.0  # seconds between two syncs of the checkpoint


def run(options: RunOptions) -> int:
    """Run a job for every record; return the exit status.

    Raises:
        UsageError: something about *options* cannot work; no job has run.
    """
    if options.retry_failed and options.checkpoint is None:
        msg = "--retry-failed goes with --checkpoint; else make the file of --failures INPUT"
        raise UsageError(msg)
    cls = load(options.target)
    kind = RecordType(cls, forbid_unknown=options.forbid_unknown)
    key = key_of_record(options, kind.names)
    # After TARGET, whose own exceptions can be meant.
    types = tuple(exception_type(name) for name in options.retry_on)
    policy = RetryPolicy(
        max_attempts=options.attempts,
        max_elapsed=options.max_elapsed,
        backoff=options.backoff,
        retry_on=types or Exception,
    )
    with ExitStack() as stack:
        # First of all: a named pipe or standard input cannot be read again.
        identity = None
        if options.checkpoint is not None and not options.dry_run:
            identity = identify(
                options.input,
                target=identity_of(options.target, cls),
                form=options.described_format,
                csv=options.is_csv,
                encoding=options.encoding,
            )
        source = open_source(options.input, encoding=options.encoding)
        stack.callback(source.close)
        display = for_terminal(quiet=options.quiet)
        reader = _reader(options, source, kind, display.say)
        if options.dry_run:
            try:
                return _check(options, source, reader, display)
            except OSError as error:
                display.say(f"retryexec: stopped by {describe(error)}")
                return 1
        # Opened last: by then, nothing about the command line can still be wrong, and what a
        # former run has left there is not thrown away for a slip of the pen.
        target = file_of(options.target)
        _check_files(options, source, target)
        checkpoint = failures = drawn = None
        if options.timeline is not None:
            drawn = PictureFile(options.timeline)
            stack.callback(drawn.close)
        if options.checkpoint is not None and identity is not None:
            checkpoint = Checkpoint(options.checkpoint, identity, retry_failed=options.retry_failed)
            stack.callback(checkpoint.close)
        if options.failures is not None:
            failures = FailuresFile(options.failures, kind)
            stack.callback(failures.close)
        total = None if identity is None else identity.records
        work = _Run(
            options,
            source,
            reader,
            policy,
            display,
            failures=failures,
            checkpoint=checkpoint,
            drawn=drawn,
            total=total,
            key=key,
        )
        return work.to_the_end()


def _check_files(options: RunOptions, source: Source, target: Path | None) -> None:
    """Raise UsageError if a file that is to be written is one that another option means."""
    named: dict[Path, str] = {}
    for name in ("failures", "checkpoint", "timeline"):
        path = getattr(options, name)
        if path is None:
            continue
        check_apart(f"--{name}", path, source, target)
        if path in named:
            msg = f"--{named[path]} and --{name} are the same file: name another for one of them"
            raise UsageError(msg)
        named[path] = name


def _reader(
    options: RunOptions, source: Source, kind: RecordType, say: Callable[[str], None]
) -> Reader:
    if options.delimiter and not options.is_csv:
        msg = "--delimiter is for CSV: say --format csv if that is what INPUT is"
        raise UsageError(msg)
    try:
        if options.is_csv:
            return csv_records(
                source,
                kind,
                delimiter=options.delimiter,
                note=None if options.quiet else say,
                tabs=options.is_tsv,
            )
        reader = jsonl_records(source, kind)
        if source.size is None:
            return reader  # nobody knows when the first record will come
        # A file of something else is refused before the failures file is emptied.
        first = [*islice(reader, 1)]
        return chain(first, reader)
    except OSError as error:
        raise unreadable(source.name, error) from error


def _check(options: RunOptions, source: Source, reader: Reader, display: Display) -> int:
    """Read all records, tell what is wrong with them, and run nothing; return the exit status."""
    good = bad = 0
    unknown: dict[str, None] = {}
    for item in reader:
        if isinstance(item, BadRecord):
            bad += 1
            display.say(f"{short(source.name)}:{item.line}: bad record: {item.reason}")
        elif not isinstance(item, BlankRow):
            good += 1
            unknown.update(dict.fromkeys(item.unknown))
        if (options.strict and bad) or good == options.limit:
            break
    if unknown:
        display.say(_unknown_fields(unknown))
    show(f"{counted(good, 'record')} good, {bad:,} bad; nothing was run (--dry-run)")
    return 1 if bad else 0


class _Run:
    """One run, and its one way from the first record to the summary."""

    def __init__(
        self,
        options: RunOptions,
        source: Source,
        reader: Reader,
        policy: RetryPolicy,
        display: Display,
        *,
        failures: FailuresFile | None,
        checkpoint: Checkpoint | None,
        drawn: PictureFile | None,
        total: int | None,
        key: Callable[[Record], Hashable],
    ) -> None:
        self._options = options
        self._source = source
        self._display = display
        self._failures = failures
        self._checkpoint = checkpoint
        self._drawn = drawn
        self._timeline = None if drawn is None else Timeline()
        self._total = total
        self._stats = RunStats()
        held = options.key or options.concurrency or options.breaker is not None
        self._pipeline = Pipeline(
            short(source.name),
            reader,
            stats=self._stats,
            say=display.say,
            strict=options.strict,
            limit=options.limit,
            key=key,
            latest=options.keep == "latest",
            # A key or a guard may hold many records, and others should go on meanwhile.
            ahead=1 if options.rate and not options.key else options.max_pending if held else None,
            workers=options.workers or min(32, (os.cpu_count() or 1) + 4),  # the executor's own
            failures=failures,
            checkpoint=checkpoint,
            timeline=self._timeline,
        )
        if checkpoint is not None and checkpoint.resumed:
            self._stats.restore(*checkpoint.finished())
            if not options.quiet and not checkpoint.complete:
                now = Snapshot(done=self._stats.progress()[0], total=total)
                display.say(
                    f"going on with the run that began {format_time(checkpoint.began_at)}: "
                    f"{now.counts} ({now.percent}%)"
                )
        self._began = time.monotonic()
        self._executor = RetryingExecutor(
            options.workers,
            "retryexec",
            policy=policy,
            max_pending=options.max_pending,
            on_retry=self._pipeline.retried,
            key=attrgetter("key") if options.key else None,
            keep=options.keep,
            guards=self._guards(options),
        )
        self._holds = Holds(self._executor)

    def _guards(self, options: RunOptions) -> list[Guard]:
        guards = guards_of(options)
        noted = [NotesAsking(self._timeline)] if guards and self._timeline is not None else []
        return [*noted, *guards]

    def to_the_end(self) -> int:
        """Run all there is to run, tell about it, and return the exit status."""
        try:
            with Interrupts() as interrupts, self._display:
                self._pipeline.start(self._executor)
                self._watch(interrupts)
        except BaseException:
            self._pipeline.stop()
            self._executor.shutdown(timeout=0)
            raise
        self._executor.shutdown()  # its jobs have ended, and its threads are about to
        if self._pipeline.usage_error is not None:
            raise self._pipeline.usage_error
        return self._tell()

    def _watch(self, interrupts: Interrupts) -> None:
        """Wait until every record is accounted for, and see to Ctrl-C meanwhile."""
        stopper = None
        pipeline, checkpoint = self._pipeline, self._checkpoint
        next_sync = self._began + _SYNC
        while not pipeline.wait(_TICK):
            now = self._snapshot()
            self._display.update(now)
            if self._timeline is not None:
                self._timeline.look(now.waiting, now.held)
            if interrupts.count > 1:
                self._quit()
            if checkpoint is not None:
                self._note_checkpoint_error(checkpoint)
                if time.monotonic() > next_sync:
                    checkpoint.sync()
                    next_sync = time.monotonic() + _SYNC
            if stopper is None and (interrupts.count or pipeline.error):
                pipeline.stop()
                # In a thread: it ends many jobs, and the second Ctrl-C must be seen meanwhile.
                stopper = threading.Thread(target=self._stop, daemon=True)
                stopper.start()
            # Nobody knows whether more will ever come out of a pipe.
            if stopper and not pipeline.pending and self._source.waiting:
                break
        if stopper is not None:
            stopper.join()

    def _note_checkpoint_error(self, checkpoint: Checkpoint) -> None:
        if checkpoint.error is not None and self._pipeline.error is None:
            self._pipeline.error = f"{checkpoint.path}: {checkpoint.error}"

    def _stop(self) -> None:
        """Start nothing new, and say so once that is true."""
        self._executor.shutdown(timeout=0)
        rest = (
            f"the rest stays in {short(self._options.checkpoint)} for the next time"
            if self._options.checkpoint
            else f"the rest goes to {short(self._options.failures)}"
            if self._options.failures
            else "the rest is left (--failures FILE would keep it)"
        )
        self._display.say(
            f"stopping: attempts that run may end, nothing new starts, and {rest}; "
            "Ctrl-C again quits"
        )

    def _quit(self) -> None:
        try:
            running = self._pipeline.abandon()
            self._display.close()
            attempts = "1 attempt was" if running == 1 else f"{running:,} attempts were"
            self._display.say(f"quit: {attempts} running, with an outcome that nobody knows")
            if self._checkpoint is not None:
                self._checkpoint.close()
            self._draw()
            sys.stdout.flush()
        finally:  # whatever cannot be written any more
            os._exit(EXIT_INTERRUPTED)

    def _snapshot(self) -> Snapshot:
        done, failed, before, last_error = self._stats.progress()
        executor, pipeline = self._executor.stats(), self._pipeline
        total, exact = self._total, True
        if not pipeline.reading:
            total = max(pipeline.records_read, done)
        elif total is None and pipeline.bytes_read and (size := self._source.expected()):
            total, exact = round(pipeline.records_read * size / pipeline.bytes_read), False
        if self._options.limit is not None and total is not None:
            total = min(total, before + self._options.limit)
            # Bad records do not count towards the limit: more may have to be read.
            exact = exact and not pipeline.reading
        return Snapshot(
            seconds=time.monotonic() - self._began,
            done=done,
            failed=failed,
            running=executor.running,
            waiting=executor.waiting,
            held=executor.held,
            held_by=self._holds.look(executor.held),
            total=total,
            exact=exact,
            last_error=last_error,
        )

    # ---- at the end

    def _tell(self) -> int:
        """Print the summary and what to do about it; return the exit status."""
        totals, seconds = self._stats.totals(), time.monotonic() - self._began
        pipeline, checkpoint = self._pipeline, self._checkpoint
        all_read = not pipeline.reading and pipeline.read_to is None
        if checkpoint is not None:
            self._note_checkpoint_error(checkpoint)
            checkpoint.close(complete=all_read and not totals.left and pipeline.error is None)
            self._note_checkpoint_error(checkpoint)
        if not self._options.quiet:
            show(summary(totals, seconds))
        elif not totals.all_succeeded:
            self._display.say(headline(totals, seconds))
        for remark in self._remarks(totals):
            self._display.say(remark)
        drawn = self._draw()
        as_asked = all_read or pipeline.limited
        return 0 if totals.all_succeeded and as_asked and pipeline.error is None and drawn else 1

    def _draw(self) -> bool:
        """Write the picture, if there is to be one; return whether all is well."""
        if self._timeline is None or self._drawn is None:
            return True
        title = headline(self._stats.totals(), self._timeline.elapsed())
        try:
            self._drawn.write(picture(self._timeline, title))
        except OSError as error:
            self._display.say(f"retryexec: {self._drawn.path}: {error}")
            return False
        return True

    def _remarks(self, totals: Totals) -> Iterator[str]:
        pipeline, options = self._pipeline, self._options
        name = short(self._source.name)
        if pipeline.error is not None:
            yield f"retryexec: stopped by {pipeline.error}"
        if pipeline.reading:
            yield f"{name} was not read to its end"
        elif pipeline.read_to is not None and not (pipeline.limited and options.quiet):
            read = f"{name} was read up to line {pipeline.read_to}"
            yield f"{read}; what follows has not been looked at"
        if totals.bad and totals.bad == totals.records:
            expected = "CSV with a header" if options.is_csv else "JSON Lines, one object per line"
            yield f"no record of {name} was good: expected {expected}; --format names another"
        if not totals.records and not pipeline.reading and not pipeline.error:
            yield f"{name} holds no records"
        if len(pipeline.unknown) > 3 and not options.quiet:
            yield _unknown_fields(pipeline.unknown)
        if self._checkpoint is not None:
            yield from self._remarks_of_checkpoint(totals, self._checkpoint)
        elif totals.failed + totals.left and options.failures is not None and not pipeline.error:
            kept = totals.failed + totals.left
            records = "1 record is" if kept == 1 else f"{kept:,} records are"
            again = options.command_for_failures()
            yield f"{records} in {short(options.failures)}; to try again: {again}"

    def _remarks_of_checkpoint(self, totals: Totals, checkpoint: Checkpoint) -> Iterator[str]:
        if self._pipeline.error is not None or totals.left or self._pipeline.reading:
            path = short(checkpoint.path)
            yield f"{path} knows what is done: the same command goes on with the rest"
        elif checkpoint.complete and totals.records - totals.bad == totals.before:
            yield (
                f"all of it was done before, by the run that began "
                f"{format_time(checkpoint.began_at)}; to do it again, name another file for "
                "--checkpoint"
            )
        if totals.failed:
            again = self._options.command(self._options.input, "--retry-failed")
            yield f"{counted(totals.failed, 'record')} failed for good; to try again: {again}"


def _unknown_fields(names: Collection[str]) -> str:
    shown = ", ".join(clean(repr(name)) for name in list(names)[:20])
    return f"{counted(len(names), 'unknown field')} left out in all: {shown}"
