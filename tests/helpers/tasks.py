"""Tasks for a backend of django.tasks; imported once Django has its settings."""

import threading
from typing import Any

from django.tasks import TaskContext, task

from helpers.jobs import Boom
from retryexec import PermanentError

gate = threading.Event()
runs: list[Any] = []


@task
def double(number: int) -> int:
    return 2 * number


@task(queue_name="mail")
async def greet(name: str) -> str:
    return f"Hello {name}"


@task(takes_context=True)
def fails_until(context: TaskContext, attempt: int) -> int:
    if context.attempt < attempt:
        raise Boom(context.attempt)
    return context.attempt


@task
def gives_up() -> None:
    raise PermanentError(Boom("for good"))


@task
def waits() -> str:
    assert gate.wait(30)
    return "through"


@task
def note(what: str) -> None:
    runs.append(what)


@task
def returns_a_set() -> Any:
    runs.append("set")
    return {1, 2}
