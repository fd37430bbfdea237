"""Ids of jobs: UUIDs of version 7."""

import os
from _thread import allocate_lock
from collections.abc import Callable
from itertools import count

_PAIRS = tuple(f"{n:02x}" for n in reversed(range(256)))


def ids() -> tuple[Callable[[float], str], Callable[[str], None]]:
    """Return a function that makes new ids, and one that lets them follow an id.

    They are UUIDs of version 7, for a time in seconds. Beside the time, an id has a number: one
    counter for all threads, with a random start. An id is greater than those before it, whichever
    way the clock has jumped, since of two jobs of a key the one with the greater id is the newer.
    """
    # The 80 bits after the time's 48: four for the version, and in the places that the standard
    # leaves to us 12 and 61 random bits, to the latter of which the counter adds.
    bits = int.from_bytes(os.urandom(10))
    blocks = count((7 << 76 | (bits & 0xFFF) << 64 | 2 << 62 | bits >> 19) >> 8)
    # Numbers nobody has taken, the next one last. Taking one off is a single call into C, which
    # threads cannot share; and 256 at a time are made in a third of the time.
    free: list[str] = []
    lock = allocate_lock()  # held by the thread that makes more
    latest = 0  # the time of the latest id, in milliseconds

    def more() -> None:
        with lock:
            if not free:
                block = f"{next(blocks):x}"
                free.extend([block + pair for pair in _PAIRS])

    def new(now: float) -> str:
        nonlocal latest
        milliseconds = int(now * 1000)
        if milliseconds < latest:
            milliseconds = latest
        else:
            latest = milliseconds
        time = hex(milliseconds + 2**48)[3:]
        while True:
            try:
                return time + free.pop()
            except IndexError:
                more()

    def follow(id_: str) -> None:
        nonlocal latest
        # The one after its time, since the number is another process's.
        latest = max(latest, int(id_[:12], 16) + 1)

    return new, follow
