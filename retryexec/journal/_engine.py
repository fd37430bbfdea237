"""An open journal: its writer, and the thread that takes over, looks after lanes and calls back."""

import logging
import random
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic

from retryexec.journal._entry import Entry, Host
from retryexec.journal._errors import JournalError
from retryexec.journal._lanes import Lanes
from retryexec.journal._store import Store, Taken
from retryexec.journal._writer import Command, Writer

logger = logging.getLogger("retryexec.journal")

# With so many jobs in hand a process takes over one more lane at each look, and not all there
# are: of several that start at the same time the first one should not have it all.
ENOUGH = 10_000

OPENING_LIMIT = 5.0
"""Seconds after which opening a journal begins with no further file; the rest is for later."""


class Engine:
    """One opening of a journal, from `start` to `stop`.

    Args:
        follow: called with an id that is to be less than those of jobs yet to be accepted.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        name: str,
        *,
        poll: float,
        wall: Callable[[], float],
        follow: Callable[[str], object],
    ) -> None:
        self._store = store
        self._follow = follow
        self._name = name
        self._poll_seconds = poll
        self.host = host
        # What may wait for the writer, and so is not for the writer's thread; None ends it.
        self.tasks: SimpleQueue[Command | None] = SimpleQueue()
        self.lanes = Lanes(store, host, self.tasks.put, wall)
        self.writer = Writer(self.lanes, name)
        self._look_queued = False
        store.serve(self._look_soon, self._after_loss)
        # Held while a lane is taken over, and by whoever forks; taken before the writer's io.
        self.taking_over = threading.RLock()
        self._seen_batches = -1
        self._truncated = -1
        self._unreachable = False  # whether it has been told that the store cannot be looked into
        self.runner = threading.Thread(target=self._run, name="retryexec-journal-tasks")
        self.runner.daemon = True
        self.stopping = False

    def start(self, *, take_over: bool) -> None:
        """Begin to write, and take over what dead processes have left."""
        # Before anything is run: what becomes of a job must be on disk from the first one on.
        self.writer.thread.start()
        self.runner.start()
        if take_over:
            self.take_over(within=OPENING_LIMIT)

    # ---- taking over

    def take_over(self, *, within: float | None = None) -> int:
        """Take over the jobs of dead processes, hand them to the host, and return how many.

        Args:
            within: seconds after which nothing further is begun.
        """
        count, seen, begun = 0, set[str](), monotonic()
        while not self.stopping:
            with self.taking_over:
                taken = self._take(seen)
                if taken is not None:
                    # Before any of its entries may end: then the writer looks for it here.
                    self.lanes.take(taken.lane)
            if taken is None:
                break
            count += self._hand_over(taken)
            if sum(len(lane.live) for lane in [*self.lanes.taken]) >= ENOUGH:
                break  # for now: there may be others, with less to do
            if within is not None and monotonic() - begun > within:
                logger.info(
                    "%d jobs of dead processes have been taken over in %.1f s; what else there is "
                    "in %s is taken over while they run",
                    count,
                    monotonic() - begun,
                    self._name,
                )
                self.tasks.put(self.take_over)
                break
        return count

    def _look_soon(self) -> None:
        """Look for what there is to take, on the thread for that; by any thread."""
        if not self._look_queued:  # one look is enough for all that is there by then
            self._look_queued = True
            self.tasks.put(self._look)

    def _look(self) -> None:
        self._look_queued = False
        self.take_over()

    def _after_loss(self) -> None:
        """Let go of a lane that is lost, and then look what there is for this process."""
        self.writer.command(self.lanes.verify)
        self.writer.command(self._look_soon)

    def _take(self, seen: set[str]) -> Taken | None:
        try:
            taken = self._store.take(seen, self.lanes.left)
        except OSError as error:
            if not self._unreachable:
                logger.error("the journal in %s cannot be looked into: %s", self._name, error)  # noqa: TRY400  no traceback: it says it all
            self._unreachable = True
            return None
        self._unreachable = False
        return taken

    def _hand_over(self, taken: Taken) -> int:
        for entry in taken.dead:
            self.writer.enqueue(entry)
        lane = taken.lane
        count = len({*taken.free, *lane.suspects})
        # Only once those with keys have their places in the lines of these may one have its turn.
        suspects, lane.suspects = lane.suspects, []
        keyed = [entry.id for entry in taken.free if entry.key is not None]
        if keyed:
            self._follow(max(keyed))  # however this process's clock goes
        if taken.free:
            self._recover(taken.free)
        self.writer.command(lambda: self.lanes.hand_out(lane, suspects))
        return count

    def _recover(self, entries: list[Entry]) -> None:
        try:
            self.host.recover(entries)
        except Exception:
            logger.exception("%d jobs of a dead process wait for the next start", len(entries))

    # ---- the thread

    def _run(self) -> None:
        due = monotonic() + self._pause()
        while True:
            try:
                task = self.tasks.get(timeout=max(0.0, due - monotonic()))
                if task is None:
                    return
            except Empty:
                task = self.poll
                due = monotonic() + self._pause()
            try:
                task()
            except Exception:
                logger.exception("a task of the journal failed")
            del task

    def _pause(self) -> float:
        # Later rather than sooner, and not all processes at once.
        return self._poll_seconds * random.uniform(1.0, 1.3)  # noqa: S311  to spread processes

    def poll(self) -> None:
        """Look after everything; the disk is written to only if there is something to write."""
        self.take_over()
        writer, lanes = self.writer, self.lanes
        if not all(lane.is_in_place() for lane in lanes.all()) or any(
            not entry.marked and entry.lane is not None for entry in self.host.running()
        ):
            writer.command(lanes.verify)
        batches = lanes.batches
        if batches == self._seen_batches != self._truncated:
            self._truncated = batches
            if any(lane.log_bytes() for lane in lanes.all()):
                writer.command(lanes.truncate_logs)
        self._seen_batches = batches

    # ---- ending

    def flush(self, timeout: float | None) -> bool:
        """Wait until all that was shown before is on disk."""
        done = threading.Event()
        self.writer.command(lambda: self.writer.barrier(done))
        if self.writer.stopped:
            self.writer.refuse_rest(closed())
        return done.wait(timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """Write what there is, and leave the lanes to the next process.

        Args:
            timeout: seconds after which it is left to itself, and what is unwritten runs again.

        Returns:
            whether it has come to its end.
        """
        due = None if timeout is None else monotonic() + timeout
        self.stopping = True
        # A takeover under way is finished first, if it is not the disk that it waits for.
        if self.taking_over.acquire(timeout=-1 if due is None else _left(due) or 0.0):
            self.taking_over.release()
        self.tasks.put(None)
        if threading.current_thread() is not self.runner:
            self.runner.join(_left(due))
        self.writer.command(self.writer.stop)
        self.writer.thread.join(_left(due))
        if self.writer.thread.is_alive():
            logger.error(
                "the journal in %s could not be closed within %.1f s: what it has not written "
                "runs again",
                self._name,
                timeout,
            )
            return False
        # Between the writer's last look and its end something may have come.
        self.writer.refuse_rest(closed())
        return True

    def forget_after_fork(self) -> None:
        """In a forked child: leave everything to the parent."""
        self.writer.forget_after_fork()


def _left(due: float | None) -> float | None:
    return None if due is None else max(0.0, due - monotonic())


def closed() -> JournalError:
    """Return what a closed journal refuses jobs with."""
    return JournalError("the journal is closed, or has not been opened: it accepts no jobs")
