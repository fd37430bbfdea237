"""A small writer of SVG pictures of time: bars on rows above a common axis, with a legend.

The colours are told apart by people who see few of them, and the picture has a background of its
own, light or dark as its reader has it.
"""

import math
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from retryexec.cli.output import clean

Box = tuple[float, float, float, float]
"""A rectangle: its left and upper edge, its width and height."""

STYLE = """
    .back { fill: #ffffff }
    text { font: 12px system-ui, sans-serif; fill: #24292f }
    .title { font-size: 14px; font-weight: 600 }
    .dim { fill: #6e7781 }
    .grid { stroke: #8c959f; stroke-opacity: .25 }
    .lock { fill: #d4a72c; fill-opacity: .16 }
    .row { fill: #8c959f; fill-opacity: .1 }
    .ok { fill: #2f81f7 }
    .failed { fill: #e8590c }
    .final { fill: #b3261e }
    .asleep { fill: #8c959f; fill-opacity: .55 }
    .unknown { fill: #8c959f }
    .wait { stroke: #8c959f; stroke-width: 1.5; fill: none }
    .held { fill: #a371f7; fill-opacity: .55 }
    .queued { stroke: #8c959f; stroke-width: 1.5; stroke-dasharray: 1 3; fill: none }
    .cross { stroke: #ffffff; stroke-width: 1.5; fill: none }
    @media (prefers-color-scheme: dark) {
      .back { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #9198a1 }
      .final { fill: #ff6b60 } .cross { stroke: #0d1117 }
    }
"""


class Drawing:
    """A picture that grows downwards.

    Args:
        width: of it, in its own units.
        title: what it is called by those who cannot see it.
    """

    def __init__(self, width: float, title: str) -> None:
        self.width = width
        self.bottom = 0.0
        self._title = title
        self._parts: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> None:
        """Write *text* with its baseline at *y*."""
        self._reach(y + 4)
        of_kind = f' class="{kind}"' if kind else ""
        at_end = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(
            f'<text{of_kind} x="{_short(x)}" y="{_short(y)}"{at_end}>{escape(clean(text))}</text>'
        )

    def rect(self, kind: str, box: Box, says: str = "") -> None:
        """Draw a rectangle with a tooltip, *says*."""
        x, y, width, height = box
        self._reach(y + height)
        shape = (
            f'<rect class="{kind}" x="{_short(x)}" y="{_short(y)}" width="{_short(width)}" '
            f'height="{_short(height)}"'
        )
        tip = f"><title>{escape(clean(says))}</title></rect>" if says else "/>"
        self._parts.append(f"{shape}{tip}")

    def path(self, kind: str, commands: str) -> None:
        """Draw what *commands* say, as SVG has them."""
        if commands:
            self._parts.append(f'<path class="{kind}" d="{commands}"/>')

    def rects(self, kind: str, boxes: Iterator[Box]) -> None:
        """Draw many rectangles (x, y, width, height) as one shape."""
        self.path(
            kind,
            "".join(
                f"M{_short(x)} {_short(y)}h{_short(w)}v{_short(h)}h{_short(-w)}z"
                for x, y, w, h in boxes
            ),
        )

    def line(self, kind: str, x: float, y: float, to_x: float) -> None:
        """Draw a line to the right."""
        self.path(kind, f"M{_short(x)} {_short(y)}H{_short(to_x)}")

    def cross(self, x: float, y: float, size: float) -> None:
        """Draw a cross around a point."""
        a, b = _short(size), _short(-size)
        self.path("cross", f"M{_short(x - size / 2)} {_short(y - size / 2)}l{a} {a}m{b} 0l{a} {b}")

    def legend(self, x: float, y: float, entries: "list[tuple[str, str]]") -> float:
        """Write what each kind means, in as many lines as it takes; return where it ends."""
        left = x
        for kind, words in entries:
            width = 26 + 6.4 * len(words) + 14
            if x > left and x + width > self.width:
                x, y = left, y + 18
            if kind in {"wait", "queued"}:
                self.line(kind, x, y - 4, x + 18)
            else:
                self.rect(kind, (x, y - 9, 18, 10))
                if kind == "final":
                    self.cross(x + 9, y - 4, 6)
            self.text(x + 24, y, words)
            x += width
        return y + 8

    def axis(self, left: float, right: float, top: float, bottom: float, seconds: float) -> None:
        """Draw the time from 0 to *seconds* between *left* and *right*, below *bottom*."""
        step = tick_step(seconds)
        for number in range(int(seconds / step + 1e-9) + 1):
            at = number * step
            x = left + (right - left) * at / seconds
            self.path("grid", f"M{_short(x)} {_short(top)}V{_short(bottom)}")
            self.text(x, bottom + 14, tick_label(at, step), "dim", anchor="middle")

    def done(self) -> str:
        """Return the picture as a document."""
        height = _short(self.bottom + 10)
        width = _short(self.width)
        label = quoteattr(clean(self._title))
        size = f'viewBox="0 0 {width} {height}" width="{width}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={label}>',
                f"<style>{STYLE}</style>",
                f'<rect class="back" width="{width}" height="{height}"/>',
                *self._parts,
                "</svg>",
                "",
            ]
        )

    def _reach(self, y: float) -> None:
        self.bottom = max(self.bottom, y)


def tick_step(seconds: float) -> float:
    """Return a round number of seconds, of which *seconds* are at most ten."""
    for step in (60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400):
        if seconds > 120 and seconds <= 10 * step:
            return step
    power = 10.0 ** math.floor(math.log10(seconds / 10))
    return next(step * power for step in (1, 2, 5, 10) if seconds / (step * power) <= 10 + 1e-9)


def tick_label(at: float, step: float) -> str:
    """Return the time *at*, a multiple of *step*, as a label of an axis."""
    if step >= 86400:
        return f"{at / 86400:g} d"
    if step >= 3600:
        return f"{at / 3600:g} h"
    if step >= 60:
        return f"{at / 60:g} min"
    if step < 0.001:
        return f"{at * 1e6:g} µs"
    return f"{at * 1000:g} ms" if step < 0.1 else f"{round(at, 6):g} s"


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
