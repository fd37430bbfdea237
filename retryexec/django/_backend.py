"""RetryingBackend: what `TASKS` names, and the executor behind it."""

# Django has no types, and before Python 3.12 no tasks.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false, reportImplicitOverride=false

import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.tasks import Task, TaskResult
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils.crypto import get_random_string

from retryexec._events import GiveUp
from retryexec._executor import RetryingExecutor
from retryexec._outcome import StopReason
from retryexec._policy import RetryPolicy
from retryexec.django._job import (
    TaskJob,
    job_of,
    keep_failure,
    keep_success,
    new_result,
    set_enqueued,
)
from retryexec.django._results import Results
from retryexec.guards import AttemptRequest, Outcome

WEEK = 7 * 86400.0

OPTIONS = {
    "enqueue_on_commit": True,
    "exit_timeout": 30.0,
    "guards": (),
    "journal": None,
    "max_pending": None,
    "max_workers": None,
    "policy": RetryPolicy(),
    "results": None,
    "results_timeout": WEEK,
}
"""What `OPTIONS` may have, with the defaults."""


class RetryingBackend(BaseTaskBackend):  # type: ignore[misc]
    """Runs tasks on threads of this process, and tries those again that fail.

    Named by ``BACKEND`` in ``TASKS``. All threads of a process share one executor for each backend,
    which is made with the first task, or when `executor` is asked for.

    ``OPTIONS`` may have, beside the executor's own *max_workers*, *max_pending*, *guards* and
    *exit_timeout* (30 seconds by default):

    - *policy*: a `RetryPolicy`, or a dict of its arguments.
    - *journal*: the directory, or the URL of the PostgreSQL server, of a journal, in which tasks
      survive the process.
    - *enqueue_on_commit*: whether a task that is enqueued within a transaction starts only after
      its commit, and never if it is rolled back; True by default. A name is that of the database
      whose transaction counts.
    - *results*: the name of the cache that has the results, which all processes see that share it.
      By default they are in the memory of the process.
    - *results_timeout*: seconds that a result is kept; a week by default, and None for ever.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = False  # tasks start in the order in which they were enqueued

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        if unknown := sorted(self.options.keys() - OPTIONS.keys()):
            msg = (
                f"OPTIONS of the task backend {alias!r} takes {', '.join(OPTIONS)} "
                f"(got {', '.join(map(repr, unknown))})"
            )
            raise InvalidTaskBackend(msg)
        self._settings: dict[str, Any] = OPTIONS | self.options
        self.results = Results(alias, self._settings["results"], self._settings["results_timeout"])

    @property
    def executor(self) -> RetryingExecutor:
        """The executor that runs the tasks; made now if there is none.

        With a journal, this takes over what dead processes have left.
        """
        with _lock:
            executor = _executors.get(self.alias)
            if executor is None:
                executor = _executors[self.alias] = _make_executor(self.alias, self._settings)
            return executor

    def enqueue(  # pyright: ignore[reportIncompatibleMethodOverride]  Django has no types
        self, task: Task, args: Any, kwargs: Any
    ) -> TaskResult:
        """Queue a task, now or after the commit of the transaction that this is called in."""
        self.validate_task(task)
        result = new_result(task, get_random_string(32), args, kwargs, None)
        submit = partial(self._submit, result)
        on_commit = self._settings["enqueue_on_commit"]
        database = on_commit if isinstance(on_commit, str) else DEFAULT_DB_ALIAS
        # Asked first, since on_commit would connect to a database that nothing else may use.
        if on_commit and connections[database].in_atomic_block:
            transaction.on_commit(submit, using=database)
        else:
            submit()
        return result

    def _submit(self, result: TaskResult) -> None:
        set_enqueued(result)
        self.results.put(result)
        try:
            self.executor.submit(job_of(result))
        except BaseException:
            self.results.remove(result.id)
            raise
        task_enqueued.send_robust(sender=type(self), task_result=result)

    def get_result(self, result_id: str) -> TaskResult:
        """Return the result of this id.

        Raises:
            TaskResultDoesNotExist: it is not kept, or not any more, where this process sees it.
        """
        result = self.results.get(result_id)
        if result is None:
            raise TaskResultDoesNotExist(result_id)
        return result


# Guards the executors, each of a backend's name. Held while one is made, so that there is one.
_lock = threading.Lock()
_executors: dict[str, RetryingExecutor] = {}


def _make_executor(alias: str, settings: Mapping[str, Any]) -> RetryingExecutor:
    policy, journal = settings["policy"], settings["journal"]
    if journal is not None:
        from retryexec.journal import Journal

        journal = Journal(journal, jobs={"django.task": TaskJob})
    return RetryingExecutor(
        settings["max_workers"],
        f"tasks-{alias}",
        policy=RetryPolicy(**policy) if isinstance(policy, Mapping) else policy,
        guards=[_RunAfter(), *settings["guards"]],
        max_pending=settings["max_pending"],
        exit_timeout=settings["exit_timeout"],
        on_success=keep_success,
        on_give_up=partial(_keep_failure, journaled=journal is not None),
        journal=journal,
    )


def _keep_failure(event: GiveUp, *, journaled: bool) -> None:
    left = (StopReason.SHUTDOWN, StopReason.MOVED)
    if not (journaled and event.stop_reason in left):  # else another process runs it
        keep_failure(event)


class _RunAfter:
    """A guard that holds a task until its `run_after`."""

    def admit(self, request: AttemptRequest) -> float | None:
        """Let it go, or say when its time has come."""
        run_after = getattr(request.job, "run_after", None)
        left = 0.0 if run_after is None else run_after - time.time()
        # Times of day may be set anew, so it is asked again before a week has passed.
        return None if left <= 0.0 else request.now() + min(left, WEEK)

    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
        """Hold nothing for it."""


def _forget_executors(*, setting: str, **_: Any) -> None:
    """End the executors that have settings of before; tests change `TASKS`."""
    if setting == "TASKS":
        with _lock:
            executors = list(_executors.values())
            _executors.clear()
        for executor in executors:
            executor.shutdown(cancel_futures=True)


setting_changed.connect(_forget_executors)
