"""The chart of the last hour: how high its bars are. The template draws it, without a script."""

from collections.abc import Mapping
from typing import NamedTuple

MINUTES = 60
_HIGH = 64.0  # of the tallest bar that the scale has room for
_LEAST = 2.0  # of one that stands for anything


class Bar(NamedTuple):
    """A minute: how many died, when that was, and how high its bar is."""

    died: int
    when: str
    height: float


class Chart(NamedTuple):
    """The last hour: its bars, the oldest first, and what the top of the scale stands for."""

    bars: list[Bar]
    scale: int
    total: int
    most: int


def last_hour(minutes: Mapping[int, int], now: float) -> Chart:
    """Return the chart of the hour before *now*.

    Args:
        minutes: how many died, by minutes of the wall clock.
    """
    last = int(now // 60)
    counts = [minutes.get(last - ago, 0) for ago in range(MINUTES - 1, -1, -1)]
    most = max(counts)
    scale = _round_up(most)
    bars = []
    for place, count in enumerate(counts):
        ago = MINUTES - 1 - place
        when = "in this minute" if ago == 0 else f"{ago} min ago"
        height = max(_LEAST, _HIGH * count / scale) if count else 0.0
        bars.append(Bar(count, when, round(height, 1)))
    return Chart(bars, scale, sum(counts), most)


def _round_up(most: int) -> int:
    """Return a round number that is not below *most*: 1, 2, 5, 10, 20, 50 and so on."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= most:
                return factor * step
        step *= 10
