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
_Entry: TypeAlias = tuple[Any, ...]  # when it is due first, the job last

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
        # Jobs that arrive in the order they are due, as all do whose delay is the same, stand in a
        # lane: (due, job). A job due before the last one there goes into the heap: (due, order of
        # arrival, job). So of two that are due at one time, one here and one there, the one in
        # the lane came first; which takes that the last one there stays until its time has come.
        # An entry is alive while its job's _due is a number; that of a cancelled job stays until
        # it surfaces or until the dead are the majority, since searching for it would cost more.
        self._lane: deque[_Entry] = deque()
        self._heap: list[_Entry] = []
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
        """Keep *job* until *due*, once `ready` has said yes; False if close() came in between."""
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
                entries = (*self._lane, *self._heap)
                self.dead += job in self._inbox or any(job is entry[-1] for entry in entries)

    def sweep(self) -> None:
        """Forget the dead if they are the majority; lock held."""
        if self.dead <= _FEW or self.dead * 2 <= len(self._heap) + len(self._lane):
            return
        last, came = list(self._lane)[-1:], list(self._inbox)
        lane = deque(filter(_alive, self._lane))
        heap = list(filter(_alive, self._heap))
        heapify(heap)
        dead = 0
        if last and not _alive(last[0]):
            lane.extend(last)
            dead = 1
        for job in came:
            self._place(job, lane, heap)
        moved = islice(iter(self._inbox.popleft, None), len(came))
        # In the main thread, an interrupt may strike after a call, so this is one step to it.
        self._lane, self._heap, self.dead = lane, heap, dead
        deque(moved, 0)

    def close(self, into: deque[Job | None] | None = None) -> list[Job]:
        """Take no more jobs, end the thread, and return the jobs still waiting, by due time.

        They are put *into* that as well, if it is given.
        """
        with self._lock:
            self._closed = True
            # Not absorbed: that is for threads in which no interrupt strikes.
            inbox = [(job._due, job) for job in list(self._inbox) if job._due is not None]
            entries = sorted([*self._lane, *sorted(self._heap), *inbox], key=_due_of)
            waiting = [*self._taken, *(entry[-1] for entry in entries if _alive(entry))]
            if into is not None:
                into.extend(waiting)
            # Forgotten only now that they are there: an interrupt in between loses nobody.
            for job in waiting:
                job._due = None
            self._inbox.clear()
            self._taken.clear()
            self._lane, self._heap, self.dead = deque(), [], 0
            self._asleep_until = -math.inf
            self._earlier.notify_all()
            return waiting

    def join(self) -> None:
        """Wait until the thread has ended, after close()."""
        if self._thread is not None:
            self._thread.join()

    def __len__(self) -> int:
        """Return how many jobs are waiting."""
        entries = len(self._lane) + len(self._heap) + len(self._inbox)
        return max(0, len(self._taken) + entries - self.dead)

    def next_due(self) -> float:
        """Return when the earliest job is due; infinity if none is waiting."""
        with self._lock:
            if self._taken:
                return -math.inf
            self._absorb()
            lane, heap = self._lane, self._heap
            while heap and not _alive(heap[0]):
                heappop(heap)
                self.dead -= 1
            while lane and not _alive(lane[0]) and (len(lane) > 1 or not heap):
                lane.popleft()
                self.dead -= 1
            first = heap if heap and heap[0][0] < lane[0][0] else lane
            due: float = first[0][0] if first else math.inf
            return due

    def recheck(self) -> None:
        """Make the thread look at the clock again."""
        with self._lock:
            self._earlier.notify()

    def waiting(self) -> list[Job]:
        """Return the jobs that are waiting."""
        with self._lock:
            entries = [*self._lane, *self._heap]
            jobs = [*(entry[-1] for entry in entries), *self._inbox]
            return [job for job in jobs if job._due is not None]

    def _absorb(self) -> None:
        """Give those in the inbox their places; lock held."""
        inbox = self._inbox
        while inbox:
            if not self._place(inbox[0], self._lane, self._heap):
                self.dead -= 1
            # Only now: if there was no memory for its place, the job is still here.
            inbox.popleft()

    def _place(self, job: Job, lane: deque[_Entry], heap: list[_Entry]) -> bool:
        """Give *job* its place in *lane* or *heap*; False if it has been cancelled."""
        due = job._due
        if due is None:
            return False
        if not lane or lane[-1][0] <= due:
            lane.append((due, job))
        else:
            heappush(heap, (due, next(self._arrivals), job))
        return True

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
        """Take what is due at *now*, in order, and return all that has been taken; lock held."""
        lane, heap = self._lane, self._heap
        while lane:  # or else the heap is empty, too
            from_heap = heap and heap[0][0] < lane[0][0]
            entry = heap[0] if from_heap else lane[0]
            if entry[0] > now:
                break
            job = entry[-1]
            if job._due is None:
                self.dead -= 1
            else:
                self._taken.append(job)  # first, for want of memory leaves it in the heap
                job._due = None
            if from_heap:
                heappop(heap)
            else:
                lane.popleft()
        return self._taken


_due_of = itemgetter(0)


def _alive(entry: _Entry) -> bool:
    return entry[-1]._due is not None
