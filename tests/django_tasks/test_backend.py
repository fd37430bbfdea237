"""Django's tasks on an executor, tested with Django itself."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.jobs import InThread
from helpers.threads import until

if sys.version_info < (3, 12):
    pytest.skip("django.tasks came with Django 6, which needs Python 3.12", allow_module_level=True)

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        USE_TZ=True,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CACHES={"shared": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    )
    django.setup()

from django.db import connection, transaction
from django.tasks import TaskResult, TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.test.utils import override_settings
from django.utils import timezone

AT_ONCE = {"max_attempts": 3, "backoff": [0.0, 0.0]}


def backend(**options: Any) -> Any:
    """Be the settings of a backend with these options."""
    return override_settings(
        TASKS={
            "default": {
                "BACKEND": "retryexec.django.RetryingBackend",
                "QUEUES": ["default", "mail"],
                "OPTIONS": {"policy": AT_ONCE} | options,
            }
        }
    )


@pytest.fixture(autouse=True)
def tasks() -> Iterator[Any]:
    with backend():
        from helpers import tasks

        tasks.gate.clear()
        tasks.runs.clear()
        yield tasks


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    yield
    connection.close()


def finished(result: TaskResult) -> TaskResult:
    def look() -> bool:
        result.refresh()
        return bool(result.is_finished)

    until(look)
    return result


def test_a_task_is_enqueued_and_its_result_kept(tasks: Any) -> None:
    result = tasks.double.enqueue(4)
    assert (result.args, result.kwargs, result.backend) == ([4], {}, "default")
    assert result.enqueued_at is not None
    assert finished(result).status == TaskResultStatus.SUCCESSFUL
    assert (result.return_value, result.attempts, result.errors) == (8, 1, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert tasks.double.get_result(result.id).return_value == 8
    with pytest.raises(TaskResultDoesNotExist):
        tasks.double.get_result("unknown")


@pytest.mark.leaks("asgiref keeps a thread for what it calls")
def test_async_tasks_and_callers(tasks: Any) -> None:
    async def main() -> TaskResult:
        result = await tasks.greet.aenqueue(name="Ada")
        while not result.is_finished:
            await asyncio.sleep(0.01)
            await result.arefresh()
        return await tasks.greet.aget_result(result.id)

    result = asyncio.run(main())
    assert (result.return_value, result.task.queue_name) == ("Hello Ada", "mail")


def test_a_task_is_tried_again_by_the_policy(tasks: Any) -> None:
    result = finished(tasks.fails_until.enqueue(3))
    assert (result.return_value, result.attempts) == (3, 3)
    assert [error.exception_class.__name__ for error in result.errors] == ["Boom", "Boom"]
    assert "Boom: 1" in result.errors[0].traceback


@pytest.mark.parametrize(
    ("name", "arguments", "attempts"),
    [
        ("fails_until", [9], 3),
        ("gives_up", [], 1),
    ],
)
def test_a_task_that_fails_for_good(
    tasks: Any, name: str, arguments: list[Any], attempts: int
) -> None:
    result = finished(getattr(tasks, name).enqueue(*arguments))
    assert result.status == TaskResultStatus.FAILED
    assert (result.attempts, len(result.errors)) == (attempts, attempts)
    assert result.errors[-1].exception_class_path == "helpers.jobs.Boom"
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_what_json_does_not_know_is_returned_once(tasks: Any) -> None:
    result = finished(tasks.returns_a_set.enqueue())
    assert result.status == TaskResultStatus.FAILED
    assert tasks.runs == ["set"]
    assert result.errors[0].exception_class is TypeError


def test_a_running_task_says_so(tasks: Any) -> None:
    result = tasks.waits.enqueue()
    until(lambda: tasks.waits.get_result(result.id).status == TaskResultStatus.RUNNING)
    result.refresh()
    assert (result.attempts, result.finished_at) == (1, None)
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    tasks.gate.set()
    assert finished(result).return_value == "through"


def test_signals(tasks: Any) -> None:
    heard: list[tuple[str, str]] = []

    def hear(name: str) -> Any:
        return lambda sender, task_result, **_: heard.append((name, str(task_result.status)))

    receivers = {
        signal: hear(name)
        for name, signal in (
            ("enqueued", task_enqueued),
            ("started", task_started),
            ("finished", task_finished),
        )
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver)
    try:
        finished(tasks.fails_until.enqueue(2))
        until(lambda: len(heard) == 4)
    finally:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver)
    assert sorted(heard) == sorted(
        [
            ("enqueued", "READY"),
            ("started", "RUNNING"),
            ("started", "RUNNING"),
            ("finished", "SUCCESSFUL"),
        ]
    )


# ---- when


def test_a_deferred_task_waits_for_its_time_and_spends_no_attempt(tasks: Any) -> None:
    later = timezone.now() + timedelta(seconds=0.3)
    result = tasks.double.using(run_after=later).enqueue(2)
    executor = task_backends["default"].executor
    until(lambda: executor.stats().held == 1)
    assert finished(result).return_value == 4
    assert result.started_at >= later
    assert result.attempts == 1


def test_what_is_not_supported_is_refused(tasks: Any) -> None:
    found = task_backends["default"]
    assert (found.supports_defer, found.supports_async_task) == (True, True)
    assert (found.supports_get_result, found.supports_priority) == (True, False)
    with pytest.raises(InvalidTask, match="priority"):
        tasks.double.using(priority=5)
    with pytest.raises(InvalidTask, match="aware"):
        tasks.double.using(run_after=timezone.now().replace(tzinfo=None))
    with pytest.raises(InvalidTask, match="Queue 'other'"):
        tasks.double.using(queue_name="other")


# ---- transactions


def test_a_task_starts_after_the_commit(tasks: Any) -> None:
    with transaction.atomic():
        result = tasks.note.enqueue("committed")
        with pytest.raises(TaskResultDoesNotExist):
            result.refresh()
    assert finished(result).status == TaskResultStatus.SUCCESSFUL
    assert tasks.runs == ["committed"]


def test_a_task_of_a_transaction_that_is_rolled_back_never_runs(tasks: Any) -> None:
    with transaction.atomic():
        tasks.note.enqueue("rolled back")
        transaction.set_rollback(True)
    finished(tasks.note.enqueue("after it"))
    assert tasks.runs == ["after it"]


def test_a_task_need_not_wait_for_the_commit(tasks: Any) -> None:
    with backend(enqueue_on_commit=False), transaction.atomic():
        assert finished(tasks.double.enqueue(1)).return_value == 2


# ---- options


@pytest.mark.parametrize("results", [None, "shared"])
def test_results_are_in_a_cache(tasks: Any, results: str | None) -> None:
    with backend(results=results):
        result = finished(tasks.double.enqueue(1))
        assert result.return_value == 2


def test_unknown_options_are_refused(tasks: Any) -> None:
    with (
        backend(max_worker=3),
        pytest.raises(InvalidTaskBackend, match=r"takes .*max_workers.* \(got 'max_worker'\)"),
    ):
        tasks.double.enqueue(1)


def test_a_journal_keeps_tasks_for_the_next_process(tasks: Any, tmp_path: Path) -> None:
    """Whose results are made anew where the old ones are not seen."""
    later = timezone.now() + timedelta(hours=1)
    with backend(journal=tmp_path / "journal"):
        tasks.double.using(run_after=later).enqueue(3)
        deferred = task_backends["default"].executor
        result = tasks.note.enqueue("now")
        finished(result)
        assert deferred.shutdown(timeout=0).journaled == 1
    with backend(journal=tmp_path / "journal"):
        executor = task_backends["default"].executor
        assert len(executor.recovered) == 1
        until(lambda: executor.pending()[0].state == "held")


def test_tasks_of_all_threads_share_an_executor(tasks: Any) -> None:
    executor = task_backends["default"].executor
    assert InThread(lambda: task_backends["default"].executor).result() is executor
