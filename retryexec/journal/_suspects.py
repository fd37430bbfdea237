"""Who is to blame when a process did not end by itself: what an adopter makes of the marks.

A file's rows bear a mark while their jobs are seen running. Whoever adopts it finds there who
was at work when the process died. Jobs once blamed are run one at a time, each marked on disk
before it starts, so that the next crash tells the culprit from the bystanders.
"""

from collections.abc import Sequence
from typing import NamedTuple

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


def judge(marked: Sequence[tuple[int, int]], adoptions: int) -> Verdict:
    """Return whom to blame for the end of a file's owner.

    Args:
        marked: the rows that were seen at work, each with the crashes it had before.
        adoptions: how many owners of the file have crashed in a row, this one included.
    """
    # Those at work beside an old suspect are most likely its victims, for the second time.
    old = [row for row, crashes in marked if crashes]
    blamed = frozenset(old or [row for row, _ in marked])
    return Verdict(blamed, serial=adoptions >= 2 and not marked)
