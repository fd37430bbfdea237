"""INPUT as lines of UTF-8: where it comes from, unpacked and decoded as it arrives."""

import codecs
import gzip
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from retryexec.cli.options import UsageError

_CHUNK = 65_536  # the most bytes asked for at a time; a pipe gives what it has
_GZIP = b"\x1f\x8b"
# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LONGEST_MARK = 4
_BINARY = (
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet (.xlsx, .ods): save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel file (.xls): save it as CSV"),
    (b"SQLite format 3\0", "an SQLite database: export a table as CSV"),
    (b"PAR1", "a Parquet file: convert it to CSV or JSON Lines"),
    (b"BZh", "compressed with bzip2: unpack it, or pack it with gzip"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it, or pack it with gzip"),
)


class Source:
    """Where records come from.

    Args:
        name: what to call it.
        read: returns at most so many bytes, waiting if there are none yet; none at the end.
        status: of the file behind it; None if there is not any.
        close: lets go of it.
        encoding: of the text, if no byte order mark says otherwise.
        digest: a hash object that gets all bytes as they are in the file; None for no digest.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], bytes],
        status: os.stat_result | None,
        close: Callable[[], None],
        *,
        encoding: str = "utf-8",
        digest: Any = None,
    ) -> None:
        self.name = name
        self.status = status
        self.close = close
        self.waiting = False
        """Whether a read is under way; from a pipe, that may be for ever."""
        self._read = read
        self._encoding = encoding
        self._digest = digest
        self._bytes_in = 0  # of the file
        self._bytes_out = 0  # of UTF-8

    @property
    def size(self) -> int | None:
        """The bytes of a regular file; None for a pipe, whose end will tell."""
        status = self.status
        return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None

    def expected(self) -> float | None:
        """Return how many bytes of UTF-8 there will be, judged by those so far; None if unknown."""
        if self.size is None or not self._bytes_in:
            return None
        return self.size * self._bytes_out / self._bytes_in

    def lines(self) -> Iterator[bytes]:
        """Give the lines as UTF-8 as soon as they are whole, ends included.

        What cannot be decoded becomes bytes that are not UTF-8, so that only the record with them
        is bad. A byte order mark is left out.

        Raises:
            OSError: INPUT cannot be read, or is damaged gzip.
        """
        parts: list[bytes] = []
        for chunk in self._text():
            self._bytes_out += len(chunk)
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                parts.append(line + b"\n")
                yield b"".join(parts)
                parts.clear()
            if rest:
                # Joined once, at the end of the line: a line of many chunks stays linear.
                parts.append(rest)
        if parts:
            yield b"".join(parts)

    def _text(self) -> Iterator[bytes]:
        head, chunks = _peek(self._chunks())
        if head.startswith(_GZIP):
            head, chunks = _peek(_unpacked(chunks))
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                first = next(chunks)
                yield from _transcoded(chain([first[len(mark) :]], chunks), encoding)
                return
        yield from _transcoded(chunks, self._encoding)

    def _chunks(self) -> Iterator[bytes]:
        while True:
            self.waiting = True
            try:
                chunk = self._read(_CHUNK)
            finally:
                self.waiting = False
            if not chunk:
                return
            self._bytes_in += len(chunk)
            if self._digest is not None:
                self._digest.update(chunk)
            yield chunk


def open_source(name: str, *, encoding: str | None = None, digest: Any = None) -> Source:
    """Open the file *name*, or standard input for ``-``.

    Raises:
        UsageError: there is no such file, or it cannot be read.
    """
    encoding = encoding or "utf-8"
    if name == "-":
        stream = sys.stdin.buffer
        # The raw stream has no lock. A thread may still be reading when the command ends, and
        # the interpreter cannot close a buffered one that somebody else holds.
        read = getattr(stream, "raw", stream).read
        try:
            status = os.fstat(stream.fileno())
        except OSError:  # not a real file, as in a test
            status = None
        return Source("standard input", read, status, _leave_open, encoding=encoding)
    try:
        file = Path(name).open("rb", buffering=0)  # noqa: SIM115  closed by Source.close
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    status = os.fstat(file.fileno())
    return Source(name, file.read, status, file.close, encoding=encoding, digest=digest)


def check_text(name: str, line: bytes) -> None:
    """Raise UsageError if *line*, the first one of INPUT, shows that it is not text at all."""
    for start, what in _BINARY:
        if line.startswith(start):
            msg = f"{name} is {what}"
            raise UsageError(msg)
    if line[:4].count(b"\0") >= 2:
        # Text of ASCII characters in UTF-16 has a zero in every second byte.
        order = "be" if line.startswith(b"\0") else "le"
        width = 32 if line[:4].count(b"\0") == 3 else 16
        encoding = f"utf-{width}-{order}"
        msg = f"{name} looks like {encoding} without a byte order mark: --encoding {encoding}"
        raise UsageError(msg)


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


def unreadable(name: str, error: Exception) -> UsageError:
    """Return the error for an INPUT that cannot be read."""
    return UsageError(f"INPUT {name!r} cannot be read: {getattr(error, 'strerror', 0) or error}")


def _leave_open() -> None:
    """Do nothing: standard input is not ours to close."""


def _peek(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes of *chunks*, enough to know a byte order mark, and all of them."""
    head = next(chunks, b"")
    # A pipe may give a mark in pieces. Anything else is not waited for.
    while 0 < len(head) < _LONGEST_MARK and head[0] in b"\x00\x1f\xef\xfe\xff":
        more = next(chunks, b"")
        if not more:
            break
        head += more
    return head, chain([head], chunks)


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Give what gzip has packed, in one piece or several."""
    inflate: Any = None
    try:
        for chunk in chunks:
            data = chunk
            while data:
                if inflate is None:
                    data = data.lstrip(b"\0")  # padding between and after pieces
                    if not data:
                        break
                    inflate = zlib.decompressobj(wbits=31)
                if out := inflate.decompress(data):
                    yield out
                data = inflate.unused_data
                if inflate.eof:
                    inflate = None
    except zlib.error as error:
        msg = f"it is damaged gzip ({error})"
        raise gzip.BadGzipFile(msg) from error
    if inflate is not None:
        msg = "it ends in the middle of its gzip data"
        raise gzip.BadGzipFile(msg)


def _transcoded(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    if codecs.lookup(encoding).name == "utf-8":
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("retryexec.undecodable")
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    """Stand in for bytes that cannot be decoded: a lone surrogate, which is not UTF-8 either."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error("retryexec.undecodable", _undecodable)
