"""A minute's outage on a virtual clock, with and without guards, and a picture of it.

    python outage.py [FILE.svg]

Each second brings new jobs. A minute long the service they call is down. The picture shows how
many attempts reach it in each second.
"""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from retryexec import (
    CircuitBreaker,
    ExponentialBackoff,
    Guard,
    RateLimit,
    RetryingExecutor,
    RetryPolicy,
)
from retryexec.testing import VirtualClock

NEW_JOBS = 50  # each second
DOWN = range(20, 80)
END = 140

GUARDS: dict[str, list[Guard]] = {
    "without guards": [],
    "CircuitBreaker(window=10)": [CircuitBreaker(window=10)],
    "CircuitBreaker(window=10), RateLimit(200)": [CircuitBreaker(window=10), RateLimit(200)],
}


def play(guards: Sequence[Guard], new_jobs: int = NEW_JOBS) -> tuple[Counter[int], Counter[int]]:
    """Return how many attempts failed, and how many succeeded, in each second."""
    clock = VirtualClock()
    failed, succeeded = Counter[int](), Counter[int]()

    def save() -> None:
        second = int(clock.now())
        if second in DOWN:
            failed[second] += 1
            raise ConnectionError("the service is down")
        succeeded[second] += 1

    backoff = ExponentialBackoff(random=Random(14).random)  # the default, the same in every run
    policy = RetryPolicy(max_attempts=None, backoff=backoff)
    with RetryingExecutor(1, policy=policy, clock=clock, guards=guards) as executor:
        for _ in range(END):
            for _ in range(10):
                for _ in range(new_jobs // 10):
                    executor.submit(save)
                clock.advance(0.1)
    return failed, succeeded


# ---- the picture

WIDTH, HEIGHT, LEFT, TOP = 720, 110, 46, 30
STYLE = """
    text { font: 12px sans-serif; fill: #333 }
    .title { font-weight: bold }
    .axis { stroke: #999; stroke-width: 1 }
    .grid { stroke: #999; stroke-width: 1; stroke-opacity: .3 }
    .down { fill: #999; fill-opacity: .15 }
    .failed { fill: #c8413b }
    .succeeded { fill: #3b82c8 }
    @media (prefers-color-scheme: dark) { text { fill: #ccc } }
"""


def picture(played: dict[str, tuple[Counter[int], Counter[int]]]) -> str:
    """Draw one chart under the other, as SVG."""
    most = max(max((a + b).values()) for a, b in played.values())
    scale = next(round_number for round_number in scales() if round_number >= most)
    total = TOP + len(played) * (HEIGHT + 40) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img">',
        "  <title>Attempts per second in an outage</title>",
        f"  <style>{STYLE}  </style>",
    ]
    legend = {
        "failed": "failed attempts",
        "succeeded": "successful ones",
        "down": "the service is down",
    }
    for i, (kind, text) in enumerate(legend.items()):
        x = LEFT + 150 * i
        parts.append(f'  <rect class="{kind}" x="{x}" y="6" width="10" height="10"/>')
        parts.append(f'  <text x="{x + 15}" y="15">{text}</text>')
    for i, (title, (failed, succeeded)) in enumerate(played.items()):
        parts.append(chart(TOP + 20 + i * (HEIGHT + 40), title, failed, succeeded, scale))
    return "\n".join([*parts, "</svg>", ""])


def scales() -> "Sequence[int]":
    return [step * 10**power for power in range(6) for step in (1, 2, 4, 5, 6, 8)]


def chart(top: int, title: str, failed: Counter[int], succeeded: Counter[int], scale: int) -> str:
    """Draw the attempts of each second as two bars, one on the other."""
    step = (WIDTH - LEFT - 20) / END
    bottom = top + HEIGHT
    left, width = LEFT + DOWN.start * step, len(DOWN) * step
    parts = [
        f'  <text class="title" x="{LEFT}" y="{top - 8}">{title}: attempts per second</text>',
        f'  <rect class="down" x="{left}" y="{top}" width="{width}" height="{HEIGHT}"/>',
    ]
    for share in (0.5, 1.0):
        y = bottom - share * HEIGHT
        parts.append(
            f'  <line class="grid" x1="{LEFT}" x2="{WIDTH - 20}" y1="{y}" y2="{y}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{scale * share:g}</text>'
        )
    for kind, below in (("failed", Counter[int]()), ("succeeded", failed)):
        counts = failed if kind == "failed" else succeeded
        bars = []
        for second in range(END):
            height, base = (n[second] / scale * HEIGHT for n in (counts, below))
            if height:
                x = LEFT + second * step
                bars.append(f"M{x:.1f} {bottom - base:.1f}h{step:.1f}v-{height:.1f}h-{step:.1f}z")
        parts.append(f'  <path class="{kind}" d="{"".join(bars)}"/>')
    parts.append(
        f'  <line class="axis" x1="{LEFT}" x2="{WIDTH - 20}" y1="{bottom}" y2="{bottom}"/>'
    )
    parts += [
        f'  <text x="{LEFT + second * step:.1f}" y="{bottom + 15}" text-anchor="middle">'
        f"{second} s</text>"
        for second in range(0, END + 1, 20)
    ]
    return "\n".join(parts)


def main() -> None:
    logging.disable(logging.WARNING)
    played = {title: play(guards) for title, guards in GUARDS.items()}
    for title, (failed, succeeded) in played.items():
        most = max((failed + succeeded).values())
        print(f"{title}: {failed.total()} failed attempts; at most {most} in a second")
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(picture(played), encoding="utf-8")


if __name__ == "__main__":
    main()
