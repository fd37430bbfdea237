"""Observed pools: where jobs tell observers, such as telemetry, of their attempts and ends.

Nothing in a pool, or in the verbs of a job, asks whether somebody observes it. Instead, `observe`
puts the classes of this file in the place of the pool's and its jobs'. They have the same
attributes, and their verbs do the same and tell of it. So a pool that nobody observes pays nothing.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from retryexec._core.controlled import ControlledJob
from retryexec._core.future import FinalException
from retryexec._core.holds import Hold, Holds, ObservedSteering
from retryexec._core.job import Job, JobProgress
from retryexec._core.pool import Pool
from retryexec._exceptions import report
from retryexec._outcome import StopReason
from retryexec._typing import override

if TYPE_CHECKING:
    from retryexec._core.control import Control

AnyJob: TypeAlias = Job[Any]


class AttemptEnd(NamedTuple):
    """How an attempt ended.

    Attributes:
        seconds: how long it ran.
        exception: what it failed with; None if it succeeded, returned a value that the policy
            refused, or was lost with its engine and is run again.
        reason: why no other follows: SUCCEEDED, for one; None if another follows.
        delay: seconds until that; None if no other follows.
        crashed: whether it was lost with its engine, and so was no attempt.
    """

    seconds: float
    exception: BaseException | None
    reason: StopReason | None
    delay: float | None
    crashed: bool


class AttemptObserver(Protocol):
    """What is told of each attempt, in the thread that runs it; what it raises is logged.

    Attributes:
        wants_traces: whether jobs that a journal has kept a trace of are waiting for this observer,
            so that they can be started once it is there; and whether it is told what holds jobs.
    """

    wants_traces: bool

    def started(self, job: AnyJob, number: int, ago: float) -> object:
        """Hear that attempt *number* of *job* is about to run, in a copy of ``job.context``.

        Args:
            ago: 0.0; of an attempt that began before there was this observer, for how many seconds
                it has been running.

        Returns:
            what `ended` is to be given; None if it is not to be told.
        """
        ...

    def ended(self, told: Any, job: AnyJob, end: AttemptEnd) -> None:
        """Hear how the attempt ended, before its job's future does."""
        ...

    def held(self, told: Any, holds: Sequence[Hold]) -> None:
        """Hear what has held the attempt back, if anything, where the observer wants traces."""
        ...


class JobObserver(Protocol):
    """What is told of each job; both methods are quick, and what they raise is logged."""

    def accepted(self, job: AnyJob) -> None:
        """Hear that *job* is accepted, or was found unfinished; it may also be refused then."""
        ...

    def left(self, job: AnyJob, outcome: str | None) -> None:
        """Hear how the job ended, perhaps more than once: the first time counts.

        Args:
            outcome: "succeeded", "failed", "cancelled" or "superseded"; None if it was refused.
        """
        ...


# An attempt that is under way: its number, when it began, and what its observers want to be given
# at its end. A plain tuple, since there is one for each attempt.
_Open: TypeAlias = tuple[int, float, list[tuple[AttemptObserver, object]]]


class ObservedJob(Job[Any]):
    """A job that tells the observers of its pool what becomes of it."""

    __slots__ = ()

    @override
    def begin(self, now: float) -> JobProgress | bool:
        progress = super().begin(now)
        if progress:
            _observed_pool(self).attempt_started(self, progress, now)
        return progress

    @override
    def put_off(self, progress: JobProgress, due: float | None) -> StopReason | None:
        pool = _observed_pool(self)
        attempt = pool.open.pop(self, None)
        if attempt is None:
            return super().put_off(progress, due)
        exception = progress.previous
        # To the nanosecond: the due time was rounded as it was added up.
        delay = 0.0 if due is None else round(due - progress.failed_at, 9)
        reason = super().put_off(progress, due)
        # From here on another worker may have the job.
        if reason is not None:
            pool.open[self] = attempt  # `fail` follows
        elif progress.attempts < attempt[0]:
            pool.attempt_ended(self, attempt, None, None, 0.0, crashed=True)
        else:
            pool.attempt_ended(self, attempt, exception, None, delay)
        return reason

    @override
    def succeed(self, value: Any) -> bool:
        pool = _observed_pool(self)
        attempt = pool.open.pop(self, None)
        if attempt is not None:
            pool.attempt_ended(self, attempt, None, StopReason.SUCCEEDED)
        if pool.job_observers:
            pool.job_left(self, "succeeded")
        return super().succeed(value)

    @override
    def fail(self, reason: StopReason, failure: FinalException | None, refused: Any = None) -> bool:
        pool = _observed_pool(self)
        attempt = pool.open.pop(self, None)
        if attempt is not None:
            exception = None if failure is None else failure.exception
            pool.attempt_ended(self, attempt, exception, reason)
        pool.holds.forget(self)
        pool.job_left(self, "failed")
        return super().fail(reason, failure, refused)


class ObservedControlledJob(ObservedJob, ControlledJob[Any]):
    """As `ObservedJob`, of a job with a key or guards."""

    __slots__ = ()

    @override
    def hold(self, due: float) -> bool | None:
        held_by = self.held_by
        held = super().hold(due)
        if held is not None and held_by is not None:
            _observed_pool(self).note_hold(self, held_by)
        return held

    @override
    def follow(self, newer: ControlledJob[Any], *, running: bool = False) -> bool:
        exception = None if self.progress is None else self.progress.previous
        followed = super().follow(newer, running=running)
        if followed:
            pool, reason = _observed_pool(self), StopReason.SUPERSEDED
            attempt = pool.open.pop(self, None)
            if attempt is not None:
                pool.attempt_ended(self, attempt, exception, reason)
            pool.job_left(self, "superseded")
            pool.holds.forget(self)
        return followed


def _waits_for_telemetry(job: AnyJob) -> bool:
    """Return whether *job*, which was taken over, is put off only so that its trace can go on."""
    return job.entry is not None and not job.entry.attempts and job.entry.trace is not None


def _observed_pool(job: AnyJob) -> "ObservedPool":
    return job.settings.pool  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


class ObservedPool(Pool):
    """A pool with observers; made of a `Pool` by `observe`.

    Attributes:
        attempt_observers, job_observers: replaced as a whole, never changed.
        open: the attempts that are under way. Each is added by the worker that begins it; whoever
            takes it out tells of its end.
        holds: what has held jobs back, if an observer wants to know.
    """

    attempt_observers: Sequence[AttemptObserver] = ()
    job_observers: Sequence[JobObserver] = ()
    open: dict[AnyJob, _Open]
    holds: Holds

    @override
    def accept(self, job: AnyJob, control: "Control | None" = None) -> None:
        job.__class__ = _OBSERVED[job.__class__]
        if not self.job_observers:
            super().accept(job, control)
            self._note_key(job)
            return
        self._job_accepted(job)
        try:
            super().accept(job, control)
        except BaseException:
            if job not in self.unfinished:
                self.job_left(job, None)
            raise
        self._note_key(job)

    @override
    def start_taken_over(self, jobs: Sequence[tuple[AnyJob, float | None]]) -> None:
        # Here they are among the unfinished, so those that come while a pool gets its first
        # observer are adopted here, or by `observe`, or twice, which does no harm.
        for job, _ in jobs:
            self.adopt(job)
        if any(observer.wants_traces for observer in self.attempt_observers):
            jobs = [(job, None if _waits_for_telemetry(job) else due) for job, due in jobs]
        super().start_taken_over(jobs)
        for job, _ in jobs:
            self._note_key(job)

    @override
    def remove(self, job: AnyJob, cancelled: bool) -> None:
        if self.job_observers:
            superseded = self.control.used and job.superseded_by is not None
            ended = "superseded" if superseded else "cancelled" if cancelled else "failed"
            self.job_left(job, ended)
        self.holds.forget(job)
        super().remove(job, cancelled)

    @override
    def for_forked_child(self) -> Pool:
        pool = super().for_forked_child()
        observe(pool, self.attempt_observers, self.job_observers)
        return pool

    def adopt(self, job: AnyJob) -> None:
        """Observe *job*, which was accepted elsewhere, or before there were observers."""
        job.__class__ = _OBSERVED[job.__class__]
        self._job_accepted(job)

    def attempt_started(self, job: AnyJob, progress: JobProgress | bool, now: float) -> None:
        """Tell that an attempt of *job* has begun, which has come so far."""
        number, holds = 1, self.holds.take(job, now)
        if not isinstance(progress, bool):
            if progress.attempts and now - progress.began > job.settings.policy.elapsed_limit:
                return  # the job has waited too long, and ends without another attempt
            number = progress.attempts + 1
        self.open_attempt(job, number, now)
        if holds:
            self._tell_holds(job, holds)

    def _tell_holds(self, job: AnyJob, holds: Sequence[Hold]) -> None:
        attempt = self.open.get(job)
        for observer, given in () if attempt is None else attempt[2]:
            try:
                if observer.wants_traces:
                    observer.held(given, holds)
            except Exception:
                report("telemetry failed as an attempt began; the job goes on")

    def note_hold(self, job: AnyJob, by: str) -> None:
        """Note that *job* is held from now on, if an observer wants to know."""
        if any(observer.wants_traces for observer in self.attempt_observers):
            self.holds.note(job, by, self.now())

    def _note_key(self, job: AnyJob) -> None:
        if isinstance(job, ControlledJob) and job.held_by == "key":
            self.note_hold(job, "key")

    def open_attempt(
        self,
        job: AnyJob,
        number: int,
        started: float,
        *,
        ago: float = 0.0,
        observers: Sequence[AttemptObserver] | None = None,
    ) -> None:
        """Tell that attempt *number* of *job* has begun; note who is to be told of its end."""
        told: list[tuple[AttemptObserver, object]] = []
        for observer in self.attempt_observers if observers is None else observers:
            try:
                given = observer.started(job, number, ago)
            except Exception:
                report("telemetry failed as an attempt began; the job goes on")
                continue
            if given is not None:
                told.append((observer, given))
        if told:
            self.open[job] = number, started, told

    def attempt_ended(
        self,
        job: AnyJob,
        attempt: _Open,
        exception: BaseException | None,
        reason: StopReason | None,
        delay: float | None = None,
        *,
        crashed: bool = False,
    ) -> None:
        """Tell how an attempt, which was taken out of `open`, has ended."""
        _, started, told = attempt
        seconds = max(0.0, self.now() - started)
        end = AttemptEnd(seconds, exception, reason, delay, crashed)
        for observer, given in told:
            try:
                observer.ended(given, job, end)
            except Exception:
                report("telemetry failed as an attempt ended; the job goes on")

    def job_left(self, job: AnyJob, outcome: str | None) -> None:
        """Tell how *job* has ended."""
        for observer in self.job_observers:
            try:
                observer.left(job, outcome)
            except Exception:
                report("telemetry failed as a job ended")

    def _job_accepted(self, job: AnyJob) -> None:
        for observer in self.job_observers:
            try:
                observer.accepted(job)
            except Exception:
                report("telemetry failed as a job was accepted; the job goes on")


class DormantPool(Pool):
    """A pool that is observed as soon as somebody wants that; made of a `Pool` by `observe_once`.

    Attributes:
        wanted: asked at each `accept`; returns None as long as nobody does, and then anything.
        awaited: the observer.
    """

    wanted: Callable[[], object]
    awaited: AttemptObserver

    @override
    def accept(self, job: AnyJob, control: "Control | None" = None) -> None:
        if self.wanted() is None:
            Pool.accept(self, job, control)  # without super(), which takes a third longer
            return
        observe(self)
        self.accept(job, control)  # as an ObservedPool

    @override
    def for_forked_child(self) -> Pool:
        pool = super().for_forked_child()
        observe_once(self.wanted, pool, self.awaited)
        return pool


_OBSERVED: Final[dict[type[AnyJob], type[AnyJob]]] = {
    Job: ObservedJob,
    ControlledJob: ObservedControlledJob,
    ObservedJob: ObservedJob,
    ObservedControlledJob: ObservedControlledJob,
}


def observe(
    pool: Pool, attempts: Sequence[AttemptObserver] = (), jobs: Sequence[JobObserver] = ()
) -> None:
    """Tell observers of all further attempts, and jobs, of *pool*, and of those under way."""
    with pool.lock:
        if not isinstance(pool, ObservedPool):
            vars(pool).update(open={}, holds=Holds())
            pool.steering.__class__ = ObservedSteering
            awaited = vars(pool).pop("awaited", None)  # of a DormantPool
            attempts = [*attempts, *([] if awaited is None else [awaited])]
            pool.__class__ = ObservedPool
        assert isinstance(pool, ObservedPool)
        pool.attempt_observers = (*pool.attempt_observers, *attempts)
        pool.job_observers = (*pool.job_observers, *jobs)
        running = [job for job in list(pool.unfinished) if job.running()]
    for job in list(pool.unfinished):
        pool.adopt(job)
        if _waits_for_telemetry(job) and any(observer.wants_traces for observer in attempts):
            job.retry_now()
    now = pool.now()
    for job in running if attempts else ():
        # Of these the beginning was missed. One that goes on with another attempt meanwhile, whose
        # beginning was told, is left as it is.
        started = job.started
        if started is not None and job.running() and job not in pool.open:
            pool.open_attempt(
                job, max(1, job.attempts), started, ago=now - started, observers=attempts
            )


def observe_once(wanted: Callable[[], object], pool: Pool, observer: AttemptObserver) -> None:
    """Let *observer* observe *pool*, from the first job on for which *wanted* returns not None."""
    if isinstance(pool, ObservedPool) or wanted() is not None:
        observe(pool, [observer])
        return
    with pool.lock:
        vars(pool).update(wanted=wanted, awaited=observer)
        pool.__class__ = DormantPool


def forget(pool: Pool, chosen: Callable[[object], bool]) -> None:
    """Tell the *chosen* observers nothing further of *pool*."""
    with pool.lock:
        awaited = vars(pool).get("awaited")
        if awaited is not None and chosen(awaited):
            del vars(pool)["awaited"]
            any_pool: Any = pool
            any_pool.__class__ = Pool
        if isinstance(pool, ObservedPool):
            pool.attempt_observers = [o for o in pool.attempt_observers if not chosen(o)]
            pool.job_observers = [o for o in pool.job_observers if not chosen(o)]
