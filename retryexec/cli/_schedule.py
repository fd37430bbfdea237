"""When a backoff makes its attempts, found out by trying it many times."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from retryexec._backoff import Backoff
from retryexec._policy import ROUNDING
from retryexec.cli._misuse import Misuse
from retryexec.cli._spec import backoff

MOST_ATTEMPTS = 1000
"""Attempts shown at most: nobody looks at more rows."""

_RUNS = 10_000  # at most
_DRAWS = 1_000_000  # in all runs together: a second or so


@dataclass(frozen=True, slots=True)
class Spread:
    """Where 90 % of some values lie, and their middle: percentiles 5, 50 and 95."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Step:
    """One attempt of a plan.

    Attributes:
        attempt: its number, from 1.
        reached: the share of runs that get that far, 0 to 1.
        delay: seconds of waiting before it.
        start: seconds from the first attempt until it.
    """

    attempt: int
    reached: float
    delay: Spread
    start: Spread


@dataclass(frozen=True, slots=True)
class Plan:
    """When a backoff makes its attempts.

    Attributes:
        spec: the backoff, as it was asked for.
        steps: the attempts that at least one run reaches.
        runs: how many runs were simulated; 1 if there is no chance in it.
        seed: what the draws began with.
        max_elapsed: no attempt starts later; None for no limit.
        attempts: how many were asked for.
    """

    spec: str
    steps: tuple[Step, ...]
    runs: int
    seed: int
    max_elapsed: float | None
    attempts: int

    @property
    def exact(self) -> bool:
        """Whether every run is the same."""
        return self.runs == 1


def simulate(spec: str, *, attempts: int, max_elapsed: float | None = None, seed: int = 0) -> Plan:
    """Try *spec* out: every attempt fails at once, so that only the waits take time.

    Args:
        spec: a backoff as text, see `retryexec.cli._spec`.
        attempts: how many to plan, the first included.
        max_elapsed: seconds after which no attempt starts; None for no limit.
        seed: what the draws begin with.

    Raises:
        Misuse: *spec* is no backoff, or *attempts* are too many.
    """
    if attempts > MOST_ATTEMPTS:
        msg = f"--attempts {attempts} is too much to look at: {MOST_ATTEMPTS} at most"
        raise Misuse(msg)
    # A plan is repeatable on purpose, and guards no secret.
    made = backoff(spec, random.Random(seed).random)  # noqa: S311
    runs = [_delays(made, attempts - 1, max_elapsed) for _ in range(2)]
    if runs[0] == runs[1]:
        del runs[1]
    else:
        wanted = min(_RUNS, max(1000, _DRAWS // attempts))
        runs += [_delays(made, attempts - 1, max_elapsed) for _ in range(wanted - 2)]
    return Plan(spec, tuple(_steps(runs)), len(runs), seed, max_elapsed, attempts)


def _delays(made: Backoff, most: int, max_elapsed: float | None) -> list[float]:
    """Return the delays of one run, as many as the limits allow."""
    delays: list[float] = []
    start = 0.0
    for delay in islice(made, most):
        start += delay
        if max_elapsed is not None and start > max_elapsed + ROUNDING:
            break
        delays.append(delay)
    return delays


def _steps(runs: list[list[float]]) -> Iterator[Step]:
    zero = Spread(0.0, 0.0, 0.0)
    yield Step(1, 1.0, zero, zero)
    starts = [0.0] * len(runs)
    for position in range(max(map(len, runs))):
        delays = []
        reached = []
        for index, run in enumerate(runs):
            if position < len(run):
                delays.append(run[position])
                starts[index] += run[position]
                reached.append(starts[index])
        share = len(reached) / len(runs)
        yield Step(position + 2, share, _spread(delays), _spread(reached))


def _spread(values: list[float]) -> Spread:
    ordered = sorted(values)
    low, median, high = (_percentile(ordered, share) for share in (0.05, 0.5, 0.95))
    return Spread(low, median, high)


def _percentile(ordered: list[float], share: float) -> float:
    """Return the value below which *share* of *ordered* lies, between two of them if need be."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
