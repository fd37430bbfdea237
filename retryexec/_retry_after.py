"""Read the wait that a server asks for, from an HTTP header Retry-After or the like."""

import math
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from retryexec._validate import real

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


def named_delay(value: Any, *, now: float | None = None) -> float | None:
    """Return the seconds from now that *value* asks to wait; None if it names no such time.

    Understood are numbers, timedeltas, and what headers say: digits, and dates in the three
    formats of RFC 9110, as text or bytes. What lies in the past is 0. Anything else names no
    time: an infinite number, other text, a date that does not exist, None.

    Args:
        value: what came with the response.
        now: the time of day that a date is compared with, in seconds since the epoch.
    """
    if isinstance(value, timedelta):
        return max(0.0, value.total_seconds())
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("latin-1")
    if isinstance(value, str):
        value = value.strip()
        # Not float() alone, which takes "nan", "1e9" and "1_000".
        delay = float(value) if _NUMBER.fullmatch(value) else _until_date(value, now)
    else:
        delay = real(value)
    if delay is None or not delay < math.inf:  # NaN is not, either
        return None
    return max(0.0, delay)


def _until_date(text: str, now: float | None) -> float | None:
    """Return the seconds from *now* to the date that *text* is, which may be negative."""
    from email.utils import parsedate_tz  # it imports half of the network modules

    try:
        date = parsedate_tz(text)
        if date is None:
            return None
        year, month, day, hour, minute, second = date[:6]
        # A leap second is legal, and datetime does not know any.
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        at = moment.timestamp() - (date[9] or 0)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None  # no such date, or text that the parser stumbles over
    return at - (time.time() if now is None else now)
