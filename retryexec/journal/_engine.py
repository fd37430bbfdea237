"""An open journal: the writer, the adopter, and the thread that runs their errands."""

import logging
import random
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import NamedTuple

from retryexec.journal._adoption import Adopted, Adopter
from retryexec.journal._codec import Codec
from retryexec.journal._dead import DeadFile
from retryexec.journal._directory import Directory
from retryexec.journal._entry import Entry, Host
from retryexec.journal._errors import JournalError
from retryexec.journal._file import JournalFile
from retryexec.journal._writer import Command, Writer

logger = logging.getLogger("retryexec.journal")

# With so many adopted jobs in hand a process takes one more file at each look, and not all there
# are: of several that start at the same time the first one should not have it all.
ENOUGH = 10_000


class Settings(NamedTuple):
    """What does not change while a journal lives."""

    directory: Directory
    codec: Codec
    dead: DeadFile
    power: bool
    max_crashes: int
    poll: float
    wall: Callable[[], float]


class Engine:
    """One opening of a journal, from `start` to `stop`."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self._settings = settings
        self.host = host
        # What may wait for the writer, and so is not for the writer's thread; None ends it.
        self._errands: SimpleQueue[Command | None] = SimpleQueue()
        self.writer = Writer(
            settings.directory,
            settings.dead,
            host,
            self._errands.put,
            power=settings.power,
            wall=settings.wall,
        )
        self._adopter = Adopter(
            settings.directory,
            settings.codec,
            settings.dead,
            power=settings.power,
            max_crashes=settings.max_crashes,
            wall=settings.wall,
        )
        # Held while files are adopted, and by whoever forks; taken before the writer's io.
        self.adopting = threading.RLock()
        self._seen_batches = -1
        self._tidied = -1
        self._runner = threading.Thread(target=self._run, name="retryexec-journal-errands")
        self._runner.daemon = True
        self.stopping = False

    def start(self, *, adopt: bool) -> None:
        """Adopt what dead processes have left, and begin to write."""
        if adopt:
            self.adopt()
        self.writer.thread.start()
        self._runner.start()

    def adopt(self) -> int:
        """Adopt the files of dead owners, hand their jobs to the host, and return how many."""
        count = 0
        seen: set[str] = set()
        while not self.stopping:
            with self.adopting:
                self._adopter.left_alone |= self.writer.left
                adopted = self._adopter.next(seen)
                if adopted is not None:
                    # Before any of its entries may end: then the writer looks for it here.
                    self.writer.files.add(adopted.file)
            if adopted is None:
                break
            count += self._hand_over(adopted)
            if sum(len(file.live) for file in self.writer.files) >= ENOUGH:
                break  # for now: there may be others, with less to do
        return count

    def _hand_over(self, adopted: Adopted) -> int:
        for entry in adopted.dead:
            self.writer.show(entry)
        count = len(adopted.free) + len(adopted.file.suspects)
        file = adopted.file
        self.writer.command(lambda: self.writer.look_after(file))
        if adopted.free:
            self._recover(adopted.free)
        return count

    def _recover(self, entries: list[Entry]) -> None:
        try:
            self.host.recover(entries)
        except Exception:
            logger.exception("%d jobs of a dead process wait for the next start", len(entries))

    def _run(self) -> None:
        due = monotonic() + self._pause()
        while True:
            try:
                errand = self._errands.get(timeout=max(0.0, due - monotonic()))
                if errand is None:
                    return
            except Empty:
                errand = self._poll
                due = monotonic() + self._pause()
            try:
                errand()
            except Exception:
                logger.exception("an errand of the journal failed")
            del errand

    def _pause(self) -> float:
        # Later rather than sooner, and not all processes at once.
        return self._settings.poll * random.uniform(1.0, 1.3)  # noqa: S311

    def _poll(self) -> None:
        """Look after everything; the disk is written to only if there is something to write."""
        self.adopt()
        writer = self.writer
        if self._needs_nudge():
            writer.command(writer.nudge)
        batches = writer.batches
        if batches == self._seen_batches != self._tidied:
            self._tidied = batches
            if any(file.wal_bytes() for file in self.files()):
                writer.command(writer.tidy)
        self._seen_batches = batches

    def _needs_nudge(self) -> bool:
        for file in self.files():
            try:
                file.check_place()
            except Exception:
                return True
            if not file.lock.holds():
                return True
        return any(not e._marked and e._file is not None for e in self.host.running())

    def files(self) -> list[JournalFile]:
        """Return the files in this process's hands."""
        own = self.writer.own
        return [*self.writer.files, *([own] if own else [])]

    def flush(self, timeout: float | None) -> bool:
        """Wait until all that was shown before is on disk."""
        done = threading.Event()
        self.writer.command(lambda: self.writer.barrier(done))
        if self.writer.stopped:
            self.writer.refuse_rest(closed())
        return done.wait(timeout)

    def stop(self) -> None:
        """Write what there is, and leave the files to whoever comes."""
        self.stopping = True
        with self.adopting:
            pass  # an adoption under way is finished first
        self._errands.put(None)
        if threading.current_thread() is not self._runner:
            self._runner.join()
        self.writer.command(self.writer.stop)
        self.writer.thread.join()
        # Between the writer's last look and its end something may have come.
        self.writer.refuse_rest(closed())

    def forget_after_fork(self) -> None:
        """In a forked child: leave everything to the parent."""
        self.writer.forget_after_fork()


def closed() -> JournalError:
    """Return what a closed journal refuses jobs with."""
    return JournalError("the journal is closed, or has not been opened: it accepts no jobs")
