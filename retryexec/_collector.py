"""No garbage collection while many objects are made, all of which stay."""

import gc
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from operator import call

BATCH = 100_000
"""So many jobs are made at a time, in half a second: what other threads leave must not pile up."""


@contextmanager
def collector_off() -> Generator[None]:
    """Keep the garbage collector off meanwhile, in all threads; unless the user has it off.

    It looks through new objects again and again for those that nobody uses. Where all of them
    stay, that takes longer than to make them. Of two threads in here at the same time, the first
    one to leave turns it on again.
    """
    collects = gc.isenabled()
    try:
        gc.disable()
        yield
        if collects and gc.get_freeze_count() == 0:
            # This makes all objects old ones, which are looked at only when all there are are. It
            # is one call into C, since an interrupt between the two would leave them frozen.
            deque(map(call, (gc.freeze, gc.unfreeze)), maxlen=0)
    finally:
        if collects:
            gc.enable()
