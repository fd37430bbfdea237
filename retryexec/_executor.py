"""RetryingExecutor: the public face of the pool in `_core`."""

import inspect
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextvars import Context, copy_context
from dataclasses import replace
from itertools import count, islice
from operator import attrgetter
from time import monotonic
from types import FunctionType, TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    Self,
    TypeAlias,
    TypeVar,
    overload,
)

from retryexec._cancel import CancelToken
from retryexec._clock import Clock, engine_clock
from retryexec._core.controlled import ControlledJob
from retryexec._core.counts import snapshot, stats
from retryexec._core.job import Job
from retryexec._core.key_values import checked_key, key_of
from retryexec._core.map import check_buffersize, results
from retryexec._core.pool import Pool
from retryexec._core.process import register
from retryexec._core.retry_future import RetryFuture
from retryexec._core.settings import JobSettings, Setup, cpu_count
from retryexec._core.shutdown import after_shutdown
from retryexec._core.steering import PendingJob, pending
from retryexec._core.worker import Worker
from retryexec._events import GiveUp, Retry, ShutdownReport, Stats, Success
from retryexec._journal_api import JobJournal, JournalLink, Recovered, checked_journal
from retryexec._policy import PolicyChanges, RetryPolicy, checked_policy
from retryexec._retriable import Retriable, runs_by_exec
from retryexec._suggest import check_using, suggests_names
from retryexec._typing import Unpack, override
from retryexec._validate import (
    Seconds,
    as_float,
    callable_or_none,
    coroutine_refusal,
    seconds,
    seconds_or_none,
    whole_number,
)

if TYPE_CHECKING:
    from retryexec.engines._engine import AttemptsOn
    from retryexec.guards import Guard

P = ParamSpec("P")
T = TypeVar("T")

Keep: TypeAlias = Literal["all", "latest"]

UNCHANGED: Any = object()

_prefixes = count()
_EMPTY = Context()
_NO_KWARGS: dict[str, Any] = {}


class RetryingExecutor(Executor):
    """A `concurrent.futures.Executor` that retries each job until it succeeds or fails for good.

    Use it like `ThreadPoolExecutor`, ``with`` included. A job between two attempts holds no
    thread, so *max_workers* limits only the attempts that run at the same time.

    Args:
        max_workers: the most threads, started as they are needed; by default as many as
            ThreadPoolExecutor would use.
        thread_name_prefix: how the threads' names begin.
        initializer, initargs: called as ``initializer(*initargs)`` in each new thread. If it
            raises, the executor is broken: pending jobs fail, and so does `submit`.
        policy: when to try again; `using` gives some jobs another policy.
        max_pending: the most unfinished jobs at a time; `submit` blocks until there is room.
            None for no limit.
        on_retry: called with a `Retry` before each wait, in the worker and the job's context.
        on_success: called with a `Success` when a job has succeeded, after its future has ended.
        on_give_up: called with a `GiveUp` when a job fails for good, before its future does.
            Without on_retry and on_give_up, the first retry after each type of error is logged,
            and so is a failure that nobody reads from the future.
        exit_timeout: seconds (or a timedelta) that the interpreter's exit waits for unfinished
            jobs before it abandons them and logs their names. None waits for all of them.
        clock: where the time comes from.
        attempts_on: where attempts run, if not on the executor's own threads: one of
            `retryexec.engines`, another Executor, or a callable that makes one. An attempt there
            holds no thread here. As many attempts run there as it has workers, but at most
            *max_workers*, if that is given.
        journal: a `retryexec.journal.Journal`, so that jobs survive the process. The executor opens
            it, which takes over the jobs of dead processes, and closes it when all jobs have ended.
        key: of the jobs that have the same key, one runs at a time. Give one hashable for all jobs,
            or a callable that returns a job's key; it is called with the arguments of the attempts,
            with a `Retriable` itself first. None means no key.
        keep: "all" runs the jobs of a key in the order they were accepted. With "latest", a newer
            job replaces the one that waits, whose future then ends as the newer one's does.
        guards: what each attempt has to pass, outermost first, such as a `RateLimit`. A job that a
            guard holds back waits without a thread and spends no attempt.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
        retryexec.journal.JournalError: the journal cannot be opened.
    """

    @suggests_names
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        policy: RetryPolicy = RetryPolicy(),
        max_pending: int | None = None,
        on_retry: Callable[[Retry], object] | None = None,
        on_give_up: Callable[[GiveUp], object] | None = None,
        on_success: Callable[[Success], object] | None = None,
        exit_timeout: Seconds | None = None,
        clock: Clock | None = None,
        journal: JobJournal | None = None,
        key: Callable[..., Hashable] | Hashable = None,
        keep: Keep = "all",
        guards: Iterable["Guard"] = (),
        attempts_on: "AttemptsOn | None" = None,
    ) -> None:
        most_away = max_workers
        if max_workers is None:
            # As ThreadPoolExecutor does.
            max_workers = min(32, cpu_count() + 4)
        positional: tuple[object, ...] = (max_workers, thread_name_prefix)
        if any(isinstance(one, RetryPolicy) for one in positional):
            msg = "policy= is a keyword: RetryingExecutor(policy=RetryPolicy(...))"
            raise TypeError(msg)
        setup = Setup(
            max_workers=whole_number(
                "max_workers must be greater than 0: it", max_workers, least=1
            ),
            thread_name_prefix=thread_name_prefix or f"RetryingExecutor-{next(_prefixes)}",
            initializer=callable_or_none("initializer", initializer),
            initargs=tuple(initargs),
            max_pending=None
            if max_pending is None
            else whole_number("max_pending", max_pending, least=1),
            exit_timeout=seconds_or_none("exit_timeout", exit_timeout),
            clock=engine_clock(clock),
        )
        if attempts_on is not None:
            from retryexec.engines._runner import runner_maker

            setup = replace(setup, make_runner=runner_maker(attempts_on, most_away))
        self._whole: RetryingExecutor | None = None  # the executor that this is a view of
        self._policy = checked_policy(policy)
        self._on_retry = callable_or_none("on_retry", on_retry)
        self._on_give_up = callable_or_none("on_give_up", on_give_up)
        self._on_success = callable_or_none("on_success", on_success)
        self._cancel: CancelToken | None = None
        self._key = key if callable(key) else checked_key(key)
        self._latest = _is_latest(keep)
        self._guards = _checked_guards(guards)
        self._link = None if journal is None else JournalLink(checked_journal(journal))
        self._move(Pool(setup))
        if self._link is not None:
            self._link.open()

    def _move(self, pool: Pool) -> None:
        """Hand all further jobs to *pool*; called by the constructor, and in a forked child."""
        self._pool = pool
        controlled = self._key is not None or bool(self._guards)
        self._settings = JobSettings(
            self._policy,
            pool.setup.clock,
            self._cancel,
            pool,
            self._on_retry,
            self._on_give_up,
            self._on_success,
            self._link,
            pool.logged_types if self._on_retry is None and self._on_give_up is None else None,
            self._key,
            self._latest,
            self._guards,
            controlled,
        )
        self._job_type: type[Job[Any]] = ControlledJob if controlled else Job
        # Whether a job goes straight to the pool.
        self._plain = self._link is None and self._cancel is None and not controlled
        register(self, pool, RetryingExecutor._move_after_fork, attrgetter("_settings"))
        if self._whole is None:
            if self._link is not None:
                self._link.serve(pool, self._settings)
            # A forgotten executor takes no more jobs, so its threads end once its jobs have.
            weakref.finalize(self, _close_forgotten, weakref.ref(pool)).atexit = False

    def _move_after_fork(self, successors: Mapping[Pool, Pool]) -> None:
        self._move(successors[self._pool])

    @overload
    def submit(self, fn: Retriable[T], /, *args: Any, **kwargs: Any) -> RetryFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> RetryFuture[T]: ...
    @override
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> RetryFuture[Any]:
        """Accept a job and return its future at once.

        Args:
            fn: a `Retriable`, whose ``exec()`` is run, or a callable.
            args, kwargs: the arguments of each call.

        Raises:
            TypeError: *fn* is neither.
            ExecutorShutdownError: the executor is shut down.
            BrokenThreadPool: an initializer has failed.
            PendingLimitError: `max_pending` is reached, and the caller is one of its own workers.
        """
        if fn.__class__ is FunctionType:  # the common case, checked quickly
            if fn.__code__.co_flags & inspect.CO_COROUTINE:
                raise TypeError(coroutine_refusal(fn))
            by_exec = False
        else:
            by_exec = runs_by_exec(fn)
        # Most contexts are empty, and one can serve all jobs, since attempts run in copies.
        job = self._job_type(
            self._settings, fn, by_exec, args, kwargs or _NO_KWARGS, copy_context() or _EMPTY
        )
        if self._plain:
            self._pool.accept(job)
        else:
            self._accept(job)
        return job

    def _accept(self, job: Job[Any]) -> None:
        """Accept *job* where more is to be done than to put it into the pool."""
        control = None
        if isinstance(job, ControlledJob):
            control = self._pool.control
            job.key = key_of(self._key, job)
        if self._link is None:
            self._pool.accept(job, control)
        else:
            if self._pool.refusal is not None:
                raise self._pool.refusal()  # before anything is written
            self._link.accept(job)
            try:
                self._pool.accept(job, control)
            except BaseException:
                self._link.refused(job)
                raise
        if self._cancel is not None:
            unregister = self._cancel.on_cancel(job.cancel)
            job.add_done_callback(lambda _: unregister())

    @override
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator like ``map(fn, *iterables)``, whose calls run concurrently.

        Args:
            fn: called with one item of each iterable.
            timeout: seconds from this call until the last result must be there.
            chunksize: accepted for compatibility, but not used; threads need no chunks.
            buffersize: the most jobs submitted ahead of the results taken; None submits all
                items at once, and so cannot take an endless iterable.

        Raises:
            TimeoutError: from the iterator, when *timeout* has passed.
            Exception: from the iterator, the exception with which a call finally failed.
        """
        whole_number("chunksize", chunksize, least=1)
        check_buffersize(buffersize)
        deadline = None if timeout is None else monotonic() + as_float(timeout)
        items = zip(*iterables, strict=False)
        futures = deque(self.submit(fn, *item) for item in islice(items, buffersize))
        if buffersize is None:
            return results(futures, deadline)  # without a reference to the executor
        return results(futures, deadline, (self.submit(fn, *item) for item in items))

    def using(
        self,
        policy: RetryPolicy | None = None,
        *,
        cancel: CancelToken | None = None,
        key: Callable[..., Hashable] | Hashable = UNCHANGED,
        keep: Keep | None = None,
        guards: Iterable["Guard"] | None = None,
        **changes: Unpack[PolicyChanges],
    ) -> "RetryingExecutor":
        """Return a view of this executor, with the same threads, for jobs with other settings.

        Args:
            policy: the view's policy; by default this executor's own.
            cancel: cancelling this token at once cancels the view's jobs that are queued or
                waiting; a running job can see it as ``current_attempt().cancelled``.
            key, keep, guards: as for the constructor; by default this executor's own. Views share
                the keys of their executor: jobs of one key run one after the other, whichever view
                they were submitted to.
            changes: changes to the policy, as in ``using(max_attempts=3)``.

        Raises:
            TypeError, ValueError: an argument is invalid; the message names it.
        """
        check_using(changes)
        view = object.__new__(RetryingExecutor)
        view._whole = self._whole or self
        view._on_retry, view._on_give_up = self._on_retry, self._on_give_up
        view._on_success, view._link = self._on_success, self._link
        policy = self._policy if policy is None else checked_policy(policy)
        if cancel is not None and not isinstance(cancel, CancelToken):
            msg = f"cancel takes a CancelToken (got {cancel!r})"
            raise TypeError(msg)
        view._cancel = self._cancel if cancel is None else cancel
        view._policy = policy.replace(**changes) if changes else policy
        view._key = self._key if key is UNCHANGED else key if callable(key) else checked_key(key)
        view._latest = self._latest if keep is None else _is_latest(keep)
        view._guards = self._guards if guards is None else _checked_guards(guards)
        view._move(self._pool)
        return view

    def shutdown(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: Seconds | None = None,
    ) -> ShutdownReport:
        """Accept no more jobs, and let the accepted ones finish.

        Args:
            wait: whether to return only when all jobs have ended, including those in backoff,
                and all threads too.
            cancel_futures: cancel the jobs that are queued or in backoff; a running attempt
                is the last of its job.
            timeout: seconds (or a timedelta) after which no further attempt starts. Jobs still
                queued or in backoff end with `ShutdownError`. It does not wait for attempts
                that are still running.

        Returns:
            what became of all the jobs that this executor accepted.

        Raises:
            RuntimeError: called with *wait* from one of the executor's own jobs.
        """
        limit = None if timeout is None else seconds("timeout", timeout)
        report = self._pool.shutdown.shut_down(
            wait=wait, cancel_futures=cancel_futures, timeout=limit
        )
        if self._link is not None:
            report = replace(report, journaled=report.abandoned + report.unfinished)
        return report

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._pool.shutdown.log_wait()
        self.shutdown(wait=True)

    def stats(self) -> Stats:
        """Return how many jobs are in each state now, and how many have ended in which way."""
        return stats(self._pool)

    def pending(self) -> list[PendingJob]:
        """Return the unfinished jobs: running, queued, held, and waiting ones, soonest due first.

        It looks at every one of them. To control a job, use the methods of its future:
        `RetryFuture.retry_now`, `RetryFuture.postpone` and `RetryFuture.cancel`.
        """
        return pending(self._pool)

    def pause(self) -> None:
        """Let no attempt start until `resume`; running ones go on, and jobs are still accepted.

        A shutdown ends the pause, since the jobs that it waits for would never end.
        """
        self._pool.steering.pause()

    def resume(self) -> None:
        """Let attempts start again after `pause`."""
        self._pool.steering.resume()

    @property
    def recovered(self) -> Recovered:
        """The jobs taken over from dead processes through the journal; none without a journal."""
        return Recovered() if self._link is None else self._link.recovered

    @property
    def _max_workers(self) -> int:
        # Monitoring tools, and CPython's own tests, read this and the next two off any pool.
        return self._pool.setup.max_workers

    @property
    def _broken(self) -> bool:
        return self._pool.broken

    @property
    def _threads(self) -> set[Worker]:
        return set(self._pool.threads())

    @override
    def __repr__(self) -> str:
        s = snapshot(self._pool)
        return (
            f"<{type(self).__name__} {self._pool.setup.thread_name_prefix!r}: {s.queued} queued, "
            f"{s.running} running, {s.waiting} waiting, {s.succeeded} succeeded, "
            f"{s.failed} failed, {s.cancelled} cancelled>"
        )


def _is_latest(keep: Any) -> bool:
    if keep not in ("all", "latest"):
        msg = f'keep takes "all" or "latest" (got {keep!r})'
        raise ValueError(msg)
    return bool(keep == "latest")


def _checked_guards(guards: Any) -> "tuple[Guard, ...]":
    if type(guards) is tuple and not guards:
        return ()
    from retryexec.guards._guard import checked_guards  # here, since most programs have none

    return checked_guards(guards)


def _close_forgotten(reference: "weakref.ref[Pool]") -> None:
    pool = reference()
    if pool is not None:
        pool.shutdown.close(after_shutdown)
