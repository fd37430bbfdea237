"""Who is to blame when a process did not end by itself: what an adopter makes of the marks.

A file's rows bear a mark while their jobs are seen running. Whoever adopts it finds there who
was at work when the process died. Jobs once blamed are run one at a time, each marked on disk
before it starts, so that the next crash tells the culprit from the bystanders.
"""

from collections.abc import Sequence
from typing import NamedTuple

CRASHES = "crashes"
"""The reason of a job that dies because processes did."""

FIRST_SERIAL = 64


class Marked(NamedTuple):
    """A row that may have had to do with it.

    Attributes:
        row: which.
        crashes: those it was blamed for before.
        running: whether it was seen at work. If not, it is one that was blamed before, and has
            failed since: its next attempt bears no mark before it is seen.
    """

    row: int
    crashes: int
    running: bool


class Verdict(NamedTuple):
    """What becomes of a dead owner's rows.

    Attributes:
        blamed: the rows whose crashes are one more now.
        serial: how many rows, the first that are due, run one at a time although there is nothing
            against them: their owners crash, and none left a mark.
    """

    blamed: frozenset[int]
    serial: int


NOBODY = Verdict(frozenset(), 0)


def judge(marked: Sequence[Marked], adoptions: int) -> Verdict:
    """Return whom to blame for the end of a file's owner.

    Args:
        marked: the rows that may have had to do with it.
        adoptions: how many owners of the file have crashed in a row, this one included.
    """
    running = [mark for mark in marked if mark.running]
    if not running and adoptions >= 2:
        # Jobs run in the order in which they are due, so a job too quick for any mark was among
        # the first. The others need not pay for it, unless it goes on.
        serial = FIRST_SERIAL << min(adoptions - 2, 32)
        return Verdict(frozenset(mark.row for mark in marked), serial)
    # Those at work beside an old suspect are most likely its victims, for the second time.
    old = [mark.row for mark in running if mark.crashes]
    return Verdict(frozenset(old or [mark.row for mark in running]), 0)
