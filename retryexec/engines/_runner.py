"""Runner: sends attempts to the executors of an engine, and renews those that break."""

import os
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures.process import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pickle import PicklingError
from threading import Lock
from typing import Any

from retryexec._core.away import Flight, Isolation, Outcome
from retryexec._core.process import finish_before_others
from retryexec._errors import PermanentError
from retryexec._exceptions import report
from retryexec._outcome import type_name
from retryexec.engines._engine import Engine, as_engine, default_size
from retryexec.engines._pool import ProcessPool, restore_main_file
from retryexec.engines._remote import Task, facts_of, outcome_of, pickled_call, run_pickled

# How often a broken executor is renewed for one attempt that has not been sent yet.
TRIES = 3


class Crew:
    """One executor of an engine: made when it is needed, and again when it has broken."""

    def __init__(self, engine: Engine, process: int) -> None:
        self._engine = engine
        self._process = process  # where the engine was given its executor
        # Guards the executor, which is made while it is held: so that there is one.
        self._lock = Lock()
        self._executor: Executor | None = None

    @property
    def made(self) -> bool:
        """Whether there is an executor now."""
        return self._executor is not None

    def executor(self) -> Executor:
        """Return the executor, which is made now if there is none.

        Raises:
            PermanentError: this is a forked child, and the executor its parent's; or there is a
                function that makes something else.
        """
        engine = self._engine
        if engine.executor is not None:
            if os.getpid() != self._process:
                msg = (
                    f"attempts_on={engine.executor!r} belongs to the process that this one was "
                    "forked from: give a callable that makes an executor"
                )
                raise PermanentError(RuntimeError(msg))
            return engine.executor
        with self._lock:
            if self._executor is None:
                assert engine.make is not None
                self._executor = made = engine.make()
                if not isinstance(made, Executor):
                    self._executor = None
                    msg = f"attempts_on must make an Executor (it made {made!r})"
                    raise PermanentError(TypeError(msg))
                finish_before_others()
            return self._executor

    def submit(self, call: Any, *args: Any) -> tuple[Executor, Future[Any]]:
        """Send a call to the executor, which is renewed if it is found broken."""
        restore_main_file()
        for last in (False,) * (TRIES - 1) + (True,):
            executor = self.executor()
            try:
                return executor, executor.submit(call, *args)
            except PermanentError:
                raise
            except Exception as error:
                # It is broken, as BrokenExecutor says, or shut down; or about to find that it is
                # broken, and then raises whatever it may.
                if self._engine.make is None and isinstance(error, RuntimeError):
                    raise PermanentError(error) from None
                if last or self._engine.make is None:
                    raise
                self.discard(executor)
        raise AssertionError

    def discard(self, executor: Executor) -> None:
        """Let go of *executor*, which has broken; the next call makes another one."""
        with self._lock:
            if self._executor is not executor:
                return
            self._executor = None
        executor.shutdown(wait=False)

    def close(self, *, wait: bool) -> None:
        """Shut the executor down if it is ours; the next call would make another one."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=wait)

    def kill(self) -> None:
        """Stop what runs on the executor, as far as that can be."""
        executor = self._executor
        if isinstance(executor, ProcessPool):
            executor.kill()
        elif isinstance(executor, ProcessPoolExecutor):
            processes: dict[int, Any] | None = getattr(executor, "_processes", None)
            for process in list((processes or {}).values()):
                process.kill()


class EngineRunner:
    """The attempts of one pool at an engine; a `retryexec._core.away.Runner`."""

    def __init__(self, engine: Engine, process: int) -> None:
        self._engine = engine
        self._crew = Crew(engine, process)
        # Where a suspect runs, so that the others go on meanwhile.
        apart = engine.isolation is Isolation.SECLUDED
        self._secluded = Crew(engine, process) if apart else self._crew
        self.max_crashes = engine.max_crashes
        self.isolation = engine.isolation
        self._size = engine.max_workers

    def size(self) -> int:
        """Return how many attempts the engine runs at a time."""
        engine = self._engine
        if engine.size is None and self._size is not None:
            return self._size
        if engine.executor is None and not self._crew.made:
            return 1  # until the first attempt
        try:
            size = (engine.size or default_size)(self._crew.executor())
        except Exception:
            return self._size or 1  # of a cluster that cannot be reached now
        if engine.max_workers is not None:
            size = min(size, engine.max_workers)
        self._size = size
        return size

    def send(self, flight: Flight) -> Future[Any]:
        """Send an attempt to the engine.

        Raises:
            PermanentError: it can never be sent; its `exception` says why.
            Exception: what kept it from being sent this time.
        """
        engine, job = self._engine, flight.job
        crew = self._secluded if flight.alone else self._crew
        if _pickles(crew.executor()) or engine.cloud:
            try:
                call = pickled_call(job, cloud=engine.cloud)
            except PicklingError as error:
                raise PermanentError(error) from None
            facts = facts_of(job, same_host=engine.same_host, cloud=engine.cloud)
            flight.engine, future = crew.submit(run_pickled, call, *facts)
        else:
            flight.engine, future = crew.submit(Task(job))
        return future

    def outcome(self, flight: Flight) -> Outcome:
        """Return what became of an attempt that has come back; renew the executor if it broke."""
        future, flight.future = flight.future, None
        assert future is not None
        crew = self._secluded if flight.alone else self._crew
        if future.cancelled():
            crew.discard(flight.engine)
            msg = "where the attempt ran, it was cancelled: the executor was shut down, or lost"
            return Outcome(None, crash=BrokenExecutor(msg))
        # Not raised: its traceback would lead to the job.
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            if self.isolation is not Isolation.EXACT:
                crew.discard(flight.engine)
            return Outcome(None, crash=error)
        if isinstance(error, self._engine.crash_types):
            lost = 1 if self._engine.crashes is None else self._engine.crashes(error)
            return Outcome(None, crash=error, crashes=lost)
        if error is not None:  # it could not be sent there, or its outcome not be sent back
            return Outcome(PermanentError(error))
        sent = future.result()
        return sent if isinstance(sent, Outcome) else outcome_of(flight.job, sent)

    def can_renew(self) -> bool:
        """Return whether there can be another executor in the place of one that broke."""
        return self._engine.make is not None

    def close(self) -> None:
        """Shut the executors down that are ours, and wait for their ends."""
        for crew in (self._crew, self._secluded):
            try:
                crew.close(wait=True)
            except Exception as error:
                report(
                    "an executor of attempts_on= could not be shut down: %s", type_name(type(error))
                )

    def rest(self) -> None:
        """Let go of what suspects needed: there are none any more."""
        if self._secluded is not self._crew:
            with suppress(Exception):
                self._secluded.close(wait=False)

    def kill(self) -> None:
        """Stop what runs at the engine, as far as that can be."""
        self._crew.kill()
        self._secluded.kill()


def _pickles(executor: Executor) -> bool:
    """Return whether *executor* is known to run calls in another process or interpreter."""
    if isinstance(executor, (ProcessPool, ProcessPoolExecutor)):
        return True
    return any(kind.__name__ == "InterpreterPoolExecutor" for kind in type(executor).__mro__)


def runner_maker(attempts_on: Any, max_workers: int | None) -> Callable[[], EngineRunner]:
    """Return what makes the runner of each pool of an executor.

    Args:
        attempts_on: as `RetryingExecutor` takes it.
        max_workers: the most attempts at a time; None for as many as the engine runs.

    Raises:
        TypeError: *attempts_on* is neither an executor nor a callable that makes one.
    """
    engine = as_engine(attempts_on)
    if max_workers is not None:
        most = max_workers if engine.max_workers is None else min(max_workers, engine.max_workers)
        engine = replace(engine, max_workers=most)
    finish_before_others()
    return partial(EngineRunner, engine, os.getpid())
