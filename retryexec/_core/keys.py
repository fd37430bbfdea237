"""Keys: of the jobs that have the same key, one at a time has its turn.

A key has a `Line` while it has an unfinished job. The first job of a line is queued, running or
waiting as any other job; those behind it are nowhere else. Whoever ends the first job lets the next
one go, and whoever finds a line whose first job has ended does, too. So a thread that is
interrupted in between strands nobody.
"""

from collections import deque
from collections.abc import Hashable
from itertools import cycle
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

from retryexec._core.controlled import ControlledJob
from retryexec._typing import override

if TYPE_CHECKING:
    from retryexec._core.control import Control

KeyedJob: TypeAlias = ControlledJob[Any]

# Below this many, ended jobs in a line are not worth a sweep.
SWEEP_MIN = 64

# The locks of all lines, each line's for good. Whoever holds one may take a job's lock, and no
# other: not another line's, and not a pool's.
LINE_LOCKS = tuple(RLock() for _ in range(64))
_next_lock = cycle(LINE_LOCKS).__next__


class Line:
    """The unfinished jobs of one key, in the order they were accepted.

    Attributes:
        key: as it stands in `Keys`.
        lock: guards the others.
        head: the job whose turn it is; None in a line that is new, or has been dropped.
        behind: those behind it. Some may have ended.
        ended: how many of those behind have ended, about.
        let_go: whether the head has been queued.
        dropped: the line has no job any more, and is not the key's line any more.
    """

    __slots__ = ("behind", "dropped", "ended", "head", "key", "let_go", "lock")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.lock = _next_lock()
        self.head: KeyedJob | None = None
        self.let_go = True
        self.behind: deque[KeyedJob] | None = None  # made for the second job
        self.ended = 0
        self.dropped = False


class Keys:
    """The lines of a pool, one for each key that has an unfinished job."""

    def __init__(self, control: "Control") -> None:
        self._control = control
        self._unfinished = control.pool.unfinished
        self._lines: dict[Hashable, Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    # ---- in

    def enter(self, job: KeyedJob) -> "KeyedJob | None":
        """Put *job*, which is one of the unfinished, into the line of its key.

        Returns:
            the job that it has replaced; None if it has replaced none.
        """
        while True:
            line = job.line = self._line_of(job.key)
            with line.lock:
                if line.dropped:
                    self._drop(line)  # if an interrupt has kept another thread from it
                    continue
                last = self._last_of(line)
                if last is not None and self._replace(line, last, job):
                    return last
                if last is None:
                    line.head, line.let_go = job, False
                else:
                    if line.behind is None:
                        line.behind = deque()
                    line.behind.append(job)
                    self._control.parked[job] = None
            self._let_go(line)
            return None

    def enter_by_replacing(self, job: KeyedJob) -> "KeyedJob | None":
        """Do as `enter` if there is a job that *job* replaces; else do nothing.

        Unlike there, *job* becomes one of the unfinished here, and only if it replaces one.
        """
        line = self._lines.get(_hashed(job.key))
        if line is None or not job.latest:
            return None
        unfinished = self._unfinished
        with line.lock:
            last = None if line.dropped else self._last_of(line)
            if last is None or not (last.latest and last.is_pending()):
                return None
            job.line = line
            unfinished.add(job)
            if self._replace(line, last, job):
                return last
            unfinished.discard(job)  # an attempt of the last one has begun just now
            job.line = None
        return None

    def _line_of(self, key: Hashable) -> Line:
        """Return the line of *key*, which may be dropped before the caller has its lock."""
        # No lock is held: to compare keys may run code of the user's.
        key = _hashed(key)
        line = self._lines.get(key)
        if line is None:
            # One call into C, so that of two threads both get the same line.
            line = self._lines.setdefault(key, Line(key))
        return line

    def _replace(self, line: Line, last: KeyedJob, job: KeyedJob) -> bool:
        """Put *job* in the place of *last*, if that waits and may be replaced; lock held."""
        if not (job.latest and last.latest and last.follow(job)):
            return False
        if line.head is last:
            line.head = job
        else:
            assert line.behind
            line.behind[-1] = job
            self._control.parked[job] = None
        return True

    def _last_of(self, line: Line) -> "KeyedJob | None":
        """Return the last job of *line* that has not ended; lock held."""
        behind = line.behind
        while behind:
            if behind[-1] in self._unfinished:
                return behind[-1]
            behind.pop()
        return line.head if line.head in self._unfinished else None

    def is_its_turn(self, job: KeyedJob) -> bool:
        """Return whether no other job of its key goes before *job*."""
        line = job.line
        if line is None:
            return True
        with line.lock:  # held by a thread that is just replacing another job by this one
            return line.head is job

    # ---- out

    def leave(self, job: KeyedJob) -> None:
        """Let the next job of its key go, if it was the turn of *job*, which has ended."""
        line = job.line
        if line is None:
            return
        with line.lock:
            if line.head not in self._unfinished:
                self._advance(line)
            elif line.head is not job and line.behind:
                self._sweep(line, line.behind)
        self._let_go(line)

    def _advance(self, line: Line) -> None:
        """Make the first job behind that has not ended the head; lock held."""
        behind = line.behind
        while behind:
            first = behind[0]
            if first in self._unfinished:
                line.head, line.let_go = first, False
                behind.popleft()
                return
            behind.popleft()
        line.head, line.dropped = None, True
        self._drop(line)

    def _drop(self, line: Line) -> None:
        """Forget *line*, whose jobs have all ended; lock held."""
        # Found by identity, and its hash is at hand: no code of the user's runs.
        if self._lines.get(line.key) is line:
            del self._lines[line.key]

    def _sweep(self, line: Line, behind: "deque[KeyedJob]") -> None:
        """Drop the ended jobs behind in *line* if they are the majority; one has just ended."""
        line.ended += 1
        if line.ended > SWEEP_MIN and line.ended * 2 > len(behind):
            line.behind = deque(filter(self._unfinished.__contains__, behind))
            line.ended = 0

    def _let_go(self, line: Line) -> None:
        """Queue the head of *line*, unless that has been done; twice does no harm."""
        head = line.head
        if head is not None and not line.let_go:
            due, head.not_before = head.not_before, None
            self._control.parked.pop(head, None)
            self._control.pool.enqueue(head, due)
            line.let_go = True

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
            while line.behind and line.behind[0] not in self._unfinished:
                line.behind.popleft()
            newer = line.behind[0] if line.behind else None
            if newer is None or not newer.latest or not job.follow(newer, running=True):
                return False
            newer.not_before = due
            line.head, line.let_go = newer, False
            line.behind.popleft()
        return True


_BUILTIN = frozenset({str, bytes, int, bool, float, type(None)})


class _HashedKey:
    """A key of a user's own type, with its hash at hand: no code of the user's runs to ask it."""

    __slots__ = ("_hash", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self._hash = hash(key)

    @override
    def __hash__(self) -> int:
        return self._hash

    @override
    def __eq__(self, other: object) -> bool:
        return bool(self.key == (other.key if isinstance(other, _HashedKey) else other))


def _hashed(key: Hashable) -> Hashable:
    """Return *key* as `Keys` has it: whose hash runs no code of the user's."""
    kind = type(key)
    if kind in _BUILTIN or (kind is tuple and _BUILTIN.issuperset(map(type, key))):  # type: ignore[call-overload]
        return key
    return _HashedKey(key)


def key_of(key: Any, job: KeyedJob) -> Hashable:
    """Return the key of *job*, where the user has given *key*.

    Raises:
        TypeError: it cannot be a key, since it has no hash.
        Exception: what the user's callable raised.
    """
    if not callable(key):
        return key  # type: ignore[no-any-return]  # checked when it was given
    found = (
        key(job.submitted, *job.args, **job.kwargs) if job.by_exec else key(*job.args, **job.kwargs)
    )
    return checked_key(found)


def checked_key(key: Any) -> Hashable:
    """Return *key*; raise TypeError if it has no hash."""
    try:
        hash(key)
    except TypeError as error:
        msg = f"a key must have a hash, as a str, a number or a tuple of them has (got {key!r})"
        raise TypeError(msg) from error
    return key  # type: ignore[no-any-return]
