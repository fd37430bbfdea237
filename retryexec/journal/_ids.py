"""Ids of jobs: UUIDs of version 7."""

import os
from _thread import allocate_lock
from collections.abc import Callable
from itertools import count


def ids() -> Callable[[float], str]:
    """Return a function that makes new ids: UUIDs of version 7, for a time in seconds."""
    # Forty random bits for this process, and a counter with a random start, in the places that
    # the standard leaves to us.
    bits = int.from_bytes(os.urandom(10))
    middle = 7 << 76 | (bits & 0xFFF) << 64 | (bits >> 12 & 0xFFFFFFF | 0x80000000) << 32
    numbers = count(bits >> 40 & 0xFFFFFFFF)
    # Without the interpreter's own lock, two threads may get the same number from a counter.
    lock = allocate_lock()

    def new(now: float) -> str:
        with lock:
            number = next(numbers)
        milliseconds = int(now * 1000) if now > 0 else 0
        return "%032x" % (milliseconds << 80 | middle | number & 0xFFFFFFFF)

    return new
