"""``retryexec plan``: when a backoff makes its attempts, as a table and as a picture."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import quantiles
from textwrap import shorten
from typing import TYPE_CHECKING

from retryexec import Backoff
from retryexec.cli.backoff_option import backoff
from retryexec.cli.options import UsageError
from retryexec.cli.output import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ATTEMPTS = 1000  # nobody looks at more rows

# A policy counts an attempt that begins exactly at the limit, give or take a rounding error.
_ROUNDING = 1e-7
_RUNS = 10_000  # at most
_DRAWS = 1_000_000  # in all runs together: a second or so
_SUFFIXES = (".svg", ".png")  # what a plan can be drawn into
_COLOUR = "#2563eb"
_GREY = "#6b7280"


def plan(
    spec: str, *, attempts: int, max_elapsed: float | None, seed: int, file: Path | None
) -> int:
    """Print the plan of *spec*, and draw it into *file* if that is given; return 0.

    Raises:
        UsageError: an argument cannot be right, or *file* cannot be written.
    """
    simulated = simulate(spec, attempts=attempts, max_elapsed=max_elapsed, seed=seed)
    if file is not None:
        # Before the table: whoever cannot have the picture should not have to scroll for why.
        plot(simulated, file)
    show("\n".join(_table(simulated)))
    if file is not None:
        show(f"drawn into {file}")
    return 0


def _table(plan: "Plan") -> Iterator[str]:
    if plan.exact:
        yield f"{plan.spec}: exact, nothing in it is left to chance; times in seconds"
        yield ""
        yield "attempt      delay      start"
        for step in plan.steps:
            yield f"{step.attempt:7}  {_cell(step.delay.median)}  {_cell(step.start.median)}"
    else:
        yield f"{plan.spec}: {plan.runs:,} simulated runs (seed {plan.seed}); times in seconds"
        yield ""
        yield "          delay before it                  start of the attempt"
        yield "attempt     median        5 %       95 %     median        5 %       95 %  reached"
        for step in plan.steps:
            cells = "  ".join(
                _cell(value)
                for spread in (step.delay, step.start)
                for value in (spread.median, spread.low, spread.high)
            )
            yield f"{step.attempt:7}  {cells}  {step.reached:7.0%}"
    yield from _remarks(plan)


def _remarks(plan: "Plan") -> Iterator[str]:
    last = len(plan.steps)
    if plan.max_elapsed is not None:
        yield ""
        yield f"No attempt starts later than {plan.max_elapsed:g} s after the first."
    elif last < plan.attempts:
        yield ""
        yield f"The backoff ends here: attempt {last} is the last."


def _cell(seconds: float) -> str:
    return f"{seconds:9.3f}"


# ---- the simulation


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
        spec: a backoff as text, see `retryexec.cli.options`.
        attempts: how many to plan, the first included.
        max_elapsed: seconds after which no attempt starts; None for no limit.
        seed: what the draws begin with.

    Raises:
        UsageError: *spec* is not a backoff, or *attempts* are too many.
    """
    if attempts > _MOST_ATTEMPTS:
        msg = f"--attempts {attempts} is too much to look at: {_MOST_ATTEMPTS} at most"
        raise UsageError(msg)
    # A plan is repeatable on purpose, and guards no secret.
    made = backoff(spec, random.Random(seed).random)  # noqa: S311  no secret
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
        if max_elapsed is not None and start > max_elapsed + _ROUNDING:
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
    # Python before 3.13 asks for two values at least.
    marks = quantiles(values if len(values) > 1 else values * 2, n=20, method="inclusive")
    return Spread(marks[0], marks[9], marks[18])


# ---- the picture


def _check_suffix(file: Path) -> None:
    """Raise UsageError if the name of *file* does not end as a picture's."""
    if file.suffix.lower() not in _SUFFIXES:
        msg = f"--plot {str(file)!r} is not a picture: its name ends in {' or '.join(_SUFFIXES)}"
        raise UsageError(msg)


def plot(plan: Plan, file: Path) -> None:
    """Draw the delay before each attempt, and below it when each attempt starts.

    Raises:
        UsageError: the name of *file* does not end as a picture's, or cannot be written.
    """
    _check_suffix(file)
    # The figure itself, without pyplot: no backend is chosen and no window opened for it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The text of an SVG stays text, and the same plan gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "retryexec"}):
        figure = Figure(figsize=(8.0, 6.5), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        attempts = [step.attempt for step in plan.steps]
        _draw(above, attempts[1:], [step.delay for step in plan.steps[1:]], exact=plan.exact)
        _draw(below, attempts, [step.start for step in plan.steps], exact=plan.exact)
        title = shorten(f"retryexec plan {plan.spec}", 80, placeholder=" …")
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size="medium")
        above.set_title(_caption(plan), loc="left", fontsize="small", color=_GREY)
        above.set_ylabel("delay before it (s)")
        below.set_ylabel("start, after the first (s)")
        below.set_xlabel("attempt")
        below.xaxis.get_major_locator().set_params(integer=True)
        limit, top = plan.max_elapsed, plan.steps[-1].start.high
        if limit is not None and limit < 1.5 * top:  # a far one would only flatten the curve
            style = {"color": "#dc2626", "linestyle": "--", "linewidth": 1}
            below.axhline(limit, label=f"--max-elapsed {limit:g} s", **style)
        if not plan.exact and len(attempts) > 1:
            above.legend(loc="upper left", frameon=False)
            below.legend(loc="upper left", frameon=False)
        metadata = {"Date": None} if file.suffix.lower() == ".svg" else {}
        try:
            figure.savefig(file, dpi=150, metadata=metadata)
        except OSError as error:
            msg = f"--plot {str(file)!r} cannot be written: {error.strerror}"
            raise UsageError(msg) from error


def _draw(axes: "Axes", attempts: list[int], spreads: "list[Spread]", *, exact: bool) -> None:
    if not exact:
        low, high = [spread.low for spread in spreads], [spread.high for spread in spreads]
        axes.fill_between(
            attempts, low, high, color=_COLOUR, alpha=0.18, linewidth=0, label="5 % to 95 %"
        )
    medians = [spread.median for spread in spreads]
    marker = "o" if len(attempts) <= 60 else ""  # more than that would be a caterpillar
    axes.plot(attempts, medians, color=_COLOUR, marker=marker, markersize=4, label="median")
    axes.set_ylim(bottom=0)
    axes.grid(color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _caption(plan: Plan) -> str:
    exact = "exact" if plan.exact else f"{plan.runs:,} simulated runs, seed {plan.seed}"
    limit = "" if plan.max_elapsed is None else f"; no attempt after {plan.max_elapsed:g} s"
    return f"{exact}{limit}"
