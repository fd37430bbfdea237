"""A record as the journal keeps it: a job that knows its line, and finds out if it was done."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from retryexec import PermanentError, current_attempt
from retryexec.cli._ledger import Ledger
from retryexec.cli._records import Record, construct


class FailedBefore(Exception):
    """What a record failed with in an earlier process, which died while it said so."""


class JournaledWork(msgspec.Struct, dict=True):
    """A record on its way, as `Work` is, which survives the process.

    Attributes:
        run: of which run it is; a journal may still hold letters of another.
        line: where it begins in INPUT.
        size: how many bytes of INPUT it takes.
        raw: the record as a JSON object.
    """

    run: str
    line: int
    size: int
    raw: msgspec.Raw = msgspec.field(name="record")

    ledger: ClassVar[Ledger]
    decode: ClassVar[Callable[[bytes], Any]]

    def exec(self) -> None:
        """Make one attempt; none if an earlier process has finished it."""
        attempt = current_attempt()
        number = attempt.number
        if number == 1:
            # On disk before it runs: a record that kills the process must leave a trace there.
            attempt.accepted.result()
        ours = self.of_this_run
        if ours and self.ledger.is_done(self.line):
            vars(self)["was_done"] = True
            return
        if ours and (failure := self.ledger.failed.get(self.line)) is not None:
            # It had failed for good, and its process died before the journal had heard of it.
            vars(self)["was_done"] = True
            raise PermanentError(FailedBefore(failure.error or failure.reason))
        vars(self)["attempts"] = number
        began = vars(self).setdefault("began", time.monotonic())
        self.record.job.exec()
        if ours:
            # Here, and not when the future tells: before the journal lets go of it.
            self.ledger.succeeded(self.line, number, time.monotonic() - began)

    @property
    def of_this_run(self) -> bool:
        """Whether it is a record of INPUT as it is now."""
        return self.run == self.ledger.run

    @property
    def counts(self) -> bool:
        """Whether its outcome is one of this run's, and not counted already."""
        return self.of_this_run and not vars(self).get("was_done")

    @property
    def attempts(self) -> int:
        """The number of the attempt that began last; 0 before the first here."""
        return int(vars(self).get("attempts", 0))

    @property
    def seconds(self) -> float:
        """Seconds since the first attempt in this process began; 0 before it."""
        began = vars(self).get("began")
        return 0.0 if began is None else time.monotonic() - began

    @property
    def record(self) -> Record:
        """The record, decoded when it is first asked for."""
        record: Record | None = vars(self).get("record")
        if record is None:
            source = bytes(self.raw)
            record = Record(self.line, 0, type(self).decode(source), source)
            vars(self)["record"] = record
        return record


def journaled(cls: type[Any]) -> type[JournaledWork]:
    """Return the class of the journal's jobs for records of *cls*; it needs a ledger yet."""
    decoder = msgspec.json.Decoder(cls, dec_hook=construct).decode

    class Journaled(JournaledWork, dict=True):
        pass

    Journaled.decode = staticmethod(decoder)
    return Journaled


def work_of(cls: type[JournaledWork], record: Record, size: int) -> JournaledWork:
    """Return *record*, just read, as a job for the journal."""
    made = cls(cls.ledger.run, record.line, size, msgspec.Raw(record.source.strip()))
    vars(made)["record"] = record
    return made


def kind_of(cls: type[Any]) -> str:
    """Return what the journal calls the jobs of *cls*."""
    return f"run:{cls.__name__}"
