from itertools import islice

import pytest

from retryexec import (
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    FibonacciBackoff,
    FullJitterBackoff,
    LinearBackoff,
    ZeroBackoff,
)
from retryexec.cli.backoff_option import backoff, described_backoffs
from retryexec.cli.options import UsageError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("exponential", ExponentialBackoff()),
        ("exponential:0.1,2", ExponentialBackoff(0.1, 2)),
        ("exponential:initial=100ms, max=1m", ExponentialBackoff(0.1, max_interval=60)),
        ("exponential:rand=0,multiplier=3", ExponentialBackoff(0.5, 3, 0)),
        ("Exponential:max-interval=2", ExponentialBackoff(max_interval=2)),
        ("full-jitter:1,max=30", FullJitterBackoff(1, max_interval=30)),
        ("equal-jitter", EqualJitterBackoff()),
        ("decorrelated:base=2", DecorrelatedJitterBackoff(2)),
        ("linear:1,0.5", LinearBackoff(1, 0.5)),
        ("fibonacci:1,2h", FibonacciBackoff(1, 7200)),
        ("constant:0.5", ConstantBackoff(0.5)),
        ("constant:1e-3", ConstantBackoff(0.001)),
        ("zero", ZeroBackoff()),
    ],
)
def test_names_and_values(spec: str, expected: object) -> None:
    assert backoff(spec) == expected


@pytest.mark.parametrize(
    ("spec", "delays"),
    [
        ("0.1,1,10", [0.1, 1, 10]),
        ("5", [5]),
        ("100ms, 1m30s,.5", [0.1, 90, 0.5]),
        ("none", []),
    ],
)
def test_delays_that_end(spec: str, delays: list[float]) -> None:
    assert list(backoff(spec)) == delays


def test_jitter_draws_around_the_delays() -> None:
    draws = iter([0.0, 0.5, 0.75])
    assert list(backoff("1,1,1,jitter=0.2", lambda: next(draws))) == pytest.approx([0.8, 1, 1.1])


def test_chance_is_handed_on() -> None:
    assert list(islice(backoff("full-jitter:base=8", lambda: 0.25), 2)) == [2.0, 4.0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "'' is not a backoff: expected one of exponential, "),
        ("expo", "'expo' is not a backoff"),
        ("1:2", "'1:2' is not a backoff"),
        ("constant", "interval is missing; it takes interval"),
        ("constant:", "interval is missing"),
        ("constant:x", "'x' is not a span of time"),
        ("constant:-1", "interval takes seconds from 0 up, finite (got -1.0)"),
        ("constant:nan", "(got nan)"),
        ("constant:inf", "(got inf)"),
        ("constant:1,2", "'2' is one value too many; it takes interval"),
        ("constant:1,interval=2", "interval is given twice"),
        ("constant:interval=1,interval=2", "interval is given twice"),
        ("zero:1", "'1' is one value too many; it takes no values"),
        ("exponential:m=2", "'m' names several of its values; it takes initial_interval, "),
        ("exponential:foo=2", "'foo' names none of its values"),
        ("exponential:=2", "'' names several of its values"),
        ("exponential:mult=2s", "multiplier takes a number from 1 up"),
        ("1,-1", "a delay takes seconds from 0 up, finite (got -1.0)"),
        ("1,,2", "'' is not a span of time"),
        ("1,foo=2", "a list of delays takes jitter= and no other name (got foo)"),
        ("1,jitter=2", "jitter takes a number from 0 to 1 (got 2.0)"),
        ("1,jitter=2s", "jitter takes a number from 0 to 1"),
        ("999999999999999999999999h", "is not a span of time"),
        ("1" * 400 + "h", "is not a span of time"),
    ],
)
def test_errors_name_the_value_and_the_way_out(spec: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        backoff(spec)
    assert said in str(caught.value)
    assert repr(spec) in str(caught.value)


def test_the_help_lists_every_name_with_its_fields() -> None:
    texts = dict(described_backoffs())
    assert texts["linear"] == "initial, increment, max_interval=60"
    assert texts["zero"] == ""
    assert "random=" not in str(texts)
