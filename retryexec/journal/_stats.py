"""Statistics of an open journal."""

from typing import NamedTuple

from retryexec.journal._engine import Engine


class JournalStats(NamedTuple):
    """Statistics of an open journal.

    Attributes:
        unfinished: jobs on disk that have not ended, in this process's files.
        parked: records that no registered class can be made of, in its files.
        dead: dead letters.
        files: files that this process writes, its own included.
        wal_bytes: the size of their logs.
        batches: transactions so far.
        healthy: False while the disk refuses what is written to it.
    """

    unfinished: int
    parked: int
    dead: int
    files: int
    wal_bytes: int
    batches: int
    healthy: bool


def stats_of(engine: Engine | None, dead: int) -> JournalStats:
    """Return how the journal of *engine* is, which has so many *dead* letters."""
    lanes = [] if engine is None else engine.lanes.all()
    return JournalStats(
        unfinished=sum(len(lane.live) for lane in lanes),
        parked=sum(lane.parked for lane in lanes),
        dead=dead,
        files=len(lanes),
        wal_bytes=sum(lane.log_bytes() for lane in lanes),
        batches=0 if engine is None else engine.lanes.batches,
        healthy=engine is None or engine.writer.healthy,
    )
