"""Engines: where the attempts of an executor run, if not on its own threads.

``RetryingExecutor(attempts_on=processes())`` runs them in other processes; `dask` on a cluster. Any
`concurrent.futures.Executor` can be given as well, or a callable that makes one.
"""

from retryexec.engines._carried import RemoteError, RemoteTraceback
from retryexec.engines._dask import dask
from retryexec.engines._engine import AttemptsOn, Engine
from retryexec.engines._processes import interpreters, processes
from retryexec.engines._runner import runner_maker

__all__ = [
    "AttemptsOn",
    "Engine",
    "RemoteError",
    "RemoteTraceback",
    "dask",
    "interpreters",
    "processes",
    "runner_maker",
]
