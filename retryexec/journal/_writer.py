"""The one thread that writes: it makes a transaction of whatever has come in since the last.

While one batch is being synced to the disk the next one gathers, so that many submitters share
the cost of one sync. No timer is involved: a single submitter waits for its own sync alone.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import repeat
from queue import Empty, SimpleQueue
from typing import Any

from retryexec.journal._entry import Entry, EntryState
from retryexec.journal._lanes import Lanes

logger = logging.getLogger("retryexec.journal")

MAX_BATCH = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_LINGER = 0.005  # seconds that ends wait for company

Command = Callable[[], object]


class Writer:
    """Shows to the lanes, in batches, the entries that it is given.

    All but `enqueue`, `command` and `refuse_rest` is for its own thread.
    """

    def __init__(self, lanes: Lanes, name: str) -> None:
        self.lanes = lanes
        self._name = name
        # Entries to look at, and commands to run, in the order they came.
        self._queue: SimpleQueue[Entry | Command] = SimpleQueue()
        self.enqueue: Callable[[Entry], None] = self._queue.put
        self.command: Callable[[Command], None] = self._queue.put
        # Held while the lanes are in use, and by whoever forks.
        self.io = threading.RLock()
        self._barriers: list[threading.Event] = []
        self._pause = _FIRST_PAUSE
        self.healthy = True
        self.stopped = False
        self.thread = threading.Thread(target=self._run, name="retryexec-journal", daemon=True)

    # ---- the loop

    def _run(self) -> None:
        while not self.stopped:
            items = self._gather()
            with self.io:
                self._handle(items)
            del items  # the thread sleeps now, and must hold no job

    def _gather(self) -> list[Any]:
        queue = self._queue
        unwell = self._has_backlog()
        try:
            items: list[Any] = [queue.get(timeout=self._pause if unwell else None)]
        except Empty:
            return []
        self._gather_more(items)
        if not unwell and all(map(_is_end, items)):
            # Nobody waits for an end to be on disk, and the next job is most likely about to
            # come: one sync will do for both.
            with suppress(Empty):
                items.append(queue.get(timeout=_LINGER))
                self._gather_more(items)
        return items

    def _gather_more(self, items: list[Any]) -> None:
        size = min(self._queue.qsize(), MAX_BATCH - len(items))
        items.extend(map(self._queue.get, repeat(True, size)))  # without a step of Python for each

    def _has_backlog(self) -> bool:
        return bool(self.lanes.backlog or self.lanes.detached)

    def is_idle(self) -> bool:
        """Return whether there is nothing to look at."""
        return self._queue.empty()

    def _handle(self, items: Sequence[Any]) -> None:
        lanes = self.lanes
        entries = [item for item in items if item.__class__ is Entry]
        batches, lanes.failing = lanes.batches, False
        try:
            lanes.write(entries)
            if len(items) > len(entries):
                for item in items:
                    if item.__class__ is not Entry:
                        item()
        except Exception as error:
            logger.exception("the journal's writer met an error it does not know")
            lanes.fail_batch(entries, error)
        self._note_health(wrote=lanes.batches > batches)
        if self._barriers and not self._has_backlog():
            self._release_barriers()

    def _note_health(self, *, wrote: bool) -> None:
        if self.lanes.failing:
            self._pause = _FIRST_PAUSE if self.healthy else min(_LONGEST_PAUSE, self._pause * 2)
            if self.healthy:
                logger.error(
                    "the journal in %s cannot be written (%s): it refuses jobs, and keeps trying "
                    "to write down what has ended",
                    self._name,
                    self.lanes.error,
                )
            self.healthy = False
        elif wrote and not self.healthy:
            self.healthy, self.lanes.error = True, None
            self._pause = _FIRST_PAUSE
            logger.warning("the journal in %s can be written again", self._name)

    # ---- commands

    def barrier(self, event: threading.Event) -> None:
        """Set *event* once all that was shown before is on disk."""
        self._barriers.append(event)

    def _release_barriers(self) -> None:
        barriers, self._barriers = self._barriers, []
        for barrier in barriers:
            barrier.set()

    def stop(self) -> None:
        """End: what has been shown is written, the lanes are left, and empty ones removed."""
        self.stopped = True
        self._handle(self.rest())
        unwritten = len(self.lanes.backlog) + len(self.lanes.detached)
        if unwritten:
            logger.error(
                "the journal in %s is closed before %d ends of jobs could be written (%s): they "
                "run again",
                self._name,
                unwritten,
                self.lanes.error,
            )
        self.lanes.leave_all()
        self._release_barriers()

    def rest(self) -> list[Entry | Command]:
        """Take what is in the queue."""
        return [self._queue.get() for _ in range(self._queue.qsize())]

    def refuse_rest(self, error: Exception) -> None:
        """After the end: turn away what came too late; by any thread."""
        while True:
            try:
                item: Any = self._queue.get_nowait()
            except Empty:
                break
            if item.__class__ is not Entry:
                item()
            elif item.state is EntryState.NEW:
                self.lanes.answers.refuse([item], error)
            elif item.waiter is not None:
                item.waiter.release()
        self._release_barriers()  # nobody else will

    # ---- fork

    def forget_after_fork(self) -> None:
        """In a forked child: leave all lanes to the parent."""
        for lane in self.lanes.all():
            lane.abandon()


def _is_end(item: Any) -> bool:
    return item.__class__ is Entry and item.outcome is not None and item.state is EntryState.STORED
