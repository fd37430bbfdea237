"""The picture of a run, of what `Timeline` has kept: by record, by worker, or sums over time."""

from collections.abc import Iterable, Iterator

from retryexec.cli.output import format_duration
from retryexec.cli.svg import Box, Drawing
from retryexec.cli.timeline import MOST_ATTEMPTS, Attempt, Timeline

WIDTH, LEFT, RIGHT = 960.0, 92.0, 940.0
MOST_ROWS = 40  # records that have a row each
_ROW, _BAR = 18.0, 11.0
_CHART = 90.0
_UNSEEN = 0.001  # seconds; of that size is the time from a question to its answer
_MIN_BAR = 0.8  # so that the shortest attempt can still be seen

ATTEMPTS = [
    ("ok", "succeeded"),
    ("failed", "failed, is tried again"),
    ("final", "failed for good"),
    ("unknown", "was running at the end"),
]


def picture(timeline: Timeline, title: str) -> str:
    """Return the picture of a run, as SVG.

    Args:
        timeline: what was noted of it.
        title: what became of it, in one line.
    """
    drawing = Drawing(WIDTH, f"Timeline of a run: {title}")
    drawing.text(16, 26, title, "title")
    seconds = max(timeline.elapsed(), 1e-6)
    lines = {attempt.line for attempt in timeline.attempts}
    if not timeline.counts["attempts"]:
        drawing.text(16, 50, "No attempt was made.")
    elif timeline.complete and len(lines) <= MOST_ROWS:
        _by_record(drawing, timeline, sorted(lines), seconds)
    elif timeline.complete:
        _by_worker(drawing, timeline, seconds)
    else:
        _sums(drawing, timeline, seconds)
    return drawing.done()


def _x(at: float, seconds: float) -> float:
    return LEFT + (RIGHT - LEFT) * min(at, seconds) / seconds


# ---- one row for each record


def _by_record(drawing: Drawing, timeline: Timeline, lines: list[int], seconds: float) -> None:
    words = "A row for each record, by its line in INPUT; a bar for each attempt"
    drawing.text(16, 46, words, "dim")
    spans = [("wait", "waits for its next attempt"), ("queued", "is in line for a worker")]
    held = [("held", "held by its key or a guard")] if _any_held(timeline.attempts) else []
    legend = [*_kinds(timeline.attempts), *spans, *held]
    top = drawing.legend(16, 68, legend) + 6
    rows = {line: top + number * _ROW for number, line in enumerate(lines)}
    for line, y in rows.items():
        drawing.rect("row", (LEFT, y + 2, RIGHT - LEFT, _ROW - 4))
        drawing.text(LEFT - 8, y + 13, f"line {line}", anchor="end")
    drawing.axis(LEFT, RIGHT, top, top + len(lines) * _ROW, seconds)
    for attempt in timeline.attempts:
        middle = rows[attempt.line] + _ROW / 2
        start = attempt.start if attempt.held is None else min(attempt.held, attempt.start)
        if start > attempt.ready:
            drawing.line("queued", _x(attempt.ready, seconds), middle, _x(start, seconds))
        if attempt.held is not None and attempt.start - attempt.held > _UNSEEN:
            x, to_x = _x(attempt.held, seconds), _x(attempt.start, seconds)
            drawing.rect("held", (x, middle - 3, to_x - x, 6))
        if attempt.end is not None and attempt.delay:
            x, to_x = _x(attempt.end, seconds), _x(attempt.end + attempt.delay, seconds)
            drawing.line("wait", x, middle, to_x)
        _bar(drawing, attempt, middle, seconds)


def _bar(drawing: Drawing, attempt: Attempt, middle: float, seconds: float) -> None:
    end = seconds if attempt.end is None else attempt.end
    x = _x(attempt.start, seconds)
    width = max(_MIN_BAR, _x(end, seconds) - x)
    kind = kind_of(attempt)
    drawing.rect(kind, (x, middle - _BAR / 2, width, _BAR), _says(attempt, end))
    if kind == "final":
        drawing.cross(x + width / 2, middle, 6)


def kind_of(attempt: Attempt) -> str:
    """Return how an attempt is drawn."""
    if attempt.end is None:
        return "unknown"
    if attempt.error is None:
        return "ok"
    return "final" if attempt.delay is None else "failed"


def _says(attempt: Attempt, end: float) -> str:
    spent = format_duration(end - attempt.start)
    error = f": {attempt.error[:200]}" if attempt.error else ""
    begun = format_duration(attempt.start)
    return f"line {attempt.line}, attempt {attempt.number}, after {begun}, for {spent}{error}"


def _kinds(attempts: Iterable[Attempt]) -> list[tuple[str, str]]:
    there = {kind_of(attempt) for attempt in attempts}
    return [(kind, words) for kind, words in ATTEMPTS if kind in there]


def _any_held(attempts: Iterable[Attempt]) -> bool:
    return any(a.held is not None and a.start - a.held > _UNSEEN for a in attempts)


# ---- one row for each worker


def _by_worker(drawing: Drawing, timeline: Timeline, seconds: float) -> None:
    drawing.text(16, 46, "A row for each worker; a bar for each attempt", "dim")
    top = drawing.legend(16, 68, _kinds(timeline.attempts)) + 6
    bottom = _lanes(drawing, timeline.workers, top)
    drawing.axis(LEFT, RIGHT, top, bottom, seconds)
    for attempt in timeline.attempts:
        _bar(drawing, attempt, top + attempt.worker * _ROW + _ROW / 2, seconds)
    waiting = [
        (a.end, min(a.end + a.delay, seconds)) for a in timeline.attempts if a.end and a.delay
    ]
    held = [(a.held, a.start) for a in timeline.attempts if a.held is not None]
    steps = sorted({at for span in (*waiting, *held) for at in span} | {0.0, seconds})
    _chart(drawing, bottom + 40, steps, [_levels(waiting, steps), _levels(held, steps)], seconds)


def _lanes(drawing: Drawing, workers: int, top: float) -> float:
    for worker in range(workers):
        y = top + worker * _ROW
        drawing.rect("row", (LEFT, y + 2, RIGHT - LEFT, _ROW - 4))
        drawing.text(LEFT - 8, y + 13, f"worker {worker + 1}", anchor="end")
    return top + workers * _ROW


def _levels(spans: list[tuple[float, float]], steps: list[float]) -> list[int]:
    """Return how many of *spans* go on from each of *steps* to the next."""
    changes = dict.fromkeys(steps, 0)
    for start, end in spans:
        changes[start] += 1
        changes[end] -= 1
    levels: list[int] = []
    for change in changes.values():
        levels.append((levels[-1] if levels else 0) + change)
    return levels[:-1]


def _chart(
    drawing: Drawing, top: float, steps: list[float], levels: list[list[int]], seconds: float
) -> None:
    """Draw how many records wait, and on top of these how many are held, as areas."""
    waiting, held = levels
    most = max(map(sum, zip(waiting, held, strict=True)), default=0)
    if not most:
        return
    kinds = [("asleep", "records that wait for their next attempt; they hold no worker")]
    if any(held):
        kinds.append(("held", "records held by their key or a guard"))
    top = drawing.legend(16, top, kinds) + 8
    bottom = top + _CHART
    drawing.axis(LEFT, RIGHT, top, bottom, seconds)
    drawing.text(LEFT - 8, top + 10, f"{most:,}", "dim", anchor="end")
    drawing.text(LEFT - 8, bottom, "0", "dim", anchor="end")
    below = [0] * len(waiting)
    scale = _CHART / most
    for kind, values in (("asleep", waiting), ("held", held)):
        spans = zip(steps, steps[1:], below, values, strict=False)
        drawing.rects(
            kind,
            (
                (_x(start, seconds), bottom - (base + value) * scale, width, value * scale)
                for start, end, base, value in spans
                if value and (width := _x(end, seconds) - _x(start, seconds)) > 0
            ),
        )
        below = [a + b for a, b in zip(below, values, strict=True)]


# ---- sums


def _sums(drawing: Drawing, timeline: Timeline, seconds: float) -> None:
    counts, width = timeline.counts, timeline.bin_seconds
    drawing.text(
        16,
        46,
        f"Sums: {counts['attempts']:,} attempts are more than the {MOST_ATTEMPTS:,} that are drawn "
        f"one by one. A row for each worker; each column is {format_duration(width)}",
        "dim",
    )
    legend = [("ok", "share of its time in attempts that succeed"), ("failed", "that fail")]
    top = drawing.legend(16, 68, [*legend, ("row", "idle")]) + 6
    bottom = _lanes(drawing, timeline.workers, top)
    drawing.axis(LEFT, RIGHT, top, bottom, seconds)
    for kind in ("failed", "ok"):
        drawing.rects(kind, _shares(timeline, kind, top, seconds))
    steps = [min(number * width, seconds) for number in range(len(timeline.bins) + 1)]
    looks = [(0, 0)]
    for sums in timeline.bins:
        looks.append(looks[-1] if sums.most is None else sums.most)
    levels = [[waiting for waiting, _ in looks[1:]], [held for _, held in looks[1:]]]
    _chart(drawing, bottom + 40, steps, levels, seconds)


def _shares(timeline: Timeline, kind: str, top: float, seconds: float) -> Iterator[Box]:
    """Yield boxes as high as the share of its time that a worker has spent so; failures below."""
    width, full = timeline.bin_seconds, _ROW - 4
    for number, sums in enumerate(timeline.bins):
        start = number * width
        x, span = _x(start, seconds), min(width, seconds - start)
        to_x = _x(start + width, seconds)
        if span <= 0:
            continue
        for worker in range(timeline.workers):
            ok, failed = (
                min(1.0, of.get(worker, 0.0) / span) * full for of in (sums.ok, sums.failed)
            )
            height, base = (failed, 0.0) if kind == "failed" else (ok, failed)
            if height > 0.05:
                y = top + worker * _ROW + _ROW - 2 - base - height
                yield x, y, to_x - x, height
