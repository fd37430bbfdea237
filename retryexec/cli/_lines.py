"""INPUT as bytes: where it comes from, and its lines as they arrive."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from retryexec.cli._misuse import Misuse

CHUNK = 65_536
"""The most bytes asked for at a time; a pipe gives what it has."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from.

    Attributes:
        name: what to call it.
        read: returns some bytes, at most as many as asked for, waiting if there are none yet;
            none at the end.
        size: how many bytes there are; None if only the end will tell.
        stat: the file behind it; None if there is none.
        close: lets go of it.
    """

    name: str
    read: "Reading"
    size: int | None
    stat: os.stat_result | None
    close: Callable[[], None]


class Reading:
    """A read function that knows whether somebody is waiting for it."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.waiting = False
        """Whether a read is under way; from a pipe, that may be for ever."""

    def __call__(self, size: int) -> bytes:
        self.waiting = True
        try:
            return self._read(size)
        finally:
            self.waiting = False


def open_source(name: str) -> Source:
    """Open the file *name*, or standard input for ``-``.

    Raises:
        Misuse: there is no such file, or it cannot be read.
    """
    if name == "-":
        stream = sys.stdin.buffer
        # The raw stream has no lock. A thread may still be reading when the command ends, and
        # the interpreter cannot close a buffered one that somebody else holds.
        raw = getattr(stream, "raw", stream)
        try:
            status = os.fstat(stream.fileno())
        except OSError:  # not a real file, as in a test
            status = None
        return Source("standard input", Reading(raw.read), _size(status), status, _keep)
    try:
        file = Path(name).open("rb", buffering=0)  # noqa: SIM115  closed by Source.close
    except OSError as error:
        msg = f"INPUT {name!r} cannot be read: {error.strerror}"
        raise Misuse(msg) from error
    status = os.fstat(file.fileno())
    return Source(name, Reading(file.read), _size(status), status, file.close)


def _size(status: os.stat_result | None) -> int | None:
    """Return the size of a regular file; a pipe, and what has no file, has none to tell."""
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None


def _keep() -> None:
    """Leave standard input open."""


def lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Give the lines of what *read* returns as soon as they are whole, ends included.

    A byte order mark before the first line is left out.
    """
    parts: list[bytes] = []
    first = True
    while chunk := read(CHUNK):
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            parts.append(line + b"\n")
            yield _unmarked(b"".join(parts)) if first else b"".join(parts)
            parts.clear()
            first = False
        if rest:
            # Joined once, at the end of the line: a line of many chunks stays linear.
            parts.append(rest)
    if parts:
        yield _unmarked(b"".join(parts)) if first else b"".join(parts)


def _unmarked(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")
