import sqlite3

import pytest

from retryexec.cli._misuse import Misuse
from retryexec.cli._parse import (
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
def test_bad_time_spans_are_refused(text: str) -> None:
    with pytest.raises(Misuse, match="is no span of time: seconds from 0 up, or with units"):
        duration(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "none"])
def test_bad_whole_numbers_are_refused(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        count(text)
    assert str(caught.value) == f"{text!r} is no whole number from 1 up"


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
        ("Timeout", "no exception 'Timeout' is known: a built-in name as TimeoutError, or"),
        ("sqlite4.Error", "ModuleNotFoundError: No module named 'sqlite4'"),
        ("sqlite3.Nothing", "module sqlite3 has no 'Nothing'"),
        ("json.JSONDecoder", "json.JSONDecoder is no type of exception"),
        ("len", "len is no type of exception (it is <built-in function len>)"),
        ("KeyboardInterrupt", "KeyboardInterrupt ends a job and is never retried"),
        (".x", "no exception '.x' is known"),
        ("", "no exception '' is known"),
    ],
)
def test_bad_exception_types_are_refused(name: str, said: str) -> None:
    with pytest.raises(Misuse) as caught:
        exception_type(name)
    assert said in str(caught.value)
