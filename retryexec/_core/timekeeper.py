"""Timekeeper: a thread that sleeps until entries are due, and then releases them.

It serves jobs in backoff and the deadlines of cancel tokens, and knows of neither: an entry is
anything with a `due`.
"""

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, RLock, Thread, current_thread
from typing import TYPE_CHECKING, Generic

from retryexec._core.due_queue import DueQueue, E
from retryexec._exceptions import report

if TYPE_CHECKING:
    from retryexec._clock import Clock

# Seconds between two looks at a clock that cannot be waited for.
_PAUSE = 0.1


class Timekeeper(Generic[E]):
    """Hands entries to *release* when they are due, in the order of due times.

    Args:
        clock: what "due" is measured by.
        lock: the owner's, and reentrant; guards all here but the way in.
        release: called without the lock, in the keeper's thread, with the entries that have come
            due; their `due` is None by then. It takes each one off the deque when it has dealt
            with it. If it raises, it is called again with the rest, a moment later.
        name: the thread's name.
        daemon: whether the interpreter may exit without waiting for the thread.
    """

    def __init__(
        self,
        clock: "Clock",
        lock: RLock,
        release: Callable[[deque[E]], object],
        *,
        name: str,
        daemon: bool,
    ) -> None:
        self._clock = clock
        self._release = release
        self._name = name
        self._daemon = daemon
        self._lock = lock
        # Notified when the thread sleeps longer than a new entry does, by recheck() and close().
        self._earlier = Condition(lock)
        self._queue: DueQueue[E] = DueQueue()
        self.add: Callable[[E], object] = self._queue.add
        """Do the first part of `schedule`, in one call into C, which no interrupt divides."""
        self.discard: Callable[[E], bool] = self._queue.discard
        """Forget an entry; False if it is not waiting here. The lock must be held."""
        # Due, and not released yet. Only the thread writes here.
        self._released: deque[E] = deque()
        # Until when the thread sleeps; -inf while it is awake, and will look into the queue.
        self._asleep_until = -math.inf
        self._closed = False
        self._thread: Thread | None = None  # started with the first delay

    @property
    def started(self) -> bool:
        """Whether the thread has been started."""
        return self._thread is not None

    def ready(self) -> bool:
        """Return whether entries can be scheduled, having started the thread if need be.

        False after close(), or if no thread can be started; then use `wait_here`.
        """
        if self._thread is None and not self._closed:
            self._start()
        return self._thread is not None and not self._closed

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                thread = Thread(target=self._run, name=self._name, daemon=self._daemon)
                with suppress(Exception):  # no thread, or no memory for one
                    thread.start()
                    self._thread = thread

    def wait_here(self, due: float) -> None:
        """Wait in this thread until *due*, or until close(), if no other can be started for it.

        Some Pythons start no thread once the interpreter has begun to end; a worker that waits is
        better than a job that is lost.
        """
        with self._lock:
            while not self._closed and self._clock.now() < due:
                self._clock.wait(self._earlier, due)

    def schedule(self, entry: E, due: float) -> bool:
        """Keep *entry*, whose `due` is set to *due*, until then. Call `ready` first.

        Returns:
            False if close() came in between; then the entry is not kept.
        """
        try:
            self.add(entry)
        except BaseException:
            entry.due = None  # there is no memory for it, so it does not wait here
            raise
        if due < self._asleep_until:  # as in `added`, which would be one more call
            self.recheck()
        return not self._closed or self._refuse(entry)

    def added(self, entry: E, due: float) -> bool:
        """Do the second part of `schedule`, after `add`."""
        # The entry is added before this look at the thread's sleep, and the thread writes until
        # when it sleeps before its last look into the queue: so one of the two sees the other.
        # (Without the GIL by the lock that the inbox has of its own.) Likewise with close().
        if due < self._asleep_until:
            self.recheck()
        return not self._closed or self._refuse(entry)

    def _refuse(self, entry: E) -> bool:
        with self._lock:
            self._queue.clear()
            entry.due = None
        return False

    def clear(self) -> None:
        """Forget all entries; the `due` of each becomes None."""
        with self._lock:
            self._queue.clear()

    def close(self) -> None:
        """Take no more entries, forget all, and let the thread end. A second call does no harm."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._earlier.notify_all()

    def join(self) -> None:
        """Wait until the thread has ended, after close()."""
        if self._thread is not None:
            self._thread.join()

    def __len__(self) -> int:
        """Return how many entries are waiting, or due and not released yet."""
        return len(self._released) + len(self._queue)

    def next_due(self) -> float:
        """Return when the earliest entry is due; infinity if none is waiting.

        Minus infinity while some are due and not released yet.
        """
        with self._lock:
            return -math.inf if self._released else self._queue.next_due()

    def waiting(self) -> list[E]:
        """Return the entries that are waiting, in no particular order."""
        with self._lock:
            return list(self._queue)

    def recheck(self) -> None:
        """Make the thread look at the clock again."""
        with self._lock:
            self._earlier.notify_all()  # one notified alone might be a worker in `wait_here`

    # ---- the thread

    def _run(self) -> None:
        """Sleep until the earliest entry is due and release it, until close()."""
        with self._lock:  # held by whoever starts this thread, until it is in _thread
            if self._thread is not current_thread():
                return  # an interrupt struck in start(), and another thread will be started
        failing = reported = False
        while not self._closed:
            try:
                if failing:
                    self._pause()
                if not self._released:
                    self._collect_or_sleep()
                if self._released:
                    self._release(self._released)
                failing = False
            except Exception:
                # A user's clock raised, or there is no memory. Go on: entries must not be lost.
                if not reported and self._released:
                    report("cannot release what is due; trying every %g s", _PAUSE)
                elif not reported:
                    report("the clock failed; looking at it every %g s", _PAUSE)
                failing = reported = True
        self._released.clear()

    def _pause(self) -> None:
        with self._lock:
            if not self._closed:
                self._earlier.wait(_PAUSE)

    def _collect_or_sleep(self) -> None:
        """Take what is due out of the queue, or else sleep until something is."""
        with self._lock:
            due = self._queue.next_due()
            now = self._clock.now()
            if due <= now:
                self._queue.take_due(now, self._released)
                return
            self._asleep_until = due
            try:
                # This look comes after that write; see schedule().
                if self._queue.next_due() == due and not self._closed:
                    self._clock.wait(self._earlier, due)
            finally:
                self._asleep_until = -math.inf
