"""Words for the pages: times, ages and numbers."""

import json
import time
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup


def age(seconds: float | None) -> str:
    """Return *seconds* for people, in one unit or two: ``12 s``, ``5 min``, ``3 h 20 min``."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 1:
        return "now"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes:02d} min" if hours < 10 else f"{hours} h"
    return f"{round(seconds / 86400)} days"


def ago(at: float | None, now: float | None = None) -> Markup:
    """Return how long *at* is ago, with the time itself at hand."""
    if at is None:
        return Markup("–")
    text = age((time.time() if now is None else now) - at)
    full = moment(at)
    machine = full.replace(" ", "T", 1)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(machine, full, text)


def moment(at: float | None) -> str:
    """Return a time of the wall clock, in UTC: ``2026-11-22 02:19:23Z``."""
    if at is None:
        return "–"
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):  # a clock that was far off
        return str(at)


def number(value: float) -> str:
    """Return a number with its thousands apart: ``10,000``."""
    return f"{value:,}"


def jobs(count: int) -> str:
    """Return ``1 job``, ``2 jobs``, ``3,000 jobs``."""
    return "1 job" if count == 1 else f"{count:,} jobs"


def as_json(value: Any) -> str:
    """Return *value* as JSON, its numbers exact."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return str(value)
