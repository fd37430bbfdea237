"""The failures file: what did not succeed, in a form that is INPUT again."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from retryexec.cli._lines import Source
from retryexec.cli._misuse import Misuse
from retryexec.cli._records import RESERVED, Record


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record's job did not succeed.

    Attributes:
        reason: why no further attempt followed, a `retryexec.StopReason`; or ``interrupted`` for
            an attempt that was still running when the command quit.
        attempts: how many attempts were begun.
        error: type and text of the last error; None if no attempt has failed.
        line: where the record begins in INPUT.
    """

    reason: str
    attempts: int
    error: str | None
    line: int


class FailureFile:
    """A file that gets a line as soon as a job has failed, so that a crash loses none.

    Raises:
        Misuse: *path* cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Unbuffered: a line that the disk has no room for must not be tried again at close().
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            msg = f"--failures {str(path)!r} cannot be written: {error.strerror}"
            raise Misuse(msg) from error
        # Guards _file: one line at a time, and none after close().
        self._lock = threading.Lock()

    def write(self, record: Record, failure: Failure) -> None:
        """Add *record* with its *failure*; does nothing once the file is closed.

        Raises:
            OSError: the disk is full, or gone.
        """
        fields = msgspec.json.decode(record.source, type=dict[str, msgspec.Raw])
        # Last, even if it was first: what a person wants to read on this line is the record.
        fields.pop(RESERVED, None)
        fields[RESERVED] = msgspec.Raw(msgspec.json.encode(failure))
        line = msgspec.json.encode(fields) + b"\n"
        with self._lock:
            # A raw file may take a part of what it is given.
            while line and not self._file.closed:
                line = line[self._file.write(line) :]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def check_apart(failures: Path, source: Source, target: Path | None) -> None:
    """Raise Misuse if writing *failures* would destroy INPUT or TARGET."""
    try:
        status = failures.stat()
    except OSError:
        return  # not there yet, so neither of them; if it cannot be made, opening it will tell
    if source.stat is not None and os.path.samestat(status, source.stat):
        msg = f"--failures {str(failures)!r} is INPUT itself: name another file"
        raise Misuse(msg)
    if target is not None and target.exists() and target.samefile(failures):
        msg = f"--failures {str(failures)!r} is TARGET itself: name another file"
        raise Misuse(msg)
