"""``retryexec plan --plot``: a backoff as a picture."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from retryexec.cli._misuse import Misuse
from retryexec.cli._schedule import Plan, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
"""What a plan can be drawn into."""

_COLOUR = "#2563eb"
_GREY = "#6b7280"


def check_suffix(file: Path) -> None:
    """Raise Misuse if *file* has no suffix that a plan can be drawn into."""
    if file.suffix.lower() not in SUFFIXES:
        msg = f"--plot {str(file)!r} is no picture: its name ends in {' or '.join(SUFFIXES)}"
        raise Misuse(msg)


def plot(plan: Plan, file: Path) -> None:
    """Draw the delay before each attempt, and below it when each attempt starts.

    Raises:
        Misuse: *file* has no suffix of a picture, or cannot be written.
    """
    check_suffix(file)
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
            raise Misuse(msg) from error


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
