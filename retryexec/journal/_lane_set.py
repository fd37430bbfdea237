"""The lanes of a process, and the turns of suspects in those that were taken over."""

import logging
from collections.abc import Callable

from retryexec.journal._entry import Entry, EntryState, Host
from retryexec.journal._store import Lane

logger = logging.getLogger("retryexec.journal")


class LaneSet:
    """The lanes of this process. For the writer's thread, but for what says otherwise.

    Attributes:
        own: where new entries go; made when there is something to write.
        taken: lanes of dead owners; the takeover adds, the writer removes.
        left: names of lanes that were left with what nobody here can run.
    """

    def __init__(self, host: Host, later: Callable[[Callable[[], object]], object]) -> None:
        self._host = host
        self._later = later  # runs something on a thread that may wait for the writer
        self.own: Lane | None = None
        self.taken: set[Lane] = set()
        self.left: set[str] = set()

    def all(self) -> list[Lane]:
        """Return the lanes of this process; may be called by any thread."""
        own, taken = self.own, [*self.taken]
        return taken if own is None or own in taken else [*taken, own]

    def take(self, lane: Lane) -> None:
        """Look after *lane*, with what has been taken over; by the thread that does that."""
        if lane.shared:
            self.own = lane
        self.taken.add(lane)

    def hand_out(self, lane: Lane, suspects: list[Entry]) -> None:
        """Let the *suspects* of *lane*, which has been taken over, have their turns."""
        lane.suspects[:0] = suspects
        if lane in self.taken:
            self.release_next_suspect(lane)
        elif suspects:  # it has been lost meanwhile, and its entries are in another one
            self._later(lambda: self._host.recover(suspects))

    def release_next_suspect(self, lane: Lane) -> None:
        """Hand out the next suspect of *lane*, and let go of a lane that is done with."""
        if lane not in self.taken:
            return
        while lane.suspects and lane.turn is None:
            entry = lane.suspects.pop()
            if entry.outcome is None and entry.state is EntryState.STORED:
                lane.turn = (entry, entry.attempts)
                if entry.key is not None:
                    entry.key.held = False
                self._later(lambda entry=entry: self._host.recover([entry]))  # type: ignore[misc]
        if not lane.live and not lane.shared:
            self.taken.discard(lane)
            self._leave(lane)
            if lane.parked:
                self.left.add(lane.name)

    def _end_turn(self, lane: Lane, entry: Entry, *, ended: bool = False) -> None:
        """Note that *entry* has failed or *ended*: its turn, if it had one, is over."""
        if (
            lane.turn is not None
            and lane.turn[0] is entry
            and (ended or entry.attempts != lane.turn[1])
        ):
            lane.turn = None

    def truncate_logs(self) -> None:
        """Give back the space of logs."""
        for lane in self.all():
            try:
                lane.truncate_log()
            except Exception as error:
                logger.debug("no checkpoint of %s: %s", lane, error)

    def _leave(self, lane: Lane) -> None:
        try:
            lane.leave()
        except Exception as error:
            logger.error("%s is left as it is: %s", lane, error)  # noqa: TRY400  no traceback: it says it all
            lane.abandon()
