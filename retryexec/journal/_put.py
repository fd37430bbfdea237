"""Putting jobs into a journal for others to run: without an executor here, and without a thread."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from retryexec.journal._codec import Codec
from retryexec.journal._errors import JournalError
from retryexec.journal._open import Place
from retryexec.journal._rows import JobRow


class Putter:
    """Writes jobs down for whichever process with an executor takes them first.

    Args:
        take_over: called when there is something to take in a directory, where nobody is told.
    """

    def __init__(
        self,
        place: Place,
        codec: Codec,
        new_id: Callable[[float], str],
        take_over: Callable[[], object],
    ) -> None:
        self._place = place
        self._codec = codec
        self._new_id = new_id
        self._take_over = take_over

    def put(self, jobs: Iterable[Any], connection: Any) -> list[str]:
        """Write *jobs* down, all or none, and return their ids."""
        now = self._place.wall()
        rows: list[JobRow] = []
        for seq, job in enumerate(jobs, 1):
            kind, data = self._codec.encode(job)
            made = JobRow(seq, self._new_id(now), kind.name, kind.version, data.decode())
            made.accepted_at = now
            rows.append(made)
        if rows:
            if self._place.leased is not None:
                self._place.leased.put(rows, connection)
            else:
                self._put_file(rows, connection)
        return [row.id for row in rows]

    def _put_file(self, rows: list[JobRow], connection: Any) -> None:
        """Write *rows* into a file of their own, whose owner is gone at once."""
        if connection is not None:
            msg = (
                f"the journal in {self._place.name} is a directory, and takes part in no "
                "transaction of a database: leave out connection="
            )
            raise JournalError(msg)
        lane = self._place.store.new_lane()
        try:
            lane.insert_rows(rows)
            lane.parked = len(rows)  # so that the file is kept when it is left
        except Exception as error:
            with suppress(Exception):
                lane.leave()
            msg = f"the jobs could not be written down: {error}"
            raise JournalError(msg) from error
        lane.leave()
        self._take_over()
