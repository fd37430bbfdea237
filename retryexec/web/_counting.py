"""How many dead letters are meant, counted aside: to look at a million takes a minute."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from retryexec.web._filter import Filter
from retryexec.web._lines import Line

_KEPT = 8  # counts
_UNASKED = 60.0  # seconds after which nobody wants to know any more


@dataclass(frozen=True, slots=True)
class Counted:
    """How many dead letters are meant.

    Attributes:
        count: how many, so far.
        stale: how many of them are stale; None if nobody has looked.
        complete: whether all have been looked at.
        error: why no more can be; empty if they can.
    """

    count: int = 0
    stale: int | None = 0
    complete: bool = False
    error: str = ""


class _Count:
    def __init__(self) -> None:
        self.result = Counted()
        self.asked = time.monotonic()
        self.ended = threading.Event()


class Counting:
    """Counts in threads of its own, one for each filter, as long as somebody asks.

    Args:
        chosen: yields the letters that a filter means, some at a time.
    """

    def __init__(self, chosen: Callable[[Filter], Iterable[list[Line]]]) -> None:
        self._chosen = chosen
        self._lock = threading.Lock()  # guards what follows
        self._counts: dict[Filter, _Count] = {}

    def get(self, filter_: Filter, *, wait: float) -> Counted:
        """Return what has been counted, after *wait* seconds at most."""
        with self._lock:
            count = self._counts.get(filter_)
            if count is None or count.result.error:
                count = self._counts[filter_] = _Count()
                for old in list(self._counts)[:-_KEPT]:
                    del self._counts[old]
                name = "retryexec-web-count"
                threading.Thread(
                    target=self._run, args=(filter_, count), name=name, daemon=True
                ).start()
            count.asked = time.monotonic()
        count.ended.wait(wait)
        return count.result

    def close(self) -> None:
        """Count no more."""
        with self._lock:
            counts, self._counts = self._counts, {}
        for count in counts.values():
            count.ended.wait(5.0)

    def _run(self, filter_: Filter, count: _Count) -> None:
        number = stale = 0
        try:
            for lines in self._chosen(filter_):
                number += len(lines)
                stale += sum(line.stale for line in lines)
                count.result = Counted(number, stale)
                if not self._is_wanted(filter_, count):
                    return
            count.result = Counted(number, stale, complete=True)
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            count.result = Counted(number, stale, error=text)
        finally:
            count.ended.set()

    def _is_wanted(self, filter_: Filter, count: _Count) -> bool:
        with self._lock:
            if time.monotonic() - count.asked > _UNASKED:
                self._counts.pop(filter_, None)
            return self._counts.get(filter_) is count
