import sqlite3

import pytest

from retryexec.cli.options import (
    UsageError,
    count,
    count_or_none,
    duration,
    duration_or_none,
    exception_type,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("2.5", 2.5), ("500ms", 0.5), ("1h30m", 5400), (" 2M ", 120), ("1d", 86400)],
)
def test_spans_of_time(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1 h", "h", "1x", "9" * 400 + "d"])
def test_no_spans_of_time(text: str) -> None:
    with pytest.raises(UsageError, match="is not a span of time: seconds from 0 up, or with units"):
        duration(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "none"])
def test_no_whole_numbers(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        count(text)
    assert str(caught.value) == f"{text!r} is not a whole number from 1 up"


def test_none_is_no_limit() -> None:
    assert count_or_none("None") is None
    assert count_or_none("3") == 3
    assert duration_or_none("none") is None
    assert duration_or_none("3m") == 180


def test_types_of_exceptions() -> None:
    assert exception_type("TimeoutError") is TimeoutError
    assert exception_type("sqlite3.OperationalError") is sqlite3.OperationalError
    assert exception_type("sqlite3:OperationalError") is sqlite3.OperationalError


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "Timeout",
            "no exception 'Timeout' is known; did you mean 'TimeoutError'? (expected a built-in",
        ),
        ("sqlite4.Error", "ModuleNotFoundError: No module named 'sqlite4'"),
        ("sqlite3.Nothing", "module 'sqlite3' has no attribute 'Nothing'"),
        ("json.JSONDecoder", "json.JSONDecoder is not a type of exception"),
        ("len", "len is not a type of exception (it is <built-in function len>)"),
        ("KeyboardInterrupt", "KeyboardInterrupt ends a job and is never retried"),
        (".x", "no exception '.x' is known"),
        ("", "no exception '' is known"),
    ],
)
def test_no_types_of_exceptions(name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        exception_type(name)
    assert said in str(caught.value)
