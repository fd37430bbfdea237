"""The threads of an executor, found by their names, and waiting for what other threads do."""

import threading
import time
from collections.abc import Callable


def threads_of(prefix: str) -> list[threading.Thread]:
    """Return the threads of executors whose `thread_name_prefix` is *prefix*, while they live."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{prefix}_")]


def workers_of(prefix: str) -> list[threading.Thread]:
    """Return those of the threads that run jobs: they are numbered."""
    return [thread for thread in threads_of(prefix) if thread.name[len(prefix) + 1 :].isdigit()]


def until(condition: Callable[[], object]) -> None:
    """Look until *condition* holds, where no event tells of it: another thread or process acts."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.002)
