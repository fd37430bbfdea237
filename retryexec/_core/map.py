"""What `RetryingExecutor.map` returns: an iterator over the results of futures, in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import TypeVar

from retryexec._core.retry_future import RetryFuture

T = TypeVar("T")


def check_buffersize(buffersize: object) -> None:
    """Raise for what no *buffersize* can be, as the standard library does from Python 3.14 on."""
    if buffersize is None:
        return
    if not isinstance(buffersize, int):
        msg = "buffersize must be an integer or None"
        raise TypeError(msg)
    if buffersize < 1:
        msg = "buffersize must be None or > 0"
        raise ValueError(msg)


def results(
    futures: deque[RetryFuture[T]],
    deadline: float | None,
    more: Iterable[RetryFuture[T]] = (),
) -> Iterator[T]:
    """Yield the results of *futures* in order, submitting one of *more* ahead of each."""
    ahead = iter(more)
    try:
        while futures:
            futures.extend(islice(ahead, 1))
            timeout = None if deadline is None else deadline - monotonic()
            # No names for the future and its result: a suspended generator would keep them alive.
            yield _result_or_cancel(futures.popleft(), timeout)
    finally:
        for future in futures:
            future.cancel()


def _result_or_cancel(future: RetryFuture[T], timeout: float | None) -> T:
    try:
        return future.result(timeout)
    finally:
        future.cancel()
        del future  # a frame of the traceback, if there is one, does not hold it
