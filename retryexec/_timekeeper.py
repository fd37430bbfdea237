"""One thread, one heap: what is due when.

A job that waits for its next attempt is an entry here and nothing else. The timekeeper never
runs user code: when a job is due it hands it on, and that is all.
"""

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heapify, heappop, heappush
from itertools import count, islice
from operator import itemgetter
from threading import Condition, Thread
from typing import Any, TypeAlias

from retryexec._clock import Clock
from retryexec._exceptions import report
from retryexec._future import RetryFuture

Job: TypeAlias = RetryFuture[Any]

# Below this many, dead entries are not worth a sweep.
_FEW = 64

# Seconds between two looks at a clock that cannot be waited for.
_PAUSE = 0.1


class Timekeeper:
    """Hands each job to *release* when it is due, in the order of due times.

    Args:
        clock: what "due" is measured by.
        lock: the pool's; guards all here but the inbox.
        release: called, under the lock, with the jobs that have come due; takes them from there.
        name: the thread's name.
        daemon: whether the interpreter may exit without waiting for the thread.
    """

    def __init__(
        self,
        clock: Clock,
        lock: Any,
        release: Callable[[deque[Job]], object],
        *,
        name: str,
        daemon: bool,
    ) -> None:
        self._clock = clock
        self._release = release
        self._name = name
        self._daemon = daemon
        self._lock = lock
        # Notified when the thread sleeps longer than a new job does, and by close().
        self._earlier = Condition(lock)
        # Jobs on their way into the heap. Workers only append, without the lock, for which they
        # would all queue up: the thread, or whoever has the lock and wants to know, absorbs them.
        self._inbox: deque[Job] = deque()
        # (due, order of arrival, job). A job's entry is alive while the job's _due is a number;
        # one that was cancelled stays until it surfaces or until the dead are the majority,
        # since searching for it would cost more.
        self._heap: list[tuple[float, int, Job]] = []
        self._arrivals = count()
        # Due, and not released yet: empty without the lock, unless there was no memory for that.
        self._taken: deque[Job] = deque()
        self.dead = 0  # how many of the entries and of those in the inbox
        # Until when the thread sleeps; it is awake, and will look into the inbox, at -inf.
        self._asleep_until = -math.inf
        self._closed = False
        self._thread: Thread | None = None  # started with the first delay

    def ready(self) -> bool:
        """Return whether jobs can be scheduled, having started the thread if need be."""
        if self._thread is None:
            self._start()
        return self._thread is not None and not self._closed

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = Thread(target=self._keep, name=self._name, daemon=self._daemon)
                with suppress(Exception):  # no thread, or no memory for one
                    thread.start()
                    self._thread = thread

    def wait_here(self, due: float) -> None:
        """Wait in this thread until *due*, or until close(), when no thread can be had for it.

        Some Pythons start no thread once the interpreter has begun to end; a worker that waits is
        better than a job that is lost.
        """
        with self._lock:
            while not self._closed and self._clock.now() < due:
                self._clock.wait(self._earlier, due)

    def schedule(self, job: Job, due: float) -> bool:
        """Keep *job* until *due*; False if that cannot be, see `ready`."""
        if not self.ready():
            return False
        job._due = due
        self._inbox.append(job)
        # In this order, and the thread's in the other: it says until when it sleeps and then
        # looks into the inbox. Both look after they have written, so one sees the other. (The
        # deque's own operations order the two where there is no GIL.) Likewise with close().
        if due < self._asleep_until:
            with self._lock:
                self._earlier.notify()
        return not self._closed or self._left_by_close(job)

    def discard(self, job: Job) -> bool:
        """Forget *job*, which was cancelled; False if it is not waiting here."""
        with self._lock:
            if job._due is None:
                return False
            job._due = None
            self.dead += 1
            self.sweep()
            return True

    def take_back(self, job: Job) -> None:
        """Forget *job*, whether `schedule` got as far as to keep it or not."""
        with self._lock:
            if job._due is not None:
                job._due = None
                self.dead += job in self._inbox or any(job is entry[2] for entry in self._heap)

    def sweep(self) -> None:
        """Take the dead out of the heap if they are the majority; lock held."""
        if self.dead > _FEW and self.dead * 2 > len(self._heap):
            came = list(self._inbox)
            alive = [entry for entry in self._heap if entry[2]._due is not None]
            alive += [(job._due, next(self._arrivals), job) for job in came if job._due is not None]
            heapify(alive)
            moved = islice(iter(self._inbox.popleft, None), len(came))
            # An interrupt may strike after a call, so this is one step to it.
            self._heap, self.dead = alive, 0
            deque(moved, 0)

    def close(self, into: deque[Job | None] | None = None) -> list[Job]:
        """Take no more jobs, end the thread, and return the jobs still waiting, by due time.

        They are put *into* that as well, if it is given.
        """
        with self._lock:
            self._closed = True
            # Not absorbed: that is for threads in which no interrupt strikes.
            inbox = ((job._due, next(self._arrivals), job) for job in list(self._inbox))
            entries = sorted(entry for entry in (*self._heap, *inbox) if entry[2]._due is not None)
            waiting = [*self._taken, *(job for _, _, job in entries)]
            if into is not None:
                into.extend(waiting)
            # Forgotten only now that they are there: an interrupt in between loses nobody.
            for job in waiting:
                job._due = None
            self._inbox.clear()
            self._taken.clear()
            self._heap, self.dead = [], 0
            self._asleep_until = -math.inf
            self._earlier.notify_all()
            return waiting

    def join(self) -> None:
        """Wait until the thread has ended, after close()."""
        if self._thread is not None:
            self._thread.join()

    def __len__(self) -> int:
        """Return how many jobs are waiting."""
        return max(0, len(self._taken) + len(self._heap) + len(self._inbox) - self.dead)

    def next_due(self) -> float:
        """Return when the earliest job is due; infinity if none is waiting."""
        with self._lock:
            if self._taken:
                return -math.inf
            self._absorb()
            while self._heap and self._heap[0][2]._due is None:
                heappop(self._heap)
                self.dead -= 1
            return self._heap[0][0] if self._heap else math.inf

    def poke(self) -> None:
        """Make the thread look at the clock again."""
        with self._lock:
            self._earlier.notify()

    def longest_waiting(self) -> Job | None:
        """Return the job that has waited longest, found by looking at all of them."""
        with self._lock:
            entries, inbox = self._heap.copy(), list(self._inbox)
        alive = (entry for entry in entries if entry[2]._due is not None)
        first = min(alive, key=itemgetter(1), default=None)
        if first is not None:
            return first[2]
        return next((job for job in inbox if job._due is not None), None)

    def _absorb(self) -> None:
        """Take the inbox into the heap; lock held."""
        while self._inbox:
            job = self._inbox[0]
            if job._due is None:
                self.dead -= 1
            else:
                heappush(self._heap, (job._due, next(self._arrivals), job))
            # Only now: without memory for the heap to grow, the job is still here.
            self._inbox.popleft()

    def _left_by_close(self, job: Job) -> bool:
        """Return whether close() has taken *job*, and not come too early for it."""
        with self._lock:
            if job._due is None:
                return True
            job._due = None
            self.dead += 1  # wherever its entry has got to
            return False

    def _keep(self) -> None:
        """Run the thread: sleep until the earliest entry is due, without ever polling."""
        broken = told = False
        while not self._closed:
            try:
                with self._lock:
                    if broken:
                        self._earlier.wait(_PAUSE)
                    self._tend()
                broken = False
            except Exception:
                # A clock of the user's. The jobs must not wait for ever for it.
                if not told:
                    report("the clock failed; looking at it every %g s", _PAUSE)
                broken = told = True

    def _tend(self) -> None:
        """Hand on what is due, or sleep until something is; lock held."""
        due = self.next_due()
        now = self._clock.now()
        if due <= now or self._taken:
            # Still under the lock, so that no job is ever between here and the queue: whoever
            # looks into both, first here and then there, has seen them all.
            self._release(self._take_due(now))
            return
        self._asleep_until = due
        try:
            if not self._closed and self.next_due() == due:  # the look after the word
                self._clock.wait(self._earlier, due)
        finally:
            self._asleep_until = -math.inf

    def _take_due(self, now: float) -> deque[Job]:
        while self._heap and self._heap[0][0] <= now:
            job = self._heap[0][2]
            if job._due is None:
                self.dead -= 1
            else:
                self._taken.append(job)  # first, for want of memory leaves it in the heap
                job._due = None
            heappop(self._heap)
        return self._taken
