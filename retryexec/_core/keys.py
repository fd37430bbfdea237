"""Keys: of the jobs that have the same key, one at a time has its turn.

Most jobs are alone with their key. For the second job of a key a `Line` is made. The first job of
a line is queued, running or waiting as any other job; those behind it are nowhere else. Whoever
ends the first job lets the next one go, and whoever finds a line whose first job has ended does,
too. So a thread that is interrupted in between strands nobody.
"""

from collections import deque
from collections.abc import Hashable
from threading import RLock
from typing import TYPE_CHECKING, Any

from retryexec._core.controlled import ControlledJob
from retryexec._core.key_values import Exactly, HashedKey, is_builtin
from retryexec._core.line import LEFT, KeyedJob, Line

if TYPE_CHECKING:
    from retryexec._core.control import Control

# Below this many, ended jobs in a line are not worth a sweep.
SWEEP_MIN = 64


class Keys:
    """The jobs of a pool by their keys.

    Attributes:
        jobs: of each key that has an unfinished job, that job if it is alone, and else its line.
        compared_by_users: whether a key has been of a type of the user's own.
    """

    def __init__(self, control: "Control") -> None:
        self._control = control
        self._unfinished = control.pool.unfinished
        self.jobs: dict[Hashable, Any] = {}  # a ControlledJob or a Line
        self.compared_by_users = False
        # Held while a line is made where keys are compared by users, which takes more than one
        # call into C; and how many were.
        self._making = RLock()
        self._made = 0

    def __len__(self) -> int:
        return len(self.jobs)

    # ---- in

    def enter(self, job: KeyedJob, due: float | None, *, taken_over: bool = False) -> bool:
        """Put *job*, which is one of the unfinished, into the line of its key.

        An interrupt may come between any two steps. Then *job* may stand behind one that follows
        it; a worker that comes upon that one sees what it follows, and goes on from there.

        Args:
            due: it is not to be tried before that; None for at once.
            taken_over: it was accepted by another process, perhaps before those in the line.

        Returns:
            False if it is not in the line, because a newer one there has replaced it.
        """
        job.not_before = due
        last, outdated = None, False
        try:
            while True:
                line = job.line = self._line_of(job.key)
                replaces = False
                with line.lock:
                    if line.editing:
                        self._append(line, job)
                        return True
                    if line.dropped:
                        self._drop(line)  # if an interrupt has kept another thread from it
                        continue
                    line.editing = True
                    try:
                        last = self._last_of(line)
                        if last is None:
                            line.head = job
                        elif taken_over and self._is_outdated(job, last):
                            outdated = True
                        else:
                            replaces = self._append_or_replace(line, last, job)
                    finally:
                        line.editing = False
                if line.head in self._unfinished:
                    self._let_go(line)
                else:
                    self.leave(job)  # the head has ended in the midst of this
                if last is not None and replaces:
                    self._control.take_place(job, last)
                return not outdated
        except BaseException:
            self._after_interrupt(last)
            raise

    def enter_by_replacing(self, job: KeyedJob) -> bool:
        """Do as `enter` if there is a job that *job* replaces; else do nothing.

        Unlike there, *job* becomes one of the unfinished here, and only if it replaces one.

        Returns:
            whether it has replaced one.
        """
        line = self._find_line(self._hashed(job.key)) if job.latest else None
        if line is None:
            return False
        last = None
        try:
            with line.lock:
                if line.editing:
                    return False
                line.editing = True
                try:
                    last = None if line.dropped else self._last_of(line)
                    if last is None or not (last.latest and last.is_pending()):
                        return False
                    job.line = line
                    self._unfinished.add(job)
                    if not self._append_or_replace(line, last, job):
                        # An attempt of the last one has begun just now.
                        self._unfinished.discard(job)
                        self._control.parked.pop(job, None)
                        assert line.behind is not None
                        line.behind.remove(job)
                        job.line = None
                        return False
                finally:
                    line.editing = False
            self._control.take_place(job, last)
        except BaseException:
            self._after_interrupt(last)
            raise
        return True

    def _after_interrupt(self, last: "KeyedJob | None") -> None:
        """Let a worker finish replacing *last*, if that has begun."""
        if last is not None:
            self._control.pool.interrupted.append(last)

    def _line_of(self, key: Hashable) -> Line:
        """Return the line of *key*, which may be dropped before the caller has its lock."""
        # No lock is held: to compare keys may run code of the user's.
        key = self._hashed(key)
        while True:
            seen = self._made
            line = self._find_line(key)
            if line is not None:
                return line
            if not isinstance(key, HashedKey):
                self.jobs.setdefault(key, Line(key))  # one call into C
                continue
            with self._making:
                if self._made == seen:  # else one may have been made while keys were compared
                    key.is_new = True
                    try:
                        self.jobs.setdefault(key, Line(key))
                    finally:
                        key.is_new = False
                        self._made += 1  # last: whoever has seen it finds the line

    def _find_line(self, key: Hashable) -> Line | None:
        """Return the line of *key*; one is made if it has a job that is alone. None if it has none.

        No lock is held: to compare keys may run code of the user's.
        """
        while True:
            found: KeyedJob | Line | None = self.jobs.get(key)
            if found is None or isinstance(found, Line):
                return found
            # From the moment it can be found, whoever replaces the job has its place in the queue.
            line = Line(found.key)
            line.head = line.let_go = found
            line = found.join(line)
            with line.lock:
                if not line.dropped:
                    self.jobs[self._exactly(line.key)] = line
                    return line
                self._drop(line)  # if an interrupt has kept another thread from it

    def _is_outdated(self, job: KeyedJob, last: KeyedJob) -> bool:
        """Let *job* end as *last* does, if that one is newer and only the latest counts."""
        latest = job.latest and last.latest
        return latest and job.is_accepted_before(last) and job.follow(last)

    def _append(self, line: Line, job: KeyedJob) -> None:
        """Put *job* behind all others in *line*; lock held."""
        if line.behind is None:
            line.behind = deque()
        self._control.parked[job] = None
        line.behind.append(job)

    def _append_or_replace(self, line: Line, last: KeyedJob, job: KeyedJob) -> bool:
        """Put *job* behind *last*, or in its place if that waits and may be replaced; lock held.

        Returns:
            whether it has replaced *last*.
        """
        place = len(line.behind or ()) - 1  # of the last one; -1 if that is the head
        self._append(line, job)
        if not (job.latest and last.latest and last.follow(job)):
            return False
        if place >= 0 or line.let_go is not last:
            job.not_before = last.not_before
        assert line.behind is not None
        if place >= 0:
            del line.behind[place]
        else:
            if line.let_go is last:
                line.let_go = job  # whoever draws the last one goes on with this one
            line.head = job
            line.behind.popleft()
            self._control.parked.pop(job, None)
        return True

    def finish_replacing(self, job: KeyedJob) -> None:
        """Take the replaced *job* out of its line, where an interrupt has left it at the head."""
        line = job.line
        if line is None or line.head is not job:
            return
        with line.lock:
            if line.head is job and not line.editing:
                line.editing = True
                try:
                    goes_on = line.let_go is job
                    self._advance(line)
                    if line.head is not None:
                        line.head.not_before = job.not_before
                        if goes_on:  # where *job* waits or is queued, that is for the newer one
                            line.let_go = line.head
                finally:
                    line.editing = False
        self._let_go(line)

    def _last_of(self, line: Line) -> "KeyedJob | None":
        """Return the last job of *line* that has not ended; lock held."""
        behind = line.behind
        while behind:
            if behind[-1] in self._unfinished:
                return behind[-1]
            behind.pop()
        return line.head if line.head in self._unfinished else None

    def is_its_turn(self, job: KeyedJob) -> bool:
        """Return whether no other job of its key goes before *job*, and nothing holds it back."""
        line = job.line
        if line is None:
            return True
        with line.lock:  # held by a thread that is just replacing another job by this one
            if line.head is job and job.held_back:
                self._control.parked[job] = None
            return line.head is job and not job.held_back

    # ---- out

    def leave(self, job: KeyedJob) -> None:
        """Let the next job of its key go, if it was the turn of *job*, which has ended."""
        line = job.line
        if line is None and not self.compared_by_users:
            line = job.leave_alone(self.jobs)
        elif line is None:
            self._find_line(self._hashed(job.key))  # to compare keys under no lock
            line = job.line
        if line is None or line is LEFT:
            return
        with line.lock:
            if line.editing:
                return  # whoever does that looks at the head once more
            if line.head is job and not line.behind and job not in self._unfinished:
                # The common case, in which nothing can come in between.
                line.head, line.dropped = None, True
                self._drop(line)
                return
            line.editing = True
            try:
                if line.head is not job and line.behind:
                    self._sweep(line, line.behind)
                while line.head not in self._unfinished and not line.dropped:
                    self._advance(line)
            finally:
                line.editing = False
        self._let_go(line)

    def _advance(self, line: Line) -> None:
        """Make the first job behind that has not ended the head; lock held."""
        behind = line.behind
        while behind:
            first = behind[0]
            if first in self._unfinished:
                line.head = first
                behind.popleft()
                return
            behind.popleft()
        line.head, line.dropped = None, True
        self._drop(line)

    def _drop(self, line: Line) -> None:
        """Forget *line*, whose jobs have all ended; lock held, so no code of the user's may run."""
        key = self._exactly(line.key)
        found = self.jobs.get(key)
        # An interrupt may have left the job there that was alone before.
        if found is line or (isinstance(found, ControlledJob) and found.line is line):
            del self.jobs[key]

    def _exactly(self, key: Hashable) -> Hashable:
        """Return what finds *key*, as it stands in the dict, without code of the user's."""
        return Exactly(key) if self.compared_by_users else key

    def _sweep(self, line: Line, behind: "deque[KeyedJob]") -> None:
        """Drop the ended jobs behind in *line* if they are the majority; one has just ended."""
        line.ended += 1
        if line.ended > SWEEP_MIN and line.ended * 2 > len(behind):
            line.behind = deque(filter(self._unfinished.__contains__, behind))
            line.ended = 0

    def _let_go(self, line: Line) -> None:
        """Queue the head of *line*, unless that has been done; twice does no harm."""
        pool = self._control.pool
        while (head := line.head) is not None and line.let_go is not head:
            try:
                self._control.parked.pop(head, None)
                due = head.not_before
                if due is None:
                    # First, since a newer job that replaces it from now on has its place. Another
                    # thread may do the same, or be at the next one: then that is queued twice.
                    line.let_go = head
                    pool.enqueue(head)
                else:
                    self._let_wait(line, head, due)
            except BaseException:  # an interrupt: whoever resumes this does it once more
                line.let_go = None
                raise

    def _let_wait(self, line: Line, head: KeyedJob, due: float) -> None:
        """Let the *head* of *line* wait until *due*."""
        pool = self._control.pool
        keeper = pool.timekeeper
        waits = keeper.ready()
        with line.lock:  # so that a newer job in its place finds the due time
            if line.head is not head:
                return
            line.let_go = head
            waits = waits and head.wait_until(due, keeper.add)
            head.not_before = None
        if waits:
            keeper.added(head, due)
        else:
            pool.enqueue(head)

    def hand_over(self, job: KeyedJob, due: float | None) -> bool:
        """Let the newer job of its key go in the place of *job*, whose attempt has failed.

        Args:
            job: a job that the calling worker runs, and that would be tried again.
            due: when that would be; None for at once.

        Returns:
            False if there is no newer one, or *job* is not to be replaced.
        """
        line = job.line
        if line is None or not job.latest or not line.behind:
            return False
        with line.lock:
            if line.editing:
                return False
            line.editing = True
            try:
                while line.behind and line.behind[0] not in self._unfinished:
                    line.behind.popleft()
                newer = line.behind[0] if line.behind else None
                if newer is None or not newer.latest or not job.follow(newer, running=True):
                    return False
                if due is not None and (newer.not_before is None or newer.not_before < due):
                    newer.not_before = due
                line.head = newer
                line.behind.popleft()
            finally:
                line.editing = False
        return True

    def _hashed(self, key: Hashable) -> Hashable:
        """Return *key* as it stands in the dict: to hash it runs no code of the user's."""
        if is_builtin(key) and not self.compared_by_users:
            return key
        self.compared_by_users = True
        return HashedKey(key)
