"""RetryFuture by itself: a `concurrent.futures.Future` in every way, whoever ends it."""

import logging
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any

import pytest
from helpers.jobs import Boom, InThread, cancelled, failed, raise_, succeeded

from retryexec import RetryFuture, StopReason

# ---- states


def test_new_future_is_pending() -> None:
    future: RetryFuture[None] = RetryFuture()
    assert isinstance(future, Future)
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)
    assert (future.attempts, future.history, future.stop_reason) == (0, (), None)
    assert future.next_attempt_at is None


def test_future_succeeds() -> None:
    future: RetryFuture[str] = RetryFuture()
    assert future.set_running_or_notify_cancel()
    assert future.running()
    future.set_result("saved")
    assert (future.done(), future.running()) == (True, False)
    assert future.result() == "saved"
    assert future.exception() is None
    assert future.stop_reason is StopReason.SUCCEEDED


def test_future_fails() -> None:
    future: RetryFuture[str] = RetryFuture()
    error = Boom()
    future.set_exception(error)
    assert future.done()
    assert future.exception() is error
    with pytest.raises(Boom) as caught:
        future.result()
    assert caught.value is error
    assert future.stop_reason is StopReason.NOT_RETRIABLE


def test_cancelled_future_says_so() -> None:
    future: RetryFuture[None] = RetryFuture()
    assert future.cancel()
    assert future.cancel()  # as often as one likes
    assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
    assert future.stop_reason is StopReason.CANCELLED
    assert not future.set_running_or_notify_cancel()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()


def test_running_future_is_not_cancelled() -> None:
    future: RetryFuture[str] = RetryFuture()
    future.set_running_or_notify_cancel()
    assert not future.cancel()
    assert future.running()
    future.set_result("saved")
    assert not future.cancel()
    assert future.result() == "saved"


@pytest.mark.parametrize("ended", [succeeded, failed, cancelled])
def test_future_ends_once(ended: Any) -> None:
    future = ended()
    reason = future.stop_reason
    with pytest.raises(InvalidStateError, match="state="):
        future.set_result("again")
    with pytest.raises(InvalidStateError, match="state="):
        future.set_exception(ValueError("again"))
    assert future.stop_reason is reason
    assert future.cancelled() == (ended is cancelled)


def test_future_starts_once() -> None:
    future: RetryFuture[None] = RetryFuture()
    future.set_running_or_notify_cancel()
    with pytest.raises(RuntimeError, match="started once"):
        future.set_running_or_notify_cancel()


@pytest.mark.parametrize(
    ("ended", "end"),
    [
        (RetryFuture, "state=pending>"),
        (succeeded, "state=finished returned str>"),
        (failed, "state=finished raised Boom>"),
        (cancelled, "state=cancelled>"),
    ],
)
def test_repr_is_a_status_line(ended: Any, end: str) -> None:
    assert repr(ended()).startswith("<RetryFuture at 0x")
    assert repr(ended()).endswith(end)


def test_repr_calls_no_code_of_the_user() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise Boom

    assert repr(succeeded(Shy())).endswith("returned Shy>")


# ---- callbacks


@pytest.mark.parametrize("end", [lambda f: f.set_result(1), lambda f: f.set_exception(Boom())])
def test_callbacks_run_once_in_order(end: Any) -> None:
    future: RetryFuture[int] = RetryFuture()
    called: list[Any] = []
    for number in range(3):
        future.add_done_callback(lambda f, n=number: called.append((n, f, f.done())))
    future.set_running_or_notify_cancel()
    assert called == []
    end(future)
    assert called == [(n, future, True) for n in range(3)]
    called.clear()
    future.cancel()
    assert called == []


def test_callback_of_a_done_future_runs_at_once() -> None:
    called: list[Any] = []
    for future in (succeeded(), failed(), cancelled()):
        future.add_done_callback(called.append)
        assert called.pop() is future


def test_callbacks_run_at_cancel_and_not_again() -> None:
    future: RetryFuture[None] = RetryFuture()
    called: list[Any] = []
    future.add_done_callback(called.append)
    future.cancel()
    future.cancel()
    future.set_running_or_notify_cancel()
    assert called == [future]


def test_callback_may_add_a_callback() -> None:
    future: RetryFuture[None] = RetryFuture()
    called: list[str] = []
    future.add_done_callback(lambda f: f.add_done_callback(lambda _: called.append("inner")))
    future.add_done_callback(lambda _: called.append("outer"))
    future.set_result(None)
    assert called == ["inner", "outer"]


def test_failing_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    future: RetryFuture[None] = RetryFuture()
    called: list[Any] = []
    error = Boom("the callback's")
    future.add_done_callback(lambda _: raise_(error))
    future.add_done_callback(called.append)
    future.set_result(None)
    assert called == [future]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("retryexec", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_callback_raising_control_flow_costs_no_other_callback() -> None:
    future: RetryFuture[None] = RetryFuture()
    called: list[Any] = []
    future.add_done_callback(lambda _: raise_(KeyboardInterrupt()))
    future.add_done_callback(lambda _: raise_(SystemExit()))
    future.add_done_callback(called.append)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        future.set_result(None)
    assert called == [future]
    assert future.result() is None


def test_callback_runs_under_no_lock() -> None:
    """Another thread can use the future while a callback runs."""
    future: RetryFuture[str] = RetryFuture()
    seen: list[Any] = []

    def ask_elsewhere(future: Future[str]) -> None:
        seen.append(InThread(lambda: (future.cancel(), future.result(), repr(future))).result())
        InThread(future.add_done_callback, lambda _: seen.append("added")).result()

    future.add_done_callback(ask_elsewhere)
    future.set_result("saved")
    assert [seen[0][:2], seen[1]] == [(False, "saved"), "added"]


def test_tools_find_the_exception_where_they_look_for_it() -> None:
    """The standard library's own tests write it there, too."""
    future: Any = RetryFuture()
    assert future._exception is None
    future._exception = None
    future._exception = error = OSError()
    future._state = "FINISHED"
    assert future._exception is error
    assert future.exception() is error
