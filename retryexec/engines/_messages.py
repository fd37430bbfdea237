"""Messages through a pipe, one in each direction at a time.

A message is its length, in eight bytes, and then itself. So one read gets all of a short one.
`Connection` takes two, and a thread that reads has to wait for the GIL after each.
"""

import os
from multiprocessing.connection import Connection
from typing import Any

HEADER = 8
# Up to so many bytes are written, and read, in one call.
SHORT = 16 * 1024


def send(pipe: "Connection[Any, Any]", message: bytes) -> None:
    """Write *message* into a pipe.

    Raises:
        OSError: the pipe is closed, here or at the other side.
    """
    header = len(message).to_bytes(HEADER, "big")
    # Joined only if that is cheap.
    for part in [header + message] if len(message) < SHORT else [header, message]:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(pipe.fileno(), rest) :]


def receive(pipe: "Connection[Any, Any]") -> bytes:
    """Read a message, behind which there is no other until it has been answered.

    Raises:
        EOFError, OSError: the pipe is closed, here or at the other side.
    """
    first = _read(pipe, SHORT)
    while len(first) < HEADER:  # it comes in pieces
        first += _read(pipe, SHORT)
    parts = [first[HEADER:]]
    missing = int.from_bytes(first[:HEADER], "big") - len(parts[0])
    while missing:
        parts.append(_read(pipe, missing))
        missing -= len(parts[-1])
    return b"".join(parts)


def _read(pipe: "Connection[Any, Any]", limit: int) -> bytes:
    some = os.read(pipe.fileno(), limit)
    if not some:
        raise EOFError
    return some
