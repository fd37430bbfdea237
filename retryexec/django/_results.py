"""What became of tasks: results in one of Django's caches."""

# Django has no types, and before Python 3.12 no tasks.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownParameterType=false

from typing import Any

from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.tasks import TaskResult

# How many results the memory of a process has room for.
MAX_RESULTS = 10_000


class Results:
    """The results of a backend's tasks.

    Args:
        alias: the backend's name.
        cache: the name of the cache that has them; None for the memory of this process.
        timeout: seconds that a result is kept after its last change; None for ever.
    """

    def __init__(self, alias: str, cache: str | None, timeout: float | None) -> None:
        self._cache = cache
        self._timeout = timeout
        # All instances of one name in a process have the same content.
        self._memory = LocMemCache(
            f"retryexec task results of {alias}", {"max_entries": MAX_RESULTS}
        )

    def get(self, result_id: str) -> TaskResult | None:
        """Return a copy of the result, or None if there is none."""
        return self._place().get(_key(result_id))

    def put(self, result: TaskResult) -> None:
        """Keep a copy of the result."""
        self._place().set(_key(result.id), result, timeout=self._timeout)

    def remove(self, result_id: str) -> None:
        """Forget the result."""
        self._place().delete(_key(result_id))

    def _place(self) -> Any:
        # Django has an object of a cache for each thread.
        return self._memory if self._cache is None else caches[self._cache]


def _key(result_id: str) -> str:
    return f"retryexec.task.{result_id}"
