"""What the writer asks of whatever keeps the jobs: a store, and the lanes in it.

The writer decides what is written, in which order, and what an error means for whom. A store knows
how. `SQLiteStore` keeps files in a directory, one lane each; `MemoryStore` keeps them in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from retryexec.journal._entry import Entry
from retryexec.journal._rows import JobRow, LetterRow


class Changes(NamedTuple):
    """What one transaction does: insert, update and mark entries, and delete their rows."""

    inserts: Sequence[Entry] = ()
    updates: Sequence[Entry] = ()
    marks: Sequence[Entry] = ()
    deletes: Sequence[Entry] = ()


class Findings(NamedTuple):
    """What a takeover has found in a lane, to be written there.

    Attributes:
        blamed: rows of jobs that may have ended the process.
        parked: a reason, or None where it holds no more, and the row.
        gone: rows that have their end elsewhere.
        adoptions: how many owners have crashed in a row; None if that is as it was.
    """

    blamed: Sequence[int]
    parked: Sequence[tuple[str | None, int]]
    gone: Sequence[int]
    adoptions: int | None


NOTHING_FOUND = Findings((), (), (), None)


class Lane(Protocol):
    """Entries that share transactions: a file, say.

    Attributes:
        shared: whether what is taken over is in this process's own lane as well.
        name: the owner's; a dead letter keeps it, to tell whether its job's row has gone.
        live: the entries that are on disk, by their row.
        parked: rows kept for somebody who can make jobs of them.
        suspects: entries to be run one at a time, the next one last.
        turn: the one that is, and its attempts when it was handed out.
        next_row: the number of the next row; in this process's own lane.
    """

    shared: bool
    name: str
    live: dict[int, Entry]
    parked: int
    suspects: list[Entry]
    turn: tuple[Entry, int] | None
    next_row: int

    def apply(self, changes: Changes) -> int:
        """Do all *changes*, or none; return how many rows to be deleted were not there any more.

        Raises:
            Lost: the lane is gone or damaged; `Fenced`: somebody else has it.
            Exception: none was done, or, if the error came at the very end, it is not known.
        """
        ...

    def insert_rows(self, rows: Iterable[JobRow], sources: Sequence[str] = ()) -> None:
        """Write whole records in one transaction; raises as `apply`.

        Args:
            sources: names of lanes that are lost, and whose jobs these are.
        """
        ...

    def holds(self, entry: Entry) -> bool:
        """Return whether *entry* is on disk."""
        ...

    def verify(self) -> None:
        """Make sure that the lane is still this process's and where others look; raises Lost."""
        ...

    def is_in_place(self) -> bool:
        """Return whether `verify` would have nothing to do or to say; by any thread."""
        ...

    def truncate_log(self) -> None:
        """Give back space that is not needed now."""
        ...

    def log_bytes(self) -> int:
        """Return how much space that would be; by any thread."""
        ...

    def leave(self) -> None:
        """Let go of the lane in order; what is in it is anybody's."""
        ...

    def abandon(self) -> None:
        """Let go of the lane without touching it."""
        ...


class Letters(Protocol):
    """Where dead letters are kept."""

    def insert(self, letters: Sequence[LetterRow]) -> None:
        """Write *letters*, in place of those of the same id."""
        ...

    def outdate(self, succeeded: Sequence[Entry]) -> None:
        """Mark the letters as stale whose key is that of one of *succeeded*, accepted later."""
        ...


class Taken(NamedTuple):
    """What a takeover has found for this process to run.

    Attributes:
        lane: where the entries are.
        free: entries to be run at once, in the order they were accepted; and, where `key.held`
            says so, suspects, each to be kept in the line of its key until its turn.
        dead: entries that are dead letters by now.
    """

    lane: Lane
    free: list[Entry]
    dead: list[Entry]


class Store(Protocol):
    """What keeps the jobs, and is shared by processes."""

    @property
    def letters(self) -> Letters:
        """The dead letters."""
        ...

    def serve(self, wake: Callable[[], object], lost: Callable[[], object]) -> None:
        """Have *wake* called when there may be something to take, *lost* when a lane is lost."""
        ...

    def new_lane(self) -> Lane:
        """Make a lane of this process's own; Exception if that cannot be."""
        ...

    def set_aside(self, lane: Lane, error: Exception) -> None:
        """Move a lane that is lost out of the way, if it is there and damaged."""
        ...

    def is_unavailable(self, error: Exception) -> bool:
        """Return whether *error* is the store's, and not one of what was to be written."""
        ...

    def is_full(self, error: Exception) -> bool:
        """Return whether *error* means that there is no more room."""
        ...

    def forget_after_fork(self) -> None:
        """In a forked child: use nothing that is the parent's."""
        ...

    def take(self, seen: set[str], left: AbstractSet[str]) -> Taken | None:
        """Take over one lot of what dead processes have left; None if there is nothing more.

        Args:
            seen: lanes that have been looked at in this round, which grows.
            left: lanes that this process has left alone for good.
        """
        ...
