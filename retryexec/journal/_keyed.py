"""What the ends of jobs with keys mean for other jobs of those keys, and for dead letters."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from retryexec.journal._batch import Batch
from retryexec.journal._entry import SUCCEEDED, Entry, EntryState

NEW, WRITING, STORED, HOMELESS, ENDED = EntryState


class Ending(NamedTuple):
    """Entries that have ended, by what is to be done before their rows may go.

    Attributes:
        dying: they become dead letters.
        succeeded: older dead letters of their keys become stale.
        replaced: nothing, for the newer job of the key is on disk, or about to be.
        later: they are to be looked at again.
    """

    dying: list[Entry]
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

    def sorted(self, entries: Iterable[Entry]) -> Ending:
        """Return *entries*, each with an outcome that has a reason, by what is to be done."""
        ending = Ending([], [], [], [])
        for entry in entries:
            outcome = entry.outcome
            while outcome is not None and outcome.by is not None and outcome.by.refusal is not None:
                # The newer one is on no disk, so the older ends as that one does.
                outcome = outcome.by.outcome
                if outcome is not None:
                    entry.outcome = outcome
            if outcome is None:
                self.stand_ins.append(entry)
            elif outcome is SUCCEEDED:
                ending.succeeded.append(entry)
            elif outcome.by is not None:
                state = outcome.by.state
                self.at_risk |= state is WRITING
                (ending.later if state in {NEW, HOMELESS} else ending.replaced).append(entry)
            elif outcome.reason is None:
                ending.replaced.append(entry)
            else:
                ending.dying.append(entry)
        return ending

    def without_refused(self, batch: Batch) -> tuple[Batch, Sequence[Entry]]:
        """Return *batch* without the removal of entries whose newer job was refused, and those."""
        kept = [entry for entry in batch.deletes if _is_refused(entry)]
        deletes = [entry for entry in batch.deletes if not _is_refused(entry)]
        return batch._replace(deletes=deletes), kept


def _is_refused(entry: Entry) -> bool:
    outcome = entry.outcome
    return outcome is not None and outcome.by is not None and outcome.by.refusal is not None


def _is_standing_in(entry: Entry) -> bool:
    assert entry.outcome is not None
    by = entry.outcome.by
    return by is not None and by.refusal is not None and by.outcome is None
