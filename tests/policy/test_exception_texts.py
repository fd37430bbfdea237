"""What exceptions say and are called reaches logs, histories and files as text they can take."""

import os
import types
from functools import partial
from typing import Any

import pytest
from helpers.jobs import raise_
from hypothesis import given
from hypothesis import strategies as st

from retryexec import PermanentError, RetryFuture, RetryingExecutor, RetryPolicy
from retryexec._outcome import TEXT_LIMIT, encodable, name_of, qualified_name, text_of, type_name

FILE_NAME = os.fsdecode(b"caf\xe9.txt")
any_text = st.text(st.characters())  # lone surrogates included


class Answers(str):
    """A text that answers with code of its own."""

    __slots__ = ()

    def __str__(self) -> str:
        raise OverflowError

    __len__ = __repr__ = isascii = encode = __str__  # type: ignore[assignment]


class Says(Exception):
    """Says what it is told to, whatever that is."""

    def __str__(self) -> str:
        said = self.args[0]
        if isinstance(said, type):
            raise said
        return said


class OddMeta(type):
    """Classes that have no name to tell."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__"):
            raise OverflowError
        return super().__getattribute__(name)


class Odd(Exception, metaclass=OddMeta):
    def method(self) -> None: ...


class Surrogate(Exception):
    """Python refuses a lone surrogate in a name, and not in a qualified name."""


Surrogate.__qualname__ = "Caf\udce9"


@given(text=any_text)
def test_every_text_can_be_stored_and_printed(text: str) -> None:
    said = text_of(Says(text))
    said.encode()
    assert len(said) <= TEXT_LIMIT
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert said == text[:TEXT_LIMIT]
    encodable(text).encode()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (FILE_NAME, "caf\\udce9.txt"),
        ("🦀", "🦀"),
        ("x" * 501, "x" * 499 + "…"),
        ("\udce9" * 500, ("\\udce9" * 84)[:499] + "…"),
        (OverflowError, "<str() raised OverflowError>"),
        (KeyboardInterrupt, "<str() raised KeyboardInterrupt>"),
        (Surrogate, "<str() raised Surrogate>"),
        (5, "<str() raised TypeError>"),
    ],
)
def test_text_of_an_exception(said: Any, text: str) -> None:
    assert text_of(Says(said)) == text


def test_text_needs_no_code_of_the_exception() -> None:
    said = text_of(Says(Answers("fine")))
    assert (type(said), said) == (str, "fine")
    assert text_of(Says(Odd)) == "<str() raised Odd>"


def test_without_a_limit_all_of_it() -> None:
    assert text_of(Says("é" * 10_000), limit=None) == "é" * 10_000


def test_names_of_types() -> None:
    assert (type_name(Odd), qualified_name(Odd)) == ("Odd", "Odd")
    assert (type_name(Surrogate), qualified_name(Surrogate)) == ("Surrogate", "Caf\\udce9")
    assert qualified_name(types.SimpleNamespace) == "SimpleNamespace"


class NoName:
    def __call__(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise OverflowError


def test_names_of_jobs() -> None:
    assert name_of(len) == "len"
    assert name_of([].append) == "list.append"
    assert name_of(partial(partial(Odd.method), 1)) == "Odd.method"
    assert name_of(Odd) == name_of(Odd()) == "Odd"
    assert name_of(NoName()) == "NoName"
    assert name_of(types.MethodType(NoName(), 1)) == "method"
    odd = lambda: None  # noqa: E731
    odd.__qualname__ = "\udce9"
    assert name_of(odd) == "\\udce9"


def test_permanent_error_can_always_say_what_it_wraps() -> None:
    assert str(PermanentError(Says(OverflowError))) == (
        "permanent: Says: <str() raised OverflowError>"
    )
    assert str(PermanentError(Odd("x" * 600))) == "permanent: Odd: " + "x" * 600
    assert str(PermanentError(OSError(FILE_NAME))).encode()


@pytest.mark.parametrize(
    "error", [Says(FILE_NAME), Says(OverflowError), Says(5), Odd("x"), Surrogate("x")]
)
def test_odd_failure_is_logged_and_the_next_job_runs(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def job() -> None:
        raise error

    with RetryingExecutor(1, policy=RetryPolicy(max_attempts=2, backoff=[0])) as executor:
        future: RetryFuture[None] = executor.submit(job)
        assert future.exception(5) is error
        assert executor.submit(len, "next").result(5) == 4
    assert f"{future!r} {future.history[0].text}".encode()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


class Unreadable(Exception):
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)


def test_an_exception_that_cannot_be_asked_ends_its_own_job_alone() -> None:
    error = Unreadable()
    with RetryingExecutor(1) as executor:
        future = executor.submit(raise_, error)
        assert executor.submit(len, "seven").result(10) == 5
        assert future.exception(10) is error
    assert executor.stats().failed == 1
