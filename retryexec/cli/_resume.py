"""``retryexec run --journal DIR``: what is known of a run when it begins, or begins again."""

from pathlib import Path
from typing import Any, cast

import msgspec

from retryexec.cli._failures import Failure
from retryexec.cli._identity import identify
from retryexec.cli._journal_list import last_error
from retryexec.cli._journaled import JournaledWork, journaled, kind_of, work_of
from retryexec.cli._ledger import Ledger
from retryexec.cli._misuse import Misuse
from retryexec.cli._records import Record
from retryexec.cli._tally import Tally
from retryexec.journal import DeadLetter, Inspector, Journal, JournalError, UnfinishedJob

_MAX_BYTES = 1 << 29  # of a record: it has been in memory already


class _Line(msgspec.Struct):
    """Which line a job of the journal is."""

    run: str
    line: int


class Resume:
    """A run that survives its process, from one process's point of view.

    Attributes:
        cls: the class of its jobs in the journal.
        journal: where they are; the executor opens and closes it.
        ledger: what has become of which line.
        waiting: lines whose jobs the journal holds, accepted by an earlier process.

    Raises:
        Misuse: the journal cannot be used, or not for this run.
    """

    def __init__(self, directory: Path, cls: type[Any], name: str, format: str) -> None:  # noqa: A002
        self._kind = kind_of(cls)
        identity = identify(name, kind=self._kind, format=format)
        self.cls = journaled(cls)
        self._again: set[int] = set()  # lines that failed, and that somebody has had run again
        try:
            self.journal = Journal(
                directory, jobs={self._kind: self.cls}, accept="async", max_bytes=_MAX_BYTES
            )
            path = Path(self.journal.directory)
            self.ledger = self.cls.ledger = Ledger(path, identity)
            try:
                self._inspector = Inspector(path)
                dead = self._new_letters()
                self.waiting = self._unfinished() - set(dead)
                self.ledger.reopen(self._again)
                for _, failure in dead.values():
                    self.gave_up(failure, 0.0)
            except BaseException:
                self.ledger.close(complete=False)
                raise
        except JournalError as error:
            raise Misuse(str(error)) from error

    def restore(self, tally: Tally) -> None:
        """Count in *tally* what earlier processes have done."""
        self.ledger.restore(tally)

    def fate(self, line: int) -> bool | Failure:
        """Return what earlier processes have made of *line*.

        Returns:
            False if nothing: its record is to be submitted. True if it succeeded or is in the
            journal. Else why it failed for good.
        """
        if line in self.waiting or self.ledger.is_done(line):
            return True
        return self.ledger.failed.get(line, False)

    def gave_up(self, failure: Failure, seconds: float) -> None:
        """Write down that a record has failed for good."""
        self.ledger.failed[failure.line] = failure
        self.ledger.gave_up(failure, seconds)

    def work(self, record: Record, size: int) -> JournaledWork:
        """Return *record* as a job for the journal."""
        return work_of(self.cls, record, size)

    def crashed(self, lines: set[int]) -> list[tuple[Record, Failure]]:
        """Return those of *lines* that have died with their processes, without any outcome."""
        letters = self._new_letters() if lines else {}
        return [letter for line, letter in letters.items() if line in lines]

    def missing(self, lines: set[int]) -> set[int]:
        """Return those of *lines* that the journal does not hold."""
        return lines - self._unfinished() if lines else set()

    def _unfinished(self) -> set[int]:
        lines = set()
        for job in self._inspector.jobs(self._kind):
            place = self._line(job)
            if place is None or self.ledger.is_done(place):
                continue
            if place in self.ledger.failed:
                # A rerun has all its attempts before it, and its errors behind it. Else its
                # process died between the ledger and the journal, and only the latter must hear.
                if job.attempts or not job.errors:
                    continue
                self._again.add(place)
            lines.add(place)
        return lines

    def _new_letters(self) -> dict[int, tuple[Record, Failure]]:
        """Return the letters of this run that the ledger knows nothing of, by line."""
        found = {}
        for letter in self._inspector.letters(self._kind):
            line = self._line(letter)
            if line is None or self.ledger.is_done(line) or line in self.ledger.failed:
                continue
            error = next((error for error in reversed(letter.errors) if error.type), None)
            text = None if error is None else last_error(letter.errors)
            fields = letter.fields if isinstance(letter.fields, dict) else {"record": {}}
            record = Record(line, 0, None, msgspec.json.encode(fields["record"]))
            found[line] = record, Failure(letter.reason, letter.attempts, text, line)
        return found

    def _line(self, job: UnfinishedJob | DeadLetter) -> int | None:
        """Return the line of *job*; None if it is of another run."""
        fields = job.fields
        if isinstance(fields, str):  # a number too large for Python's own JSON, or the like
            try:
                found = msgspec.json.decode(fields, type=_Line)
            except msgspec.DecodeError:
                return None
            return found.line if found.run == self.ledger.run else None
        if isinstance(fields, dict) and fields.get("run") == self.ledger.run:
            return cast("int", fields["line"])
        return None
