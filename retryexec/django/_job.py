"""TaskJob: an enqueued task as the executor has it, and its journal writes it down."""

# Django has no types, and before Python 3.12 no tasks.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownParameterType=false

import os
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from traceback import format_exception
from typing import Any

from django.db import close_old_connections
from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus, task_backends
from django.tasks.base import TaskError
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from retryexec._errors import PermanentError, RetryAfter
from retryexec._events import GiveUp, Success


@dataclass(frozen=True, slots=True)
class TaskJob:
    """One enqueued task; run by `exec`, once an attempt.

    Attributes:
        id: that of the task's result.
        task: where the task can be imported from.
        backend: the name of the backend that it was enqueued with.
        queue_name: the task's queue.
        run_after: before this time it does not start, in seconds since the epoch; None for now.
        enqueued_at: when it was enqueued, in seconds since the epoch.
        args, kwargs: what the task is called with, as JSON has it.
    """

    id: str
    task: str
    backend: str
    queue_name: str
    run_after: float | None
    enqueued_at: float
    args: list[Any]
    kwargs: dict[str, Any]

    def exec(self) -> Any:
        """Make one attempt."""
        backend = task_backends[self.backend]
        result = self.result()
        now = timezone.now()
        _change(result, status=TaskResultStatus.RUNNING, last_attempted_at=now)
        if result.started_at is None:
            _change(result, started_at=now)
        result.worker_ids.append(_worker_id())
        backend.results.put(result)
        task_started.send_robust(sender=type(backend), task_result=result)
        close_old_connections()  # as before and after a request: one may have been lost meanwhile
        try:
            return _call(result)
        except BaseException as error:
            result.errors.append(_task_error(error))
            _change(result, status=TaskResultStatus.READY)
            backend.results.put(result)
            raise
        finally:
            close_old_connections()

    def result(self) -> TaskResult:
        """Return the task's result as it is kept, or, if it is not any more, made anew."""
        kept: TaskResult | None = task_backends[self.backend].results.get(self.id)
        if kept is not None:
            return kept
        run_after = None if self.run_after is None else _time(self.run_after)
        task: Task = import_string(self.task)
        return new_result(
            task.using(queue_name=self.queue_name, backend=self.backend, run_after=run_after),
            self.id,
            self.args,
            self.kwargs,
            _time(self.enqueued_at),
        )


def job_of(result: TaskResult) -> TaskJob:
    """Return the job for a task that was enqueued just now."""
    run_after = result.task.run_after
    assert result.enqueued_at is not None
    return TaskJob(
        id=result.id,
        task=result.task.module_path,
        backend=result.backend,
        queue_name=result.task.queue_name,
        run_after=None if run_after is None else run_after.timestamp(),
        enqueued_at=result.enqueued_at.timestamp(),
        args=result.args,
        kwargs=result.kwargs,
    )


def new_result(
    task: Task, result_id: str, args: Any, kwargs: Any, enqueued_at: datetime | None
) -> TaskResult:
    """Return the result of a task that has not run yet."""
    return TaskResult(
        task=task,
        id=result_id,
        status=TaskResultStatus.READY,
        enqueued_at=enqueued_at,
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=list(args),
        kwargs=dict(kwargs),
        backend=task.backend,
        errors=[],
        worker_ids=[],
    )


def set_enqueued(result: TaskResult) -> None:
    """Say that the task has been enqueued now."""
    _change(result, enqueued_at=timezone.now())


def keep_success(event: Success) -> None:
    """Keep what a task returned; the executor's on_success."""
    result = event.job.result()
    _change(result, status=TaskResultStatus.SUCCESSFUL, _return_value=event.result)
    _finish(event.job, result)


def keep_failure(event: GiveUp) -> None:
    """Keep that a task has failed for good; the executor's on_give_up."""
    result = event.job.result()
    if event.exception is not None:
        last = _task_error(event.exception)
        # An attempt has told of it, unless none could be made, or it was a shutdown that ended it.
        if not result.errors or (
            result.errors[-1].exception_class_path != last.exception_class_path
        ):
            result.errors.append(last)
    _change(result, status=TaskResultStatus.FAILED)
    _finish(event.job, result)


def _finish(job: TaskJob, result: TaskResult) -> None:
    backend = task_backends[job.backend]
    _change(result, finished_at=timezone.now())
    backend.results.put(result)
    task_finished.send_robust(sender=type(backend), task_result=result)


def _call(result: TaskResult) -> Any:
    task = result.task
    args = (TaskContext(task_result=result), *result.args) if task.takes_context else result.args
    value = task.call(*args, **result.kwargs)
    try:
        return normalize_json(value)
    except TypeError as error:
        raise PermanentError(error) from None  # it is done, and would return the same again


def _change(result: TaskResult, **changes: Any) -> None:
    for name, value in changes.items():
        object.__setattr__(result, name, value)  # as Django does: it is frozen for users


def _task_error(error: BaseException) -> TaskError:
    if isinstance(error, PermanentError):
        error = error.exception
    elif isinstance(error, RetryAfter) and error.__cause__ is not None:
        error = error.__cause__
    kind = type(error)
    return TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback="".join(format_exception(error)),
    )


def _time(seconds: float) -> datetime:
    made = datetime.fromtimestamp(seconds, UTC)
    return made if timezone.is_aware(timezone.now()) else timezone.make_naive(made)


def _worker_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{threading.current_thread().name}"
