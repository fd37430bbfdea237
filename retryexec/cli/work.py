"""A record on its way: when it may be submitted, and its attempts."""

import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Generator, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from retryexec import PermanentError, RetryFuture
from retryexec.cli.checkpoint import Checkpoint
from retryexec.cli.records import Record


class Admission:
    """Lets records through to the executor as they can be started, and not much faster.

    A retry that falls due queues behind what has been submitted, so few records are submitted
    ahead of the workers, however many may be in memory.

    Args:
        ahead: how many records may be submitted whose first attempt has not begun; by default
            as many as keep all *workers* busy.
        workers: how many attempts run at a time.
    """

    def __init__(self, workers: int, ahead: int | None = None) -> None:
        self._ahead = ahead or 2 * workers  # so that none of them has to wait for the reader
        # Guards the three below. Notified when few records are ahead, when nothing runs any
        # more, and by stop().
        self._changed = threading.Condition()
        self._fresh = 0  # submitted, and their first attempt has not begun
        self._running = 0
        self._stopped = False

    def wait_for_turn(self, *, alone: bool) -> None:
        """Wait until a record may be submitted, and count it; *alone* while no attempt runs."""
        with self._changed:
            while not self._stopped:
                busy = self._fresh or self._running
                if self._fresh >= self._ahead or (alone and busy):
                    self._changed.wait()
                else:
                    break
            self._fresh += 1

    def wait_until_idle(self) -> None:
        """Wait until all that was submitted has had its first attempt, and none runs."""
        with self._changed:
            while (self._fresh or self._running) and not self._stopped:
                self._changed.wait()

    def begin(self, *, first: bool) -> None:
        """Count an attempt that begins."""
        with self._changed:
            self._running += 1
            if first:
                self._fresh -= 1
                if self._fresh == self._ahead // 2:
                    self._changed.notify_all()

    def end(self) -> None:
        """Count an attempt that has ended."""
        with self._changed:
            self._running -= 1
            if not (self._running or self._fresh):
                self._changed.notify_all()

    def drop(self) -> None:
        """Count a record that has ended before its first attempt."""
        with self._changed:
            self._fresh -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class NotesAttempts(Protocol):
    """What wants to know of each attempt."""

    def noted(self, work: "Work") -> AbstractContextManager[None]:
        """Return what is entered for the time of an attempt."""
        ...


class Work:
    """A record on its way: what the executor runs."""

    __slots__ = (
        "_admission",
        "_began",
        "_checkpoint",
        "_notes",
        "attempts",
        "future",
        "key",
        "record",
    )

    def __init__(
        self,
        record: Record,
        admission: Admission,
        checkpoint: Checkpoint | None,
        key: Hashable = None,
        notes: NotesAttempts | None = None,
    ) -> None:
        self._notes = notes
        self.record = record
        self.key = key
        self.future: RetryFuture[None] | None = None  # once it has been submitted
        self.attempts = 0
        self._admission = admission
        self._checkpoint = checkpoint
        self._began = 0.0

    def exec(self) -> None:
        """Make one attempt."""
        self.attempts += 1
        self._admission.begin(first=self.attempts == 1)
        if self.attempts == 1:
            self._began = time.monotonic()
        try:
            if self._checkpoint is not None:
                # Before it runs: a record that kills the process must leave a trace.
                self._checkpoint.mark_running(self.record.line, self.attempts)
            with self._notes.noted(self) if self._notes is not None else nullcontext():
                result = self.record.job.exec()
                if isinstance(result, (Coroutine, Generator, AsyncGenerator)):
                    raise PermanentError(_not_run(self.record.job, result))
        finally:
            self._admission.end()

    @property
    def seconds(self) -> float:
        """Seconds since the first attempt began; 0 before it."""
        return time.monotonic() - self._began if self.attempts else 0.0


def _not_run(job: object, result: Any) -> TypeError:
    """Return the error for an exec() that has only made something for others to run."""
    if isinstance(result, Coroutine):
        result.close()  # else it complains that it was never awaited
    return TypeError(
        f"{type(job).__name__}.exec() returned a {type(result).__name__}, so nothing was done: "
        "make it a plain def, or call asyncio.run() in it"
    )
