"""RetryFuture: the outcome of a job, as users see it."""

import os
from concurrent.futures import Future
from concurrent.futures._base import FINISHED
from typing import Any, ClassVar, TypeVar

from retryexec._core.future import LazyFuture
from retryexec._outcome import Failure, StopReason, type_name
from retryexec._typing import override
from retryexec._validate import Seconds
from retryexec._validate import seconds as seconds_to_wait

T = TypeVar("T")


class RetryFuture(LazyFuture[T]):
    """The outcome of a job that is tried again until it succeeds or finally fails.

    A `concurrent.futures.Future` in every way, and ``await``-able on any running asyncio loop.
    Between two attempts it is pending again: not running, and `cancel` works.
    """

    __slots__ = ()

    # What users know its class as, if not by its own name.
    _shown_as: ClassVar[str | None] = None

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""
        return 0

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the attempts ended; None while they have not."""
        if self.cancelled():
            return StopReason.CANCELLED
        if self._state != FINISHED:
            return None
        return StopReason.SUCCEEDED if self._failure is None else StopReason.NOT_RETRIABLE

    @property
    def history(self) -> tuple[Failure, ...]:
        """The last few failures, oldest first."""
        return ()

    @property
    def next_attempt_at(self) -> float | None:
        """When the next attempt is due, in the clock's seconds; None unless waiting for it."""
        return None

    @property
    def held_by(self) -> str | None:
        """What keeps the job from being tried: its "key", a guard, the "journal" or a "pause".

        None if nothing does. "key" means that another job of the same key goes first; "journal",
        that the job was running when its process died, and is tried again alone.
        """
        return None

    @property
    def superseded_by(self) -> "RetryFuture[Any] | None":
        """The newer job of the same key that has replaced this one; None if none has.

        This future ends as that one does.
        """
        return None

    def retry_now(self) -> bool:
        """Let the next attempt start as soon as a worker is free, if the job waits for it.

        Returns:
            whether it did. False if it is queued, running, held or has ended.
        """
        return False

    def postpone(self, seconds: Seconds) -> bool:
        """Let no attempt start within *seconds* (or a timedelta) from now.

        It takes the place of a wait that has begun; the limits of the policy stay as they are. A
        job behind another one of its key waits so long at least.

        Returns:
            whether the job is put off. False if it is running or has ended.

        Raises:
            TypeError, ValueError: *seconds* cannot be a time.
        """
        seconds_to_wait("seconds", seconds)
        return False

    @property
    def job_id(self) -> str:
        """What the job is called, the same in all its attempts: in a journal, and after a crash."""
        with self._lock:
            name: str = self.__dict__.setdefault("_name", os.urandom(16).hex())
            return name

    @property
    def accepted(self) -> "Future[None]":
        """Resolved when the journal has the job on disk; fails if it cannot be put there.

        Raises:
            AttributeError: the executor has no journal.
        """
        msg = "this job is in no journal: give the executor one, by journal="
        raise AttributeError(msg)

    @override
    def __repr__(self) -> str:
        state = self._state
        if state != FINISHED:
            end = ""
        elif self._failure is not None:
            end = f" raised {type_name(type(self._failure.exception))}"
        else:
            end = f" returned {type_name(type(self._result))}"
        shown = "cancelled" if self.cancelled() else state.lower()
        return f"<{self._shown_as or type(self).__name__} at {id(self):#x} state={shown}{end}>"
