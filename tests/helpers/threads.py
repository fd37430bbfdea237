"""The threads of an executor, found by their names rather than in its private fields."""

import threading


def threads_of(prefix: str) -> list[threading.Thread]:
    """Return the threads of executors whose `thread_name_prefix` is *prefix*, while they live."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{prefix}_")]


def workers_of(prefix: str) -> list[threading.Thread]:
    """Return those of the threads that run jobs: they are numbered."""
    return [thread for thread in threads_of(prefix) if thread.name[len(prefix) + 1 :].isdigit()]
