"""Which run it is: what makes a line of INPUT the same record today as yesterday."""

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from retryexec.cli._misuse import Misuse

_BLOCK = 1 << 20


class Identity(NamedTuple):
    """What has to be the same for a run to be resumed.

    Attributes:
        kind: what the journal calls its jobs: made of TARGET's class.
        format: of INPUT.
        size, digest: of what INPUT holds.
        name: of INPUT, for messages; the file may be moved.
    """

    kind: str
    format: str
    size: int
    digest: str
    name: str

    def difference(self, other: "Identity") -> str | None:
        """Return what keeps *other* from being the same run; None if nothing does."""
        if self.kind != other.kind:
            return f"its records were jobs of kind {other.kind!r}, and are {self.kind!r} now"
        if self.format != other.format:
            return f"INPUT was {other.format}, and is {self.format} now"
        if self.size != other.size:
            return f"INPUT {self.name!r} had {other.size:,} bytes, and has {self.size:,} now"
        if self.digest != other.digest:
            return f"INPUT {self.name!r} does not hold what it held"
        return None


def identify(name: str, *, kind: str, format: str) -> Identity:  # noqa: A002  as the option
    """Return the identity of a run over the file *name*, which is read once for it.

    Raises:
        Misuse: it cannot be read, or is no file that can be read again.
    """
    if name == "-":
        msg = (
            "--journal needs an INPUT that can be read again after a crash, which standard input "
            "cannot: save it into a file first"
        )
        raise Misuse(msg)
    digest = hashlib.blake2b(digest_size=16)
    size = 0
    try:
        with Path(name).open("rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                msg = (
                    "--journal needs an INPUT that can be read again after a crash, and "
                    f"{name!r} is no regular file: save it into one first"
                )
                raise Misuse(msg)
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        msg = f"INPUT {name!r} cannot be read: {error.strerror}"
        raise Misuse(msg) from error
    return Identity(kind, format, size, digest.hexdigest(), name)
