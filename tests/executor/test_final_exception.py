"""What a failed job leaves behind: its own exception, a note, and a word if nobody reads it."""

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from helpers.jobs import Boom, Gate, raise_

from retryexec import RetryFuture, RetryingExecutor, RetryPolicy, ZeroBackoff

THREE = RetryPolicy(max_attempts=3, backoff=ZeroBackoff())


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    with RetryingExecutor(max_workers=1, policy=THREE) as executor:
        yield executor


def failure(future: RetryFuture[Any]) -> BaseException:
    """Return what *future* raises."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011  any of them
        future.result(5)
    return caught.value


def frames(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


# ---- identity


def test_the_last_exception_comes_back_itself(executor: RetryingExecutor) -> None:
    raised: list[Boom] = []

    def job() -> None:
        raised.append(Boom(len(raised)))
        raise raised[-1]

    future = executor.submit(job)
    assert failure(future) is raised[-1]
    assert future.exception() is raised[-1]
    assert len(raised) == 3
    assert raised[-1].__cause__ is None
    assert raised[-1].__context__ is None


class Falsy(Exception):
    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0


class NeverEqual(Exception):
    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class NotesAreFull(Exception):
    def add_note(self, _note: str) -> None:
        raise MemoryError


class WordsOfControl(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class NotesOfControl(Exception):
    def add_note(self, _note: str) -> None:
        raise SystemExit


@dataclass(frozen=True)
class Frozen(Exception):
    code: int = 7


@pytest.mark.parametrize("kind", [Falsy, NeverEqual, Silent, NotesAreFull, Frozen])
def test_odd_exceptions_are_retried_and_come_back(
    kind: type[Exception], executor: RetryingExecutor
) -> None:
    error = kind()
    future = executor.submit(raise_, error)
    assert failure(future) is error
    assert future.exception() is error
    assert future.attempts == 3
    assert len(future.history) == 3
    assert executor.submit(len, "next").result(5) == 4  # the worker goes on


@pytest.mark.parametrize("kind", [WordsOfControl, NotesOfControl])
def test_exceptions_that_raise_control_flow_end_the_job_all_the_same(
    kind: type[Exception],
) -> None:
    # No `with`, and an exit without patience: should the worker die, this test fails alone.
    executor = RetryingExecutor(max_workers=1, policy=THREE, exit_timeout=0)
    error = kind()
    assert executor.submit(raise_, error).exception(5) is error
    assert executor.submit(len, "next").result(5) == 4  # the worker goes on
    executor.shutdown()


def test_exception_can_be_pickled(executor: RetryingExecutor) -> None:
    error = failure(executor.submit(raise_, Boom("a", 1)))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args) == (Boom, ("a", 1))
    assert copy.__notes__ == error.__notes__


# ---- tracebacks


def deep() -> None:
    raise Boom


def job() -> None:
    deep()


def test_traceback_shows_the_job_and_nothing_of_ours(executor: RetryingExecutor) -> None:
    error = executor.submit(job).exception(5)
    assert error is not None
    assert frames(error) == ["job", "deep"]


def test_traceback_stays_as_long_as_it_is(executor: RetryingExecutor) -> None:
    future = executor.submit(job)
    seen = [frames(failure(future)) for _ in range(5)]
    assert seen == [seen[0]] * 5
    assert seen[0][-2:] == ["job", "deep"]


def test_traceback_does_not_grow_with_attempts(executor: RetryingExecutor) -> None:
    for attempts in (1, 2, 20):
        error = Boom("the same object each time")
        assert executor.using(max_attempts=attempts).submit(raise_, error).exception(5) is error
        assert frames(error) == ["raise_"]


def test_traceback_does_not_grow_with_jobs(executor: RetryingExecutor) -> None:
    """One exception object fails many jobs, as a constant of a module may."""
    error = Boom("the same object each time")
    seen = []
    for _ in range(4):
        assert executor.submit(raise_, error).exception(5) is error
        seen.append(frames(error))
    once = executor.using(RetryPolicy.never())
    for _ in range(4):
        assert once.submit(raise_, error).exception(5) is error
        seen.append(frames(error))
    assert seen == [["raise_"]] * 8


def test_traceback_of_a_chain_does_not_grow(executor: RetryingExecutor) -> None:
    """The cause is one object for all attempts."""
    cause = Boom("the cause")

    def chained() -> None:
        try:
            raise cause
        except Boom as error:
            raise ValueError from error

    error = failure(executor.using(max_attempts=9).submit(chained))
    assert error.__cause__ is cause
    assert frames(cause) == ["chained"]


def test_chain_in_a_circle_ends(executor: RetryingExecutor) -> None:
    one, two = Boom(1), Boom(2)
    one.__cause__, two.__cause__ = two, one
    assert failure(executor.submit(raise_, one)) is one


# ---- the note


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def test_note_tells_attempts_time_and_reason(executor: RetryingExecutor) -> None:
    (note,) = notes(failure(executor.submit(job)))
    assert note.startswith("retryexec: gave up after 3 attempts over 0.")
    assert note.endswith(": max_attempts")
    (note,) = notes(failure(executor.using(RetryPolicy.never()).submit(job)))
    assert "after 1 attempt over" in note


def test_note_is_replaced_when_the_object_is_raised_again(executor: RetryingExecutor) -> None:
    error = Boom()
    error.add_note("the user's own")
    for attempts in (1, 2, 3):
        failure(executor.using(max_attempts=attempts).submit(raise_, error))
        users, ours = notes(error)
        assert users == "the user's own"
        assert f"after {attempts} attempt" in ours


def test_strange_notes_cost_nothing(executor: RetryingExecutor) -> None:
    error = Boom()
    error.__notes__ = "no list"  # type: ignore[assignment]
    assert failure(executor.submit(raise_, error)) is error


def test_success_after_failures_leaves_no_note(executor: RetryingExecutor) -> None:
    error = Boom()
    outcomes: list[Callable[[], Any]] = [lambda: raise_(error), lambda: "saved"]
    assert executor.submit(lambda: outcomes.pop(0)()).result(5) == "saved"  # noqa: PLW0108  pops one each time
    assert notes(error) == []


# ---- failures that nobody reads


def fail_once(executor: RetryingExecutor) -> RetryFuture[None]:
    """Return the future of a job that has failed."""
    gate = Gate(Boom("unread"))
    done = Gate()
    future = executor.using(RetryPolicy.never()).submit(gate)
    future.add_done_callback(lambda _: done.open())
    gate.open()
    assert done.opened.wait(5)
    executor.submit(len, "").result(5)  # the worker has let go of the job before
    return future


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


def test_unread_failure_is_logged_once(
    executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    future = fail_once(executor)
    assert errors(caplog) == []  # there is still time to read it
    del future
    (message,) = errors(caplog)
    assert message.startswith("Gate failed and nobody read its future: gave up after 1 attempt")
    (record,) = caplog.records
    assert record.name == "retryexec"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Boom)


@pytest.mark.parametrize(
    "read",
    [
        lambda future: future.exception(),
        failure,
        lambda future: future.add_done_callback(lambda f: f.exception()),
    ],
)
def test_read_failure_is_not_logged(
    read: Any, executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    future = fail_once(executor)
    read(future)
    del future
    assert errors(caplog) == []


def test_looking_is_not_reading(
    executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    future = fail_once(executor)
    assert future.done()
    assert "Boom" in repr(future)
    assert (future.stop_reason, future.attempts) == ("max_attempts", 1)
    del future
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("hook", ["on_retry", "on_give_up"])
def test_hooks_take_the_place_of_the_log(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []
    hooks: dict[str, Any] = {hook: lambda event: heard.append(event.exception)}
    with RetryingExecutor(max_workers=1, **hooks) as executor:
        fail_once(executor)
    assert errors(caplog) == []
    assert len(heard) == (hook == "on_give_up")


def test_success_and_cancel_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with RetryingExecutor(max_workers=1) as executor:
        executor.submit(gate)
        executor.submit(len, "").cancel()
        gate.open()
    assert errors(caplog) == []
