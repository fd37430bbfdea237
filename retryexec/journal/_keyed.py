"""How the end of a job with a key affects the other jobs of that key, and their dead letters."""

from collections.abc import Sequence
from typing import NamedTuple

from retryexec.journal._batch import Batch
from retryexec.journal._entry import SUCCEEDED, Entry, EntryState

NEW, WRITING, STORED, DETACHED, ENDED = EntryState


class Ending(NamedTuple):
    """Entries that have ended, by what is to be done before their rows may go.

    Attributes:
        failed: they become dead letters.
        succeeded: older dead letters of their keys become stale.
        replaced: nothing, for the newer job of the key is on disk, or about to be.
        later: they are to be looked at again.
    """

    failed: list[Entry]
    succeeded: list[Entry]
    replaced: list[Entry]
    later: list[Entry]


class KeyedEnds:
    """Sorts the ends of entries, and keeps those whose newer job could not be written down.

    Attributes:
        stand_ins: entries on disk in the place of a newer one, which the journal has refused, and
            which has not ended.
        at_risk: whether the batch at hand both writes a newer job down and removes the older.
    """

    def __init__(self) -> None:
        self.stand_ins: list[Entry] = []
        self.at_risk = False

    def due(self) -> list[Entry]:
        """Take the entries whose newer job has ended meanwhile."""
        found = [entry for entry in self.stand_ins if not _is_standing_in(entry)]
        self.stand_ins = [entry for entry in self.stand_ins if _is_standing_in(entry)]
        return found

    def sorted(self, entries: Sequence[Entry]) -> Ending:
        """Return *entries*, each with an outcome that has a reason, by what is to be done."""
        ending = Ending([], [], [], [])
        for entry in reversed(entries):  # so that no chain of replaced jobs is followed twice
            newest = _newest(entry)
            if newest is None:
                pass
            elif newest.refusal is None:
                state = newest.state
                self.at_risk |= state is WRITING
                (ending.later if state in {NEW, DETACHED} else ending.replaced).append(entry)
                continue
            elif newest.outcome is None:
                self.stand_ins.append(entry)
                continue
            else:  # the newest one was on no disk, so this one ends as it has
                entry.outcome = newest.outcome
            assert entry.outcome is not None
            if entry.outcome is SUCCEEDED:
                ending.succeeded.append(entry)
            elif entry.outcome.reason is None:
                ending.replaced.append(entry)
            else:
                ending.failed.append(entry)
        for some in ending:
            some.reverse()
        return ending

    def without_refused(self, batch: Batch) -> tuple[Batch, Sequence[Entry]]:
        """Return *batch* without entries whose newer job was refused, and those entries."""
        kept = [entry for entry in batch.deletes if _is_refused(entry)]
        deletes = [entry for entry in batch.deletes if not _is_refused(entry)]
        return batch._replace(deletes=deletes), kept


def _newest(entry: Entry) -> Entry | None:
    """Return the newest of the entries that have replaced *entry*; None if none has."""
    outcome = entry.outcome
    while outcome is not None and outcome.by is not None:
        entry.outcome, outcome = outcome, outcome.by.outcome
    return None if entry.outcome is None else entry.outcome.by


def _is_refused(entry: Entry) -> bool:
    outcome = entry.outcome
    return outcome is not None and outcome.by is not None and outcome.by.refusal is not None


def _is_standing_in(entry: Entry) -> bool:
    assert entry.outcome is not None
    by = entry.outcome.by
    return by is not None and by.refusal is not None and by.outcome is None
