"""An exception arrives as it was: class, attributes, causes, and its traceback as text."""

import threading
import traceback
from dataclasses import dataclass
from typing import Any

import pytest
from helpers.jobs import Boom
from helpers.remote import Holding, Picky, Session

from retryexec import PermanentError, RetryAfter
from retryexec._exceptions import calls_jobs
from retryexec.engines import RemoteError, RemoteTraceback
from retryexec.engines._carried import dump_error, load_error


@calls_jobs
def carried(error: BaseException, *, cause: Any = ...) -> BaseException:
    """Raise *error*, and return what arrives of it."""
    try:
        if cause is ...:
            raise error
        raise error from cause
    except BaseException as raised:
        return load_error(dump_error(raised))


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


@pytest.mark.parametrize(
    "error",
    [
        Boom("text", 7),
        OSError(2, "no such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        KeyboardInterrupt(),
        SystemExit(3),
        StopIteration(4),
        ExceptionGroup("several", [Boom(1), OSError(2)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_class_and_arguments(error: BaseException) -> None:
    arrived = carried(error)
    assert type(arrived) is type(error)
    assert (str(arrived), repr(arrived.args)) == (str(error), repr(error.args))


def test_attributes_and_notes() -> None:
    error = Boom("text")
    error.code = 7  # type: ignore[attr-defined]
    error.add_note("a note")
    arrived = carried(error)
    assert vars(arrived) == {"code": 7, "__notes__": ["a note"]}


def test_constructor_that_takes_something_else() -> None:
    arrived = carried(Picky(503, reason="busy"))
    assert isinstance(arrived, Picky)
    assert (str(arrived), arrived.code, arrived.reason) == ("503: busy", 503, "busy")


def test_frozen_exception() -> None:
    arrived = carried(Frozen(7), cause=OSError("cause"))
    assert isinstance(arrived, Frozen)
    assert arrived.code == 7
    assert str(arrived.__cause__) == "cause"


def test_remote_traceback_is_the_cause_as_text() -> None:
    arrived = carried(Boom("text"))
    assert arrived.__traceback__ is None
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "raise error" not in arrived.__cause__.text  # our own frame, here that of carried()
    assert "Boom: text" in arrived.__cause__.text


def deep() -> None:
    raise Boom("deep")


def test_remote_traceback_shows_where_it_was_raised() -> None:
    @calls_jobs
    def call() -> BaseException:
        try:
            deep()
        except BaseException as raised:
            return load_error(dump_error(raised))
        raise AssertionError

    assert "in deep" in shown(call())


def test_causes_come_along_and_end_with_the_traceback() -> None:
    arrived = carried(Boom("saving"), cause=OSError("connection"))
    assert type(arrived.__cause__) is OSError
    assert isinstance(arrived.__cause__.__cause__, RemoteTraceback)
    assert "OSError: connection" in arrived.__cause__.__cause__.text


def test_context_comes_along() -> None:
    error = Boom("saving")
    error.__context__ = OSError("handled")
    arrived = carried(error)
    assert type(arrived.__context__) is OSError


def test_causes_in_a_circle() -> None:
    one, other = Boom(1), Boom(2)
    one.__cause__, other.__cause__ = other, one
    arrived = load_error(dump_error(one))
    assert arrived.__cause__ is not None
    assert arrived.__cause__.__cause__ is arrived


def test_members_of_a_group_keep_their_causes() -> None:
    member = Boom("saving")
    member.__cause__ = PermanentError(OSError("gone"))
    arrived = carried(ExceptionGroup("several", [member]))
    assert isinstance(arrived, ExceptionGroup)
    assert isinstance(arrived.exceptions[0].__cause__, PermanentError)


def test_retry_after_without_cause_gets_none() -> None:
    """Its cause would be what the job fails with."""
    arrived = carried(RetryAfter(5))
    assert isinstance(arrived, RetryAfter)
    assert (arrived.seconds, arrived.__cause__) == (5, None)
    assert isinstance(arrived.__context__, RemoteTraceback)


def test_permanent_error_has_the_traceback_on_what_is_behind_it() -> None:
    arrived = carried(PermanentError(Boom("final")))
    assert isinstance(arrived, PermanentError)
    assert isinstance(arrived.exception, Boom)
    assert isinstance(arrived.exception.__cause__, RemoteTraceback)


def test_words_stand_for_what_cannot_be_pickled() -> None:
    arrived = carried(Holding("refused"), cause=Boom(threading.Lock()))
    assert isinstance(arrived, Holding)
    assert arrived.args == ("refused", "<Session, which cannot be pickled>")
    assert arrived.session == "<Session, which cannot be pickled>"
    assert arrived.status == 503
    assert isinstance(arrived.__cause__, Boom)
    assert arrived.__cause__.args == ("<lock, which cannot be pickled>",)


def local_class(base: type[BaseException]) -> Any:
    class Local(base):  # type: ignore[misc, valid-type]
        pass

    return Local


def test_class_that_cannot_be_pickled() -> None:
    arrived = carried(local_class(Exception)("of nowhere"), cause=PermanentError(Boom()))
    assert isinstance(arrived, RemoteError)
    assert "local_class.<locals>.Local: of nowhere (whose class cannot be pickled)" in str(arrived)
    assert isinstance(arrived.__cause__, PermanentError)
    assert "of nowhere" in shown(arrived)


def test_control_flow_that_cannot_be_brought_here_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carried_error = dump_error(KeyboardInterrupt())
    monkeypatch.setattr("pickle.loads", lambda _: 1 / 0)
    arrived = load_error(carried_error)
    assert isinstance(arrived, PermanentError)
    assert isinstance(arrived.exception, RemoteError)


class Poison(Exception):
    """Breaks whoever reads it: its class makes something else, and then is not there."""

    def __reduce__(self) -> Any:
        return _vanished, (self.args,)


def _vanished(*_: object) -> Any:
    raise ModuleNotFoundError("no module named 'elsewhere'")


def test_exception_that_cannot_be_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    carried_error = dump_error(Poison("text"))
    monkeypatch.delattr(f"{__name__}.Poison", raising=False)
    monkeypatch.setattr("retryexec.engines._carried._made_without_init", lambda *_: _vanished())
    arrived = load_error(carried_error)
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name == "Poison"
    assert "which cannot be made here: " in arrived.reason


def test_exception_that_breaks_whatever_it_is_asked() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise ValueError

        def __reduce_ex__(self, _: Any) -> Any:
            raise ValueError

    arrived = carried(Hostile(Session()))
    assert isinstance(arrived, RemoteError)
    assert "<str() raised ValueError>" in str(arrived)
