"""TracedJournal: keeps with each job the span in which it was submitted."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from retryexec.journal._entry import Entry, traced_entry
from retryexec.journal._journal import Journal


class TracedJournal:
    """Stands for an executor's journal, and gives it the trace of each job."""

    def __init__(self, journal: Journal, traceparent: Callable[[], str | None]) -> None:
        self.journal = journal
        self._traceparent = traceparent

    def accept(self, job: Any, *, key: Hashable = None, latest: bool = False) -> Entry:
        """Take *job*, with the ``traceparent`` of the current span, if there is one."""
        trace = self._traceparent()
        make = Entry if trace is None else partial(traced_entry, trace)
        return self.journal.accept(job, key=key, latest=latest, make=make)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)


def traced(traceparent: Callable[[], str | None], journal: Any) -> Any:
    """Return *journal*, traced if it is a `Journal`."""
    return TracedJournal(journal, traceparent) if isinstance(journal, Journal) else journal


def untraced(journal: Any) -> Any:
    """Return the journal that `traced` was given."""
    return journal.journal if isinstance(journal, TracedJournal) else journal
