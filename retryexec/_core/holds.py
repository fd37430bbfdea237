"""What has held back the jobs of an observed pool, and for how long: keys, guards, pauses."""

from typing import TYPE_CHECKING, Any, NamedTuple

from retryexec._core.job import Job
from retryexec._core.steering import Steering
from retryexec._typing import override

if TYPE_CHECKING:
    from retryexec._core.observed import ObservedPool


class Hold(NamedTuple):
    """For how many *seconds* something has held a job, called as in `RetryFuture.held_by`."""

    by: str
    seconds: float


class Holds:
    """What has held each job since its latest attempt."""

    def __init__(self) -> None:
        # Each use is one operation, so it needs no lock: a job is held by one thread at a time.
        self._of: dict[Job[Any], list[tuple[str, float]]] = {}

    def note(self, job: Job[Any], by: str, now: float) -> None:
        """Note that *job* is held from *now* on, unless it is held by the same already."""
        found = self._of.setdefault(job, [])
        if not found or found[-1][0] != by:
            found.append((by, now))
        if job.running() or job.done():  # meanwhile
            self._of.pop(job, None)

    def take(self, job: Job[Any], now: float) -> list[Hold]:
        """Return what has held *job* until *now*, each until the next did, and forget it."""
        found = self._of.pop(job, ())
        ends = [*(since for _, since in found[1:]), now]
        return (
            [Hold(by, max(0.0, end - since)) for (by, since), end in zip(found, ends, strict=True)]
            if found
            else []
        )

    def forget(self, job: Job[Any]) -> None:
        """Forget *job*, which has ended."""
        self._of.pop(job, None)


class ObservedSteering(Steering):
    """Steering that notes which jobs a pause holds."""

    @override
    def set_aside_if_paused(self, job: Job[Any]) -> None:
        super().set_aside_if_paused(job)
        newest = job.superseded_by or job
        assert isinstance(newest, Job)
        if self.holds(newest):
            pool: ObservedPool = self._pool  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
            pool.note_hold(newest, "pause")
