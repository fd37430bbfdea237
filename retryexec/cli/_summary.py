"""The closing summary: what became of the records, in plain text."""

from collections.abc import Iterator

from retryexec._outcome import text_of
from retryexec.cli._tally import Totals

_COMMONEST = 5  # how many errors are shown
_ROWS = 10  # at most so many rows of attempts; the last one then stands for all later ones
_BAR = 30  # columns of the longest bar


def summary(totals: Totals, seconds: float) -> str:
    """Return the summary of a run that took *seconds*, as lines of text."""
    return "\n".join([headline(totals, seconds), *_details(totals)])


def headline(totals: Totals, seconds: float) -> str:
    """Return how many records there were and what became of them, in one line."""
    parts = [f"{totals.succeeded.total():,} succeeded"]
    if totals.failed:
        parts.append(f"{totals.failed:,} failed")
    if totals.bad:
        parts.append(f"{totals.bad:,} bad")
    if totals.unfinished:
        parts.append(f"{totals.unfinished:,} stopped unfinished")
    if totals.unstarted:
        parts.append(f"{totals.unstarted:,} never started")
    records = "1 record" if totals.records == 1 else f"{totals.records:,} records"
    return f"{records} in {span(seconds)}: {', '.join(parts)}"


def span(seconds: float) -> str:
    """Return *seconds* for people: ``45 ms``, ``7.3 s``, ``2 min 05 s``, ``3 h 20 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ordinal(number: int) -> str:
    """Return ``1st`` for 1, ``2nd`` for 2 and so on."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if number % 100 in {11, 12, 13} else endings.get(number % 10, "th")
    return f"{number}{ending}"


def describe(error: BaseException) -> str:
    """Return type and text of *error* on one line: ``sqlite3.OperationalError: no such table``."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in {"builtins", "__main__"}:
        name = f"{kind.__module__}.{name}"
    text = " ".join(text_of(error).split())
    return f"{name}: {text}" if text else name


def _details(totals: Totals) -> Iterator[str]:
    if totals.succeeded:
        yield "succeeded at attempt"
        yield from _attempts(totals)
    if totals.slowest:
        yield "slowest, from first attempt to outcome"
        for seconds, line, attempts in totals.slowest:
            tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            yield f"  {span(seconds):>12}  line {line}, {tries}"
    if totals.errors:
        yield "commonest errors, by failed attempts"
        for error, attempts in totals.errors.most_common(_COMMONEST):
            yield f"  {attempts:>12,}  {error}"
        if len(totals.errors) > _COMMONEST:
            rest = totals.errors.most_common()[_COMMONEST:]
            yield f"  {sum(n for _, n in rest):>12,}  others, {len(rest):,} of them"


def _attempts(totals: Totals) -> Iterator[str]:
    rows = [(ordinal(n), jobs) for n, jobs in sorted(totals.succeeded.items())]
    if len(rows) > _ROWS:
        rows[_ROWS - 1 :] = [("later", sum(jobs for _, jobs in rows[_ROWS - 1 :]))]
    most = max(jobs for _, jobs in rows)
    for name, jobs in rows:
        yield f"  {name:>12}  {jobs:>9,}  {'#' * max(1, round(_BAR * jobs / most))}"
