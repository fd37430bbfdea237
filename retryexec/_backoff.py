"""Backoffs: sequences of delays between attempts.

A backoff is any re-iterable of delays in seconds (numbers or timedeltas); every job iterates
its own copy, and the end of the sequence means that no retry is left. A list or tuple is one,
and so is any class with ``__iter__``. The ones here are frozen values that never end, unless
`Backoff.take` says so.
"""

import random as _random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from itertools import chain, islice, repeat
from typing import Any, Generic, TypeAlias, TypeVar

from retryexec._suggest import suggests_names
from retryexec._typing import override
from retryexec._validate import Seconds, number_between, reiterable, seconds, whole_number
from retryexec._values import Value

Random: TypeAlias = Callable[[], float]
"""Gives floats in [0, 1), as `random.random` does."""

Delays: TypeAlias = Iterable[float] | Iterable[timedelta] | Iterable[Seconds]
"""Any re-iterable of delays."""

S = TypeVar("S")

_set = object.__setattr__  # how a frozen dataclass fills its fields


class Backoff(ABC):
    """A sequence of delays with combinators; subclass it, or use any re-iterable instead."""

    __slots__ = ()

    @abstractmethod
    def __iter__(self) -> Iterator[float]:
        """Start the sequence: the delays before the first retry, the second, and so on."""

    def take(self, n: int) -> "Backoff":
        """Return this sequence, cut off after *n* delays, which allows at most *n* retries.

        Raises:
            TypeError, ValueError: *n* is not a whole number from 0 up.
        """
        return _Take(self, n)

    def then(self, other: Delays) -> "Backoff":
        """Return this sequence followed by *other*; an endless sequence never gets that far.

        Args:
            other: another backoff, or any re-iterable of seconds or timedeltas.

        Raises:
            TypeError, ValueError: *other* can be iterated only once, or holds what is not a delay.
        """
        return _Then(self, other)

    def jittered(self, fraction: float, *, random: Random = _random.random) -> "Backoff":
        """Return this sequence with every delay drawn from delay·(1 ± *fraction*).

        Args:
            fraction: 0 (exact) to 1.
            random: returns floats in [0, 1).

        Raises:
            TypeError, ValueError: an argument is invalid; the message names it.
        """
        return _Jittered(self, fraction, random)


class _Value(Value, Backoff):
    """A backoff that is a frozen dataclass."""

    __slots__ = ()


class _Steps(Iterator[float], Generic[S]):
    """One run through a `_Stepped` backoff: 72 bytes, where a generator would take 340."""

    __slots__ = ("_backoff", "_state", "_step")

    def __init__(
        self, backoff: "_Stepped[S]", step: Callable[[Any, S], tuple[float, S]], state: S
    ) -> None:
        self._backoff = backoff
        self._step = step  # the function, since a bound method would take more memory, for each job
        self._state = state

    @override
    def __next__(self) -> float:
        delay, self._state = self._step(self._backoff, self._state)
        return delay


class _Stepped(_Value, Generic[S]):
    """An endless backoff, defined by its first state and the step from each state to the next."""

    __slots__ = ()

    @override
    def __iter__(self) -> Iterator[float]:
        return _Steps(self, type(self)._step, self._start())

    @abstractmethod
    def _start(self) -> S: ...

    @abstractmethod
    def _step(self, state: S) -> tuple[float, S]:
        """Return the delay for *state*, and the state after it."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ZeroBackoff(_Value):
    """Retry at once, for ever."""

    @override
    def __iter__(self) -> Iterator[float]:
        return repeat(0.0)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class StopBackoff(_Value):
    """Never retry."""

    @override
    def __iter__(self) -> Iterator[float]:
        return iter(())


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class ConstantBackoff(_Value):
    """Wait *interval* seconds before every retry."""

    interval: float

    @suggests_names
    def __init__(self, interval: Seconds) -> None:
        _set(self, "interval", seconds("interval", interval))

    @override
    def __iter__(self) -> Iterator[float]:
        return repeat(self.interval)


def fixed_delay(backoff: object) -> float | None:
    """Return the one delay that *backoff* gives for ever; None if it is not such a backoff."""
    if type(backoff) is ZeroBackoff:
        return 0.0
    return backoff.interval if type(backoff) is ConstantBackoff else None


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class LinearBackoff(_Stepped[float]):
    """Wait *initial* seconds, then *increment* more each time, at most *max_interval*."""

    initial: float
    increment: float
    max_interval: float

    @suggests_names
    def __init__(self, initial: Seconds, increment: Seconds, max_interval: Seconds = 60.0) -> None:
        _set(self, "initial", seconds("initial", initial))
        _set(self, "increment", seconds("increment", increment))
        _set(self, "max_interval", seconds("max_interval", max_interval))

    @override
    def _start(self) -> float:
        return min(self.initial, self.max_interval)

    @override
    def _step(self, state: float) -> tuple[float, float]:
        return state, min(state + self.increment, self.max_interval)


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class FibonacciBackoff(_Stepped[tuple[float, float]]):
    """Wait *initial* seconds times 1, 1, 2, 3, 5, 8…, at most *max_interval*."""

    initial: float
    max_interval: float

    @suggests_names
    def __init__(self, initial: Seconds, max_interval: Seconds = 60.0) -> None:
        _set(self, "initial", seconds("initial", initial))
        _set(self, "max_interval", seconds("max_interval", max_interval))

    @override
    def _start(self) -> tuple[float, float]:
        first = min(self.initial, self.max_interval)
        return first, first

    @override
    def _step(self, state: tuple[float, float]) -> tuple[float, tuple[float, float]]:
        now, after = state
        return now, (after, min(now + after, self.max_interval))


class Randomized(_Value):
    """A dataclass with a field `random`, which is not pickled if it is the default one.

    `random.random` would be pickled with its state, and all processes that share a policy would
    draw the same delays and retry at the same time.
    """

    __slots__ = ()

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        if values["random"] is _random.random:
            del values["random"]
        return partial(type(self), **values), ()


class _Geometric(Randomized, _Stepped[float]):
    """An interval that grows by a factor up to a cap, and a draw around it.

    The cap is on the interval, before the draw: a draw clamped afterwards would have every
    client retry at the same instant, just when the outage is long.
    """

    __slots__ = ()
    max_interval: float
    multiplier: float

    @override
    def _step(self, state: float) -> tuple[float, float]:
        # A product past the largest float is inf, which the cap takes care of.
        return self._draw(state), min(state * self.multiplier, self.max_interval)

    @abstractmethod
    def _draw(self, interval: float) -> float: ...


def _random_field() -> Random:
    return field(default=_random.random, repr=False)


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class ExponentialBackoff(_Geometric):
    """Wait about *initial_interval* seconds, then *multiplier* times as long each time.

    The n-th delay is uniform in interval·(1 ± *randomization_factor*), where interval is
    ``min(max_interval, initial_interval · multiplier**(n - 1))``. Names, defaults and formula
    are those of cenkalti/backoff.

    Args:
        initial_interval, max_interval: seconds, or timedeltas.
        multiplier: 1 or more.
        randomization_factor: 0 (exact) to 1.
        random: returns floats in [0, 1).
    """

    initial_interval: float = 0.5
    multiplier: float = 1.5
    randomization_factor: float = 0.5
    max_interval: float = 60.0
    random: Random = _random_field()

    @suggests_names
    def __init__(
        self,
        initial_interval: Seconds = 0.5,
        multiplier: float = 1.5,
        randomization_factor: float = 0.5,
        max_interval: Seconds = 60.0,
        *,
        random: Random = _random.random,
    ) -> None:
        _set(self, "initial_interval", seconds("initial_interval", initial_interval))
        _set(self, "multiplier", _multiplier(multiplier))
        factor = number_between("randomization_factor", randomization_factor, 0.0, 1.0)
        _set(self, "randomization_factor", factor)
        _set(self, "max_interval", seconds("max_interval", max_interval))
        _set(self, "random", _checked(random))

    @override
    def _start(self) -> float:
        return min(self.initial_interval, self.max_interval)

    @override
    def _draw(self, interval: float) -> float:
        factor = self.randomization_factor
        return interval * (1.0 - factor + 2.0 * factor * self.random()) if factor else interval


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class _Jitter(_Geometric):
    """An interval that grows, drawn from all or half of itself."""

    base: float
    multiplier: float
    max_interval: float
    random: Random = _random_field()

    @suggests_names
    def __init__(
        self,
        base: Seconds = 0.5,
        multiplier: float = 2.0,
        max_interval: Seconds = 60.0,
        *,
        random: Random = _random.random,
    ) -> None:
        _set(self, "base", seconds("base", base))
        _set(self, "multiplier", _multiplier(multiplier))
        _set(self, "max_interval", seconds("max_interval", max_interval))
        _set(self, "random", _checked(random))

    @override
    def _start(self) -> float:
        return min(self.base, self.max_interval)


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class FullJitterBackoff(_Jitter):
    """Wait any time between 0 and an interval that grows by *multiplier* each time.

    ``uniform(0, min(max_interval, base · multiplier**(n - 1)))``; *base* and *max_interval* in
    seconds. Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (Full Jitter).
    """

    @override
    def _draw(self, interval: float) -> float:
        return interval * self.random()


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class EqualJitterBackoff(_Jitter):
    """Wait between half and all of an interval that grows by *multiplier* each time.

    ``v/2 + uniform(0, v/2)`` with ``v = min(max_interval, base · multiplier**(n - 1))``; *base*
    and *max_interval* in seconds. Source: AWS Architecture Blog, as above (Equal Jitter).
    """

    @override
    def _draw(self, interval: float) -> float:
        return interval * (0.5 + 0.5 * self.random())


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class DecorrelatedJitterBackoff(Randomized, _Stepped[float]):
    """Wait any time between *base* and three times the previous wait.

    ``uniform(base, min(max_interval, 3 · previous))``, in seconds, where the first *previous* is
    *base*. Source: AWS Architecture Blog, as above (Decorrelated Jitter), but with the range
    clamped instead of the draw, so that draws do not pile up at *max_interval*.
    """

    base: float
    max_interval: float
    random: Random = _random_field()

    @suggests_names
    def __init__(
        self,
        base: Seconds = 0.5,
        max_interval: Seconds = 60.0,
        *,
        random: Random = _random.random,
    ) -> None:
        _set(self, "base", seconds("base", base))
        _set(self, "max_interval", seconds("max_interval", max_interval))
        _set(self, "random", _checked(random))

    @override
    def _start(self) -> float:
        return self.base

    @override
    def _step(self, state: float) -> tuple[float, float]:
        high = min(self.max_interval, 3.0 * state)
        low = min(self.base, high)
        delay = low + (high - low) * self.random()
        return delay, delay


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Take(_Value):
    """Ends another sequence after *n* delays."""

    backoff: Backoff
    n: int

    def __post_init__(self) -> None:
        whole_number("n", self.n, least=0)

    @override
    def __iter__(self) -> Iterator[float]:
        return islice(self.backoff, self.n)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Then(_Value):
    """Goes through one sequence and then another."""

    first: Backoff
    second: Delays

    def __post_init__(self) -> None:
        _set(self, "second", reiterable("other", self.second))

    @override
    def __iter__(self) -> Iterator[float]:
        return chain(self.first, (seconds("a delay", delay) for delay in self.second))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Jittered(Randomized):
    """Draws each delay of another sequence around it."""

    backoff: Backoff
    fraction: float
    random: Random = _random_field()

    def __post_init__(self) -> None:
        _set(self, "fraction", number_between("fraction", self.fraction, 0.0, 1.0))
        _checked(self.random)

    @override
    def __iter__(self) -> Iterator[float]:
        low, width = 1.0 - self.fraction, 2.0 * self.fraction
        return (seconds("a delay", d) * (low + width * self.random()) for d in self.backoff)


def _multiplier(value: float) -> float:
    return number_between("multiplier", value, 1.0, float("inf"))


def _checked(random: Any) -> Random:
    if not callable(random):
        msg = f"random takes a callable that gives floats from 0 to below 1 (got {random!r})"
        raise TypeError(msg)
    return random  # type: ignore[no-any-return]  # checked above
