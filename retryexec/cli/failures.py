"""The failures file: what did not succeed, in a form that is INPUT again."""

import os
import threading
from pathlib import Path

import msgspec

from retryexec.cli.options import UsageError
from retryexec.cli.records import RESERVED, Record, RecordType
from retryexec.cli.source import Source


class FailedRecord(msgspec.Struct, frozen=True):
    """Why a record's job did not succeed.

    Attributes:
        reason: why no further attempt followed, a `retryexec.StopReason`; or ``interrupted`` for
            an attempt that was still running when the command quit, or ``crashes`` for a record
            that was running whenever its process died.
        attempts: how many attempts were begun.
        error: type and text of the last error; None if no attempt has failed.
        line: where the record begins in INPUT.
    """

    reason: str
    attempts: int
    error: str | None
    line: int


class FailuresFile:
    """A file that gets a line as soon as a job has failed, so that a crash loses none.

    Raises:
        UsageError: *path* cannot be written.
    """

    def __init__(self, path: Path, kind: RecordType) -> None:
        self._kind = kind
        try:
            # Unbuffered: a line that the disk does not have room for must not be tried again at
            # close().
            self._file = path.open("wb", buffering=0)
        except (OSError, ValueError) as error:
            msg = f"--failures {str(path)!r} cannot be written: {_why(error)}"
            raise UsageError(msg) from error
        # Guards _file: one line at a time, and none after close().
        self._lock = threading.Lock()

    def write(self, record: Record, failed: FailedRecord) -> None:
        """Add *record* and why it failed; does nothing once the file is closed.

        Raises:
            OSError: the disk is full, or gone.
        """
        fields, as_text = self._kind.to_json(record)
        story = msgspec.to_builtins(failed)
        if as_text:
            story["text"] = as_text
        # Last: what a person wants to read on this line is the record.
        fields[RESERVED] = msgspec.Raw(msgspec.json.encode(story))
        line = msgspec.json.encode(fields) + b"\n"
        with self._lock:
            # A raw file may take a part of what it is given.
            while line and not self._file.closed:
                line = line[self._file.write(line) :]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def check_apart(option: str, path: Path, source: Source, target: Path | None) -> None:
    """Raise UsageError if writing *path*, given with *option*, would destroy INPUT or TARGET."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return  # not there yet, so neither of them; if it cannot be made, opening it will tell
    if source.status is not None and os.path.samestat(status, source.status):
        msg = f"{option} {str(path)!r} is INPUT itself: name another file"
        raise UsageError(msg)
    if target is not None and target.exists() and target.samefile(path):
        msg = f"{option} {str(path)!r} is TARGET itself: name another file"
        raise UsageError(msg)


def _why(error: Exception) -> object:
    return getattr(error, "strerror", None) or error
