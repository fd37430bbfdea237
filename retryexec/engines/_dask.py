"""The engine of a Dask cluster."""

from concurrent.futures import Executor
from functools import partial
from importlib import import_module
from time import monotonic
from typing import Any

from retryexec._core.away import Isolation
from retryexec._typing import override
from retryexec.engines._engine import Engine

# For how many seconds the number of the cluster's threads is taken to be the same.
SIZE_HOLDS = 2.0


def dask(client_or_address: Any, *, max_crashes: int = 3) -> Engine:
    """Run attempts on a cluster of Dask, by way of its client.

    The job, its arguments and its outcome are pickled by cloudpickle, which takes functions
    defined anywhere. retryexec has to be installed on the workers, too. As many attempts are there
    at a time as the cluster has threads; it may grow and shrink. Dask runs an attempt again whose
    worker disappears, so often as its ``allowed-failures`` says; each of those is a crash here, and
    none of them another attempt.

    Args:
        client_or_address: a `distributed.Client`, or a cluster, which stay yours to close; or the
            address of a scheduler.
        max_crashes: with how many workers a job may go down before it fails with
            `StopReason.CRASHED`.

    Raises:
        ImportError: distributed is not installed (the extra is ``retryexec[dask]``).
        TypeError: it is none of these.
    """
    distributed = _distributed()
    given = client_or_address
    if isinstance(given, distributed.Client) and given.asynchronous:
        msg = f"dask() takes a client that is not asynchronous (got {given!r})"
        raise TypeError(msg)
    if not isinstance(given, (distributed.Client, str, distributed.deploy.Cluster)):
        msg = (
            "dask() takes a distributed.Client, a cluster, or the address of a scheduler, such as "
            f"'tcp://127.0.0.1:8786' (got {given!r})"
        )
        raise TypeError(msg)
    return Engine(
        make=partial(_ClusterExecutor, given),
        max_crashes=max_crashes,
        size=_ClusterExecutor.size,
        crash_types=(distributed.scheduler.KilledWorker,),
        crashes=_workers_lost,
        cloud=True,
        isolation=Isolation.EXCLUSIVE,
    )


def _distributed() -> Any:
    try:
        return import_module("distributed")
    except ImportError as error:
        msg = "dask() needs the package distributed: pip install 'retryexec[dask]'"
        raise ImportError(msg) from error


def _workers_lost(error: BaseException) -> int:
    """Return how many workers died with the task that failed with *error*."""
    return 1 + int(getattr(error, "allowed_failures", 0))


class _ClusterExecutor(Executor):
    """The executor of a client, with its own client if it was given an address."""

    def __init__(self, given: Any) -> None:
        distributed = _distributed()
        own = not isinstance(given, distributed.Client)
        self._client: Any = distributed.Client(given, set_as_default=False) if own else given
        self._own = own
        # Each call is one of its own, though it may look like another one.
        self._executor: Any = self._client.get_executor(pure=False, retries=0)
        self._size = 1
        self._size_until = 0.0

    @override
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._executor.submit(fn, *args, **kwargs)

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        try:
            self._executor.shutdown(wait=wait and not cancel_futures)  # else it cancels all
        finally:
            if self._own:
                self._client.close()

    def size(self) -> int:
        """Return how many threads the cluster's workers have; 1 while it has no worker."""
        if monotonic() >= self._size_until:
            self._size = max(1, sum(self._client.nthreads().values()))
            self._size_until = monotonic() + SIZE_HOLDS
        return self._size
