"""A batch of changes, and what those hear who wait for it."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from retryexec.journal._entry import Entry, EntryState
from retryexec.journal._errors import JournalError, JournalFull
from retryexec.journal._store import Store

NEW, WRITING, STORED, HOMELESS, ENDED = EntryState


class Batch(NamedTuple):
    """What one look at some entries has found to do."""

    inserts: list[Entry]
    updates: list[Entry]
    deletes: list[Entry]
    marks: list[Entry]

    def __bool__(self) -> bool:
        return any(self)

    @property
    def size(self) -> int:
        """How many changes that is."""
        return sum(map(len, self))

    def without_inserts(self) -> "Batch":
        """Return what is left of it when the new entries have been refused."""
        return Batch([], *([e for e in part if e.state is not ENDED] for part in self[1:]))

    def halves(self) -> "tuple[Batch, Batch]":
        """Return two batches, the first of which is to be done first."""
        first, second, room = list[list[Entry]](), list[list[Entry]](), self.size // 2
        for part in self:
            first.append(part[:room])
            second.append(part[room:])
            room -= len(first[-1])
        return Batch(*first), Batch(*second)


class Answers:
    """Tells those who wait for an entry that it is accepted, or why it is not."""

    def __init__(self, store: Store, later: Callable[[Callable[[], object]], object]) -> None:
        self._store = store
        self._later = later

    def tell(self, entry: Entry) -> None:
        """Tell those who wait for *entry* that it is accepted, or refused."""
        if entry.waiter is not None:
            entry.waiter.release()
        if entry.future is not None:
            self._later(entry.resolve)

    def end(self, entry: Entry) -> None:
        """Note that nothing of *entry* is on disk, or has to be."""
        entry.state = ENDED
        if entry.waiter is not None or entry.future is not None:
            self.tell(entry)

    def refuse(self, entries: Iterable[Entry], error: Exception) -> None:
        """Refuse *entries*, which are on no disk."""
        refusal = self.refusal(error)
        for entry in entries:
            entry.refusal = refusal
            self.end(entry)

    def refusal(self, error: Exception) -> JournalError:
        """Return what the submitter of a job hears when *error* kept it from the disk."""
        if isinstance(error, JournalError):
            return error
        if self._store.is_full(error):
            refusal: JournalError = JournalFull(
                f"the disk is full: the job was not accepted ({error})"
            )
        else:
            refusal = JournalError(
                f"the job could not be written down, so it was not accepted: {error}"
            )
        refusal.__cause__ = error
        return refusal
