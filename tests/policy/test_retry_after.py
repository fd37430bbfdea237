"""RetryAfter.from_header: what servers send, and what becomes of the job."""

import pickle
from datetime import UTC, datetime, timedelta
from email.header import Header
from email.utils import format_datetime, formatdate
from typing import Any

import pytest
from helpers.played import play
from hypothesis import given
from hypothesis import strategies as st

from retryexec import RetryAfter, RetryPolicy, StopReason
from retryexec._retry_after import named_delay

NOON = datetime(2030, 5, 3, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[(120, 120), (1.5, 1.5), (timedelta(minutes=2), 120)],
        *[("120", 120), (" 120\t", 120), (b"120", 120), (b" 7\r\n", 7), ("0", 0), ("+5", 5)],
        *[("1.5", 1.5), (".5", 0.5), ("5.", 5), ("007", 7)],
        *[(-1, 0), ("-1", 0), ("-0", 0), (timedelta(-1), 0), (-(10**400), 0)],
    ],
)
def test_seconds(value: Any, seconds: float) -> None:
    delay = named_delay(value)
    assert delay == seconds
    assert type(delay) is float


@pytest.mark.parametrize(
    "text",
    [
        "Fri, 03 May 2030 12:00:30 GMT",  # the format of RFC 9110
        "Friday, 03-May-30 12:00:30 GMT",  # that of RFC 850
        "Fri May  3 12:00:30 2030",  # that of asctime(), which is in GMT as well
        "Fri, 03 May 2030 14:00:30 +0200",
        "  Fri, 03 May 2030 12:00:30 GMT ",
        b"Fri, 03 May 2030 12:00:30 GMT",
    ],
)
def test_dates_count_from_now(text: Any) -> None:
    assert named_delay(text, now=NOON.timestamp()) == 30


def test_a_leap_second_is_a_time() -> None:
    assert named_delay("Fri, 03 May 2030 12:00:60 GMT", now=NOON.timestamp()) == 59


@given(ahead=st.integers(-(10**9), 10**9))
def test_any_date_names_its_distance_and_never_less_than_nothing(ahead: int) -> None:
    header = format_datetime(NOON + timedelta(seconds=ahead), usegmt=True)
    assert named_delay(header, now=NOON.timestamp()) == max(0, ahead)


def test_the_time_of_day_is_this_machines() -> None:
    now = datetime.now(UTC).timestamp()
    delay = named_delay(formatdate(now + 1000, usegmt=True))
    assert delay is not None
    assert 900 < delay <= 1000
    assert named_delay("Wed, 21 Oct 2015 07:28:00 GMT") == 0


NONSENSE = [
    *[None, "", "  ", b"", "soon", "5 seconds", "120, 120", "1e9", "1_000", "0x10", "--1", "٣"],
    *["nan", "inf", "-inf", float("nan"), float("inf"), 10**400, "9" * 500, True],
    *["Fri, 99 May 2030 12:00:00 GMT", "Fri, 03 Foo 2030 12:00:00 GMT", "2030-05-03T12:00:00Z"],
    *["Fri, 03 May 2030 25:00:00 GMT", "Fri, 03 May 99999 12:00:00 GMT", "Fri,", ",", "\udce9"],
    *[b"\xff\xfe", object(), [5], Header("caf\xe9", "utf-8"), "Mon, 0 Jan 0000 00:00:00 GMT"],
]


@pytest.mark.parametrize("value", NONSENSE)
def test_nonsense_leaves_the_wait_to_the_policy(value: Any) -> None:
    error = OSError("503")
    marker = RetryAfter.from_header(value, error)
    assert (marker.seconds, marker.__cause__) == (None, error)
    played = play(RetryPolicy(max_attempts=3, backoff=[10, 20]), marker)
    assert (played.started, played.exception) == ([0, 10, 30], error)


@given(value=st.text() | st.binary() | st.floats() | st.integers() | st.none())
def test_no_value_does_harm(value: Any) -> None:
    seconds = RetryAfter.from_header(value).seconds
    assert seconds is None or 0 <= seconds < float("inf")


def test_a_header_names_the_next_wait() -> None:
    policy = RetryPolicy(backoff=[10], retry_on=OSError)
    played = play(policy, RetryAfter.from_header("5", OSError()), OSError, "saved")
    assert played.started == [0, 5, 15]


@pytest.mark.parametrize("value", [-1, "1", b"1", "Wed, 21 Oct 2015 07:28:00 GMT", "soon"])
def test_the_constructor_understands_headers_too(value: Any) -> None:
    """A slip that would else end the job, with a TypeError in place of its own error."""
    error = ConnectionError("503")
    policy = RetryPolicy(max_attempts=2, backoff=[0], retry_on=ConnectionError)
    played = play(policy, RetryAfter(value, error))
    assert (played.exception, played.reason) == (error, StopReason.MAX_ATTEMPTS)
    assert len(played.started) == 2


def test_a_date_far_away_is_past_the_limit() -> None:
    error = OSError("503")
    played = play(RetryPolicy(), RetryAfter.from_header("Fri, 31 Dec 9999 23:59:59 GMT", error))
    assert (played.exception, played.reason) == (error, StopReason.MAX_ELAPSED)


def test_a_copy_of_the_error_names_the_same_wait() -> None:
    class Busy(RetryAfter):
        pass

    assert type(Busy.from_header("5")) is Busy
    late = RetryAfter(formatdate(datetime.now(UTC).timestamp() + 1000))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(late)).seconds == late.seconds
    assert pickle.loads(pickle.dumps(RetryAfter.from_header("soon"))).seconds is None


def test_a_cause_is_an_exception() -> None:
    with pytest.raises(TypeError, match="'503'"):
        RetryAfter.from_header("5", "503")  # type: ignore[arg-type]
