"""Engines: where the attempts of an executor run, if not on its own threads.

``RetryingExecutor(attempts_on=processes())`` runs them in other processes; `dask` on a cluster. Any
`concurrent.futures.Executor` can be given as well, or a callable that makes one.
"""

from retryexec.engines._carried import RemoteError, RemoteTraceback
from retryexec.engines._dask import dask
from retryexec.engines._engine import Engine
from retryexec.engines._interpreters import interpreters
from retryexec.engines._processes import processes

__all__ = ["Engine", "RemoteError", "RemoteTraceback", "dask", "interpreters", "processes"]
