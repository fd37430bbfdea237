"""Room: where threads that submit wait while there are `max_pending` unfinished jobs."""

from queue import SimpleQueue
from threading import current_thread
from typing import TYPE_CHECKING, Any

from retryexec._errors import PendingLimitError

if TYPE_CHECKING:
    from retryexec._core.job import Job
    from retryexec._core.pool import Pool


class Room:
    """The room of *pool* for *most* unfinished jobs."""

    def __init__(self, pool: "Pool", most: int) -> None:
        self._pool = pool
        self._most = most
        # A thread that waits gets an item from here, and then checks. One is put when a job has
        # ended, if there is none yet; and by a thread that finds more room than it needs, for the
        # next thread.
        self._news: SimpleQueue[None] = SimpleQueue()

    def add(self, job: "Job[Any]") -> None:
        """Add *job* to the unfinished ones; not if the pool is closed before there is room.

        Raises:
            PendingLimitError: a job of the pool's own would have to wait.
        """
        pool, most = self._pool, self._most
        while pool.refusal is None:
            with pool.lock:
                if len(pool.unfinished) < most:
                    pool.unfinished.add(job)
                    break
            if current_thread() in pool.threads():
                msg = (
                    f"the executor is full (max_pending={most}), and a job that waits for room in "
                    "its own executor could wait for ever: submit from outside, or to another "
                    "executor"
                )
                raise PendingLimitError(msg)
            # Raises in the thread that moves a virtual clock, if room would take time to come.
            pool.setup.clock.before_endless_wait(lambda: not self._is_full())
            try:
                self._news.get()
            except BaseException:
                self._news.put(None)  # an interrupt may have come just after the item was taken
                raise
        if pool.refusal is not None or len(pool.unfinished) < most:
            self.tell()  # for the next thread that waits

    def _is_full(self) -> bool:
        return self._pool.refusal is None and len(self._pool.unfinished) >= self._most

    def tell(self) -> None:
        """Make a thread that waits check whether there is room."""
        if self._news.empty():
            self._news.put(None)

    def close(self) -> None:
        """Let all threads that wait go on, since the pool takes no more jobs."""
        self._news.put(None)  # each of them puts it back, for the next
