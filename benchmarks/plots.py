"""The plots of the documentation: lines where a figure grows with the jobs, else bars.

They have no background, and their colours are neither light nor dark, so that one file can be read
on white and on black. What is whose is written beside it; lines differ in marks and dashes, too.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from harness import OURS, Row, figure

TEXT, GRID = "#7f7f7f", "#7f7f7f40"
# Colour, mark and dashes: of retryexec, of the peers that are in many plots, and of the others in
# the order in which they come.
OURS_STYLE = ("#2f81f7", "o", "-")
STYLES = {
    "ThreadPoolExecutor": ("#d9730d", "s", "--"),
    "ThreadPoolExecutor, own loop": ("#b3592d", "<", (0, (3, 1, 1, 1))),
    "asyncio": ("#96892b", "P", (0, (1, 1))),
    "asyncio, own loop": ("#96892b", "P", (0, (1, 1))),
    "tenacity in a pool": ("#2e9e6b", "^", "-."),
    "stamina in a pool": ("#b565c9", "D", ":"),
    "more-executors": ("#c2504d", "v", (0, (5, 1, 1, 1, 1, 1))),
    "tenacity on asyncio": ("#3a9fb0", "X", (0, (6, 2))),
}
GAP = 13.0  # points from one label to the next
LETTER = 5.3  # points, about, of a label


def draw(name: str, rows: Iterable[Row], folder: Path) -> Iterator[tuple[str, str]]:
    """Draw the tables of benchmark *name* into *folder*; yield their questions and files."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": OURS,  # the same figures make the same file
            "font.size": 10,
            "text.color": TEXT,
            "axes.labelcolor": TEXT,
            "axes.edgecolor": TEXT,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
        }
    )
    from matplotlib import pyplot as plt

    by_question = attrgetter("what")
    for what, table in groupby(sorted(rows, key=by_question), by_question):
        lines: dict[str, list[Row]] = {}
        for row in table:
            lines.setdefault(row.peer, []).append(row)
        if len(lines) < 2:
            continue
        grows = max(map(len, lines.values())) > 1
        size = (7.2, 4.0) if grows else (7.2, 0.95 + 0.32 * len(lines))
        drawing, axes = plt.subplots(figsize=size, layout="constrained")
        (_draw_lines if grows else _draw_bars)(axes, lines)
        drawing.suptitle(what, x=0.01, horizontalalignment="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        words = "".join(c if c.isalnum() else " " for c in what).split()
        file = f"{name}-{'-'.join(words)}.svg"
        drawing.savefig(folder / file, metadata={"Date": None}, transparent=True)
        plt.close(drawing)
        yield what, file


def plain(value: float, _: object = None) -> str:
    """Return *value* as people write it: 100k."""
    for unit, word in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{word}"
    return f"{value:.3g}"


def _styles(peers: Sequence[str]) -> dict[str, Any]:
    others = cycle([style for peer, style in STYLES.items() if peer not in peers])
    return {
        peer: OURS_STYLE if peer == OURS else STYLES.get(peer) or next(others) for peer in peers
    }


def _draw_lines(axes: Any, lines: dict[str, list[Row]]) -> None:
    styles = _styles([*lines])
    for peer, points in lines.items():
        color, mark, dashes = styles[peer]
        axes.plot(
            [row.jobs for row in points],
            [row.value for row in points],
            color=color,
            marker=mark,
            linestyle=dashes,
            linewidth=2.6 if peer == OURS else 1.4,
            markersize=6 if peer == OURS else 5,
            zorder=3 if peer == OURS else 2,
        )
    rows = [row for points in lines.values() for row in points]
    axes.set(xscale="log", yscale="log", xlabel=rows[0].over, ylabel=_unit(rows[0]))
    _set_ticks(axes.xaxis, sorted({row.jobs for row in rows}))
    _set_ticks(axes.yaxis, _decades([row.value for row in rows]))
    axes.grid(visible=True, color=GRID)
    axes.tick_params(which="minor", length=0)
    first, last = min(row.jobs for row in rows), max(row.jobs for row in rows)
    # With room for what is written beside the lines that end there.
    longest = max(len(_words(row)) for row in rows if row.jobs == last)
    written = (longest * LETTER + 15) / 440
    axes.set_xlim(first / 1.15, last * (last / first) ** (written / (1 - written)))
    low, high = min(row.value for row in rows), max(row.value for row in rows)
    axes.set_ylim(low / 1.35, high * 1.35)
    _label(axes, {peer: points[-1] for peer, points in lines.items()}, styles)


def _set_ticks(axis: Any, ticks: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axis.set_major_locator(FixedLocator([*ticks]))
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_formatter(NullFormatter())


def _decades(values: Sequence[float]) -> list[float]:
    """Return round numbers around *values*: of each decade all of 1, 2 and 5, or 1 alone."""
    low, high = min(values) / 1.3, max(values) * 1.3
    steps = (1, 2, 5) if high / low < 200 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**e for e in exponents for step in steps if low <= step * 10.0**e <= high]


def _label(axes: Any, ends: dict[str, Row], styles: dict[str, Any]) -> None:
    """Write beside the end of each line whose it is; where ends are close, one above the other."""
    axes.figure.canvas.draw()  # lays it out, which the places depend on
    scale = axes.figure.dpi / 72
    places = {peer: axes.transData.transform((row.jobs, row.value)) for peer, row in ends.items()}
    taken: list[tuple[float, float]] = []
    for peer in sorted(ends, key=lambda peer: places[peer][1]):
        x, y = places[peer] / scale
        wanted = y
        while clashes := [
            ty for tx, ty in taken if abs(tx - x) < 120 and abs(ty - wanted) < GAP - 0.1
        ]:
            wanted = max(clashes) + GAP
        taken.append((x, wanted))
        row = ends[peer]
        axes.annotate(
            _words(row),
            (row.jobs, row.value),
            xytext=(9, wanted - y),
            textcoords="offset points",
            va="center",
            color=styles[peer][0],
            fontweight="bold" if peer == OURS else "normal",
            fontsize=9,
        )


def _words(row: Row) -> str:
    return f"{row.peer}  {plain(row.value)}"


def _unit(row: Row) -> str:
    unit = {"s": "seconds", "B": "bytes"}.get(row.unit, row.unit)
    return f"{unit}, {'more' if '/s' in row.unit else 'less'} is better"


def _draw_bars(axes: Any, lines: dict[str, list[Row]]) -> None:
    peers = [*lines][::-1]
    # Where no other is there, all of them are ours.
    styles = _styles([*lines]) if OURS in lines else dict.fromkeys(lines, OURS_STYLE)
    rows = [lines[peer][0] for peer in peers]
    longest = max(row.value for row in rows)
    axes.barh(
        peers,
        [row.value for row in rows],
        height=0.62,
        color=[
            f"{styles[peer][0]}{'ff' if styles[peer] == OURS_STYLE else '80'}" for peer in peers
        ],
        hatch=["" if styles[peer] == OURS_STYLE else "///" for peer in peers],
        edgecolor=[styles[peer][0] for peer in peers],
    )
    for place, row in enumerate(rows):
        ratio = "" if row.ratio in {None, 1.0} else f"   × {row.ratio:.2f}"
        text = f"{figure(row.value)} {row.unit}{ratio}"
        axes.text(
            row.value + longest * 0.015,
            place,
            text,
            va="center",
            fontsize=9,
            fontweight="bold" if row.peer == OURS else "normal",
        )
    axes.set_xlim(0, longest * 1.6)
    axes.set_xticks([])
    axes.set_xlabel(_unit(rows[0]), loc="left", fontsize=9)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
