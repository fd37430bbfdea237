"""Delay sequences: what holds for all of them, then what each one promises of its own."""

import dataclasses
import math
import random
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import retryexec
from retryexec import (
    Backoff,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    FibonacciBackoff,
    FullJitterBackoff,
    LinearBackoff,
    RetryPolicy,
    StopBackoff,
    ZeroBackoff,
)

Random = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Countdown(Backoff):
    """A user's own backoff."""

    def __iter__(self) -> Iterator[float]:
        return iter((3.0, 2.0, 1.0))


EXACT: dict[str, Backoff] = {
    "zero": ZeroBackoff(),
    "stop": StopBackoff(),
    "constant": ConstantBackoff(2),
    "linear": LinearBackoff(1, 2, 30),
    "fibonacci": FibonacciBackoff(1, 60),
    "exponential, exact": ExponentialBackoff(1, 2, 0),
    "take": ConstantBackoff(2).take(3),
    "then": ConstantBackoff(2).take(3).then([4, 5]),
    "own": Countdown(),
}
JITTERED: dict[str, Callable[[Random], Backoff]] = {
    "exponential": lambda draw: ExponentialBackoff(random=draw),
    "full jitter": lambda draw: FullJitterBackoff(1, 2, 30, random=draw),
    "equal jitter": lambda draw: EqualJitterBackoff(1, 2, 30, random=draw),
    "decorrelated jitter": lambda draw: DecorrelatedJitterBackoff(1, 30, random=draw),
    "jittered": lambda draw: LinearBackoff(1, 2, 30).jittered(0.5, random=draw),
}
# The jittered ones drawing the middle of their range, which makes them exact too.
ALL = EXACT | {name: make(lambda: 0.5) for name, make in JITTERED.items()}

every = pytest.mark.parametrize("backoff", ALL.values(), ids=ALL)
every_jittered = pytest.mark.parametrize("make", JITTERED.values(), ids=JITTERED)

# Each kind with one good value for every argument that is a span of time.
KINDS: list[tuple[Callable[..., Backoff], tuple[str, ...]]] = [
    (ConstantBackoff, ("interval",)),
    (LinearBackoff, ("initial", "increment", "max_interval")),
    (FibonacciBackoff, ("initial", "max_interval")),
    (ExponentialBackoff, ("initial_interval", "max_interval")),
    (FullJitterBackoff, ("base", "max_interval")),
    (EqualJitterBackoff, ("base", "max_interval")),
    (DecorrelatedJitterBackoff, ("base", "max_interval")),
]
spans_of_time = pytest.mark.parametrize(
    ("kind", "names", "name"), [(kind, names, name) for kind, names in KINDS for name in names]
)

spans = st.floats(0, 1e9)
draws = st.floats(0, 1, exclude_max=True)
backoffs = st.sampled_from(list(ALL.values()))
counts = st.integers(0, 20)


def seeded(seed: int) -> Random:
    return random.Random(seed).random


def first(n: int, backoff: Any) -> list[float]:
    return list(islice(backoff, n))


# ---- all of them


@every
def test_delays_are_finite_seconds_from_zero_up(backoff: Backoff) -> None:
    assert all(isinstance(d, float) and 0 <= d < math.inf for d in first(100, backoff.then([])))


@every
def test_iterations_are_independent(backoff: Backoff) -> None:
    """A second job starts from the beginning, however far the first one has come."""
    expected = first(10, backoff)
    ahead = iter(backoff)
    taken = first(5, ahead)
    assert first(10, backoff) == expected
    assert taken + first(5, ahead) == expected


@every
def test_an_attempt_number_past_all_reason_has_a_delay_like_any_other(backoff: Backoff) -> None:
    steps = islice(backoff, 50_000, None)
    assert all(0 <= d <= 90 for d in islice(steps, 3))


@every
def test_is_a_frozen_value(backoff: Any) -> None:
    twin: Any = dataclasses.replace(backoff)
    assert {backoff, twin} == {backoff}
    assert first(9, twin) == first(9, backoff)
    for field in dataclasses.fields(twin):
        with pytest.raises(AttributeError):
            setattr(twin, field.name, 5)


@every
def test_a_policy_takes_it_as_it_is(backoff: Backoff) -> None:
    assert first(5, RetryPolicy(backoff=backoff).backoff) == first(5, backoff)


@pytest.mark.parametrize(("kind", "names"), KINDS)
def test_shows_what_it_was_made_of(kind: Callable[..., Backoff], names: tuple[str, ...]) -> None:
    backoff = kind(**dict.fromkeys(names, 5))
    assert eval(repr(backoff), vars(retryexec)) == backoff  # noqa: S307


@every_jittered
def test_a_seeded_run_repeats(make: Callable[[Random], Backoff]) -> None:
    one, same, other = (first(50, make(seeded(seed))) for seed in (7, 7, 8))
    assert one == same != other


@every_jittered
def test_jitter_survives_the_cap(make: Callable[[Random], Backoff]) -> None:
    """However long the outage, two clients do not fall into step at the cap."""
    late = first(200, islice(make(seeded(1)), 1000, None))
    assert len(set(late)) == 200


# ---- arguments


@spans_of_time
@given(ms=st.integers(0, 10**9))
def test_a_timedelta_is_its_seconds(
    kind: Callable[..., Backoff], names: tuple[str, ...], name: str, ms: int
) -> None:
    rest = dict.fromkeys(names, 1)
    span = timedelta(milliseconds=ms)
    assert kind(**rest | {name: span}) == kind(**rest | {name: span.total_seconds()})


@spans_of_time
@pytest.mark.parametrize(
    "bad",
    [-1, -1e-9, math.nan, math.inf, -math.inf, timedelta(-1), 10**400, "1", None, True, [1], 1j],
    ids=lambda bad: repr(bad)[:20],
)
def test_what_is_not_a_time_span_is_refused(
    kind: Callable[..., Backoff], names: tuple[str, ...], name: str, bad: Any
) -> None:
    number = isinstance(bad, (int, float, timedelta)) and not isinstance(bad, bool)
    wrong = ValueError if number else TypeError
    with pytest.raises(wrong, match=f"(?s){name} .*{re.escape(repr(bad))}"):
        kind(**dict.fromkeys(names, 1) | {name: bad})


@pytest.mark.parametrize(
    ("make", "bad", "wrong"),
    [
        *[(lambda m: ExponentialBackoff(multiplier=m), m, ValueError) for m in (0.9, math.inf)],
        (lambda m: ExponentialBackoff(multiplier=m), math.nan, ValueError),
        (lambda m: FullJitterBackoff(multiplier=m), -2, ValueError),
        (lambda m: EqualJitterBackoff(multiplier=m), "2", TypeError),
        (lambda f: ExponentialBackoff(randomization_factor=f), 1.1, ValueError),
        (lambda f: ExponentialBackoff(randomization_factor=f), -0.1, ValueError),
        (lambda f: ExponentialBackoff(randomization_factor=f), None, TypeError),
        (lambda f: ZeroBackoff().jittered(f), 2, ValueError),
        (lambda f: ZeroBackoff().jittered(f), math.nan, ValueError),
        (lambda f: ZeroBackoff().jittered(f), True, TypeError),
        (lambda n: ZeroBackoff().take(n), -1, ValueError),
        (lambda n: ZeroBackoff().take(n), 1.5, ValueError),
        (lambda n: ZeroBackoff().take(n), True, ValueError),
        (lambda n: ZeroBackoff().take(n), "3", TypeError),
        (lambda other: ZeroBackoff().then(other), 5, TypeError),
        (lambda other: ZeroBackoff().then(other), [1, -2], ValueError),
        (lambda draw: ExponentialBackoff(random=draw), 0.5, TypeError),
        (lambda draw: FullJitterBackoff(random=draw), None, TypeError),
        (lambda draw: EqualJitterBackoff(random=draw), 7, TypeError),
        (lambda draw: DecorrelatedJitterBackoff(random=draw), 7, TypeError),
        (lambda draw: ZeroBackoff().jittered(0.5, random=draw), random, TypeError),
    ],
)
def test_what_is_not_a_valid_argument_is_refused(
    make: Callable[[Any], Any], bad: Any, wrong: type[Exception]
) -> None:
    """Refused where it is made, by value."""
    named = repr(bad[-1] if isinstance(bad, list) else bad)
    with pytest.raises(wrong, match=re.escape(named)):
        make(bad)


# ---- one by one


def test_zero_never_waits_and_stop_never_retries() -> None:
    assert first(3, ZeroBackoff()) == [0, 0, 0]
    assert first(3, StopBackoff()) == []


@given(interval=spans)
def test_constant(interval: float) -> None:
    assert first(3, ConstantBackoff(interval)) == [interval] * 3


@given(initial=st.integers(0, 99), increment=st.integers(0, 99), cap=st.integers(0, 999))
def test_linear(initial: int, increment: int, cap: int) -> None:
    delays = first(20, LinearBackoff(initial, increment, cap))
    assert delays == [min(initial + n * increment, cap) for n in range(20)]


@given(initial=st.integers(0, 99), cap=st.integers(0, 9999))
def test_fibonacci(initial: int, cap: int) -> None:
    delays = first(8, FibonacciBackoff(initial, cap))
    assert delays == [min(initial * f, cap) for f in (1, 1, 2, 3, 5, 8, 13, 21)]


@given(initial=spans, multiplier=st.floats(1, 10), cap=spans, factor=st.floats(0, 1), draw=draws)
def test_exponential(
    initial: float, multiplier: float, cap: float, factor: float, draw: float
) -> None:
    """The n-th delay is drawn from interval·(1 ± factor), with the cap on the interval."""
    backoff = ExponentialBackoff(initial, multiplier, factor, cap, random=lambda: draw)
    intervals = [min(cap, initial * multiplier**n) for n in range(20)]
    place = 1 - factor + 2 * factor * draw
    assert first(20, backoff) == pytest.approx([v * place for v in intervals])


@given(base=spans, multiplier=st.floats(1, 10), cap=spans, draw=draws)
def test_full_and_equal_jitter(base: float, multiplier: float, cap: float, draw: float) -> None:
    """Drawn from 0..interval, and from interval/2..interval."""
    intervals = [min(cap, base * multiplier**n) for n in range(20)]
    full = FullJitterBackoff(base, multiplier, cap, random=lambda: draw)
    equal = EqualJitterBackoff(base, multiplier, cap, random=lambda: draw)
    assert first(20, full) == pytest.approx([v * draw for v in intervals])
    assert first(20, equal) == pytest.approx([v / 2 + v / 2 * draw for v in intervals])


@given(base=spans, cap=spans, seed=st.integers())
def test_decorrelated_jitter(base: float, cap: float, seed: int) -> None:
    """Drawn from base..min(cap, 3·previous), with base as the first previous."""
    draw, again = seeded(seed), seeded(seed)
    previous = base
    for delay in first(20, DecorrelatedJitterBackoff(base, cap, random=draw)):
        high = min(cap, 3 * previous)
        low = min(base, high)
        assert delay == pytest.approx(low + (high - low) * again())
        assert delay <= cap
        previous = delay


@pytest.mark.parametrize(
    "backoff",
    [
        LinearBackoff(1e308, 1e308, 1e307),
        FibonacciBackoff(1e308, 1.7e308),
        ExponentialBackoff(1e308, 1e308, 0, 1.7e308),
        FullJitterBackoff(1e308, 1e308, 1.7e308),
        EqualJitterBackoff(1e308, 1e308, 1.7e308),
        DecorrelatedJitterBackoff(1e308, 1.7e308),
    ],
)
def test_intervals_past_the_largest_float_stay_at_the_cap(backoff: Backoff) -> None:
    assert all(0 <= d <= 1.7e308 for d in first(20, backoff))


def test_defaults_are_those_of_the_paper_and_of_cenkalti() -> None:
    assert ExponentialBackoff() == ExponentialBackoff(0.5, 1.5, 0.5, 60.0)
    assert ExponentialBackoff() == ExponentialBackoff(random=random.random)


# ---- combinators


@given(backoff=backoffs, n=counts, m=counts)
def test_take_ends_after_n(backoff: Backoff, n: int, m: int) -> None:
    assert list(backoff.take(n)) == first(n, backoff)
    assert list(backoff.take(n).take(m)) == list(backoff.take(min(n, m)))


@given(one=backoffs, two=backoffs, three=backoffs, n=counts, m=counts)
def test_then_follows(one: Backoff, two: Backoff, three: Backoff, n: int, m: int) -> None:
    a, b = one.take(n), two.take(m)
    assert list(a.then(b)) == list(a) + list(b)
    assert first(50, a.then(b).then(three)) == first(50, a.then(b.then(three)))
    assert list(a.then(StopBackoff())) == list(StopBackoff().then(a)) == list(a)


def test_then_takes_any_delays_and_keeps_them() -> None:
    more = [timedelta(minutes=1), 5]
    backoff = ZeroBackoff().take(1).then(more)
    more.clear()
    assert list(backoff) == [0, 60, 5]


def test_then_refuses_what_ends_with_the_first_job() -> None:
    once = iter([1, 2])
    with pytest.raises(TypeError, match=re.escape(repr(once)) + r".*\blist\b"):
        ZeroBackoff().then(once)


@given(backoff=backoffs, fraction=st.floats(0, 1), draw=draws)
def test_jittered_draws_around_each_delay(backoff: Backoff, fraction: float, draw: float) -> None:
    place = 1 - fraction + 2 * fraction * draw
    delays = first(20, backoff.jittered(fraction, random=lambda: draw))
    assert delays == pytest.approx([d * place for d in first(20, backoff)])
    assert first(20, backoff.jittered(0)) == first(20, backoff)
