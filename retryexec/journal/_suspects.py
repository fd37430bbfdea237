"""Who is to blame when a process did not end by itself: what an adopter makes of the marks.

A file's rows bear a mark while their jobs are seen running. Whoever adopts it finds there who
was at work when the process died. Jobs once blamed are run one at a time, each marked on disk
before it starts, so that the next crash tells the culprit from the bystanders.
"""

from collections.abc import Sequence
from typing import NamedTuple

from retryexec.journal._file import Row

CRASHES = "crashes"
"""The reason of a job that dies because processes did."""


class Verdict(NamedTuple):
    """What becomes of a dead owner's rows.

    Attributes:
        blamed: the rows whose crashes are one more now.
        serial: whether all rows must run one at a time: their owners crash, and none left a mark.
    """

    blamed: frozenset[int]
    serial: bool


def judge(rows: Sequence[Row], adoptions: int) -> Verdict:
    """Return whom to blame for the end of the owner of *rows*.

    Args:
        rows: what it left.
        adoptions: how many owners of this file have crashed in a row, this one included.
    """
    marked = [row for row in rows if row.started]
    # Those at work beside an old suspect are most likely its victims, for the second time.
    old = [row for row in marked if row.crashes]
    blamed = frozenset(row.seq for row in old or marked)
    return Verdict(blamed, serial=adoptions >= 2 and not marked)
