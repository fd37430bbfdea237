"""The other side of an engine: what runs an attempt there, and brings its outcome back.

An attempt is sent in one of two forms. To an engine that is known to be another process, its call
is pickled first, so that what cannot be sent fails here, and what cannot be read there does not
break the process that reads it. To any other executor goes a `Task`. On another thread, it runs as
it would in a worker; pickled by the executor, it becomes the first form.
"""

import pickle
from concurrent.futures import Future
from contextvars import Context
from time import monotonic
from types import CoroutineType
from typing import Any, NamedTuple, TypeAlias

from retryexec._attempt import retrying_here, running_job
from retryexec._clock import SYSTEM_CLOCK
from retryexec._core.away import Outcome
from retryexec._core.job import Job, JobProgress
from retryexec._errors import PermanentError
from retryexec._exceptions import calls_jobs, with_traceback
from retryexec._outcome import name_of, qualified_name, text_of
from retryexec._progress import Progress, Settings, seconds_left
from retryexec._typing import override
from retryexec._validate import coroutine_refusal
from retryexec.engines._carried import CarriedError, dump_error, load_error
from retryexec.engines._pickles import dumps_call, dumps_value

# What comes back of an attempt that ran in another process. Plain tuples, which pickle quickly.
Sent: TypeAlias = tuple[str, Any]
RETURNED, RAISED, COROUTINE = "returned", "raised", "coroutine"
UNREADABLE, UNSENDABLE = "unreadable", "unsendable"


class Facts(NamedTuple):
    """What an attempt may ask about itself on the other side.

    Attributes:
        number, job_id: as `current_attempt` has them.
        left: seconds that the attempt had when it was sent; None for no limit.
        sent: when that was, by a clock that the other side shares; None if it shares none.
        previous: what the attempt before raised.
        cloud: whether outcomes are pickled by cloudpickle.
    """

    number: int
    job_id: str
    left: float | None
    sent: float | None
    previous: CarriedError | None
    cloud: bool


def facts_of(job: Job[Any], *, same_host: bool, cloud: bool) -> Facts:
    """Return what the attempt of *job* that begins now may ask about itself elsewhere."""
    settings = job.settings
    # A first attempt has none, and making one that lasts would take the job's lock.
    progress = job.progress or JobProgress(job.started)
    previous = None if progress.previous is None else dump_error(progress.previous, cloud=cloud)
    left = seconds_left(settings, progress.deadline(settings.policy))
    sent = monotonic() if same_host and left is not None else None
    return Facts(progress.attempts, job.job_id, left, sent, previous, cloud)


def pickled_call(job: Job[Any], *, cloud: bool) -> bytes:
    """Pickle the call of *job*.

    Raises:
        PicklingError: it cannot be pickled; the message names the part, and the reason.
    """
    return dumps_call(job.submitted, job.by_exec, job.args, job.kwargs, cloud=cloud)


# ---- in the other process


class _Limits(NamedTuple):
    """The part of a policy that an attempt can ask for."""

    attempt_timeout: float | None
    max_elapsed: None = None


class _Owner:
    """What the other side knows of the job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id

    @property
    def accepted(self) -> Future[None]:
        msg = "current_attempt().accepted is not there where an engine runs the attempt"
        raise AttributeError(msg)


def run_pickled(call: bytes, *facts: Any) -> Sent:
    """Run one attempt, in a context of its own, and return its outcome; never raises.

    Args:
        call: what `pickled_call` returned.
        facts: those of the attempt, one by one: a plain tuple is pickled more quickly.
    """
    return Context().run(_run_pickled, call, Facts._make(facts))


@calls_jobs
def _run_pickled(call: bytes, facts: Facts) -> Sent:
    cloud = facts.cloud
    try:
        job, by_exec, args, kwargs = pickle.loads(call)  # noqa: S301  the parent has written it
    except BaseException as error:
        return UNREADABLE, dump_error(error, cloud=cloud)
    try:
        progress = Progress(0.0 if facts.left is None else facts.sent or monotonic(), facts.number)
        progress.previous = None if facts.previous is None else load_error(facts.previous)
        limits: Any = _Limits(facts.left)
        settings = Settings(limits, SYSTEM_CLOCK, None)
        retrying_here.set((progress, settings, _Owner(facts.job_id), None))
        value = (job.exec if by_exec else job)(*args, **kwargs)
    except BaseException as error:
        return RAISED, dump_error(error, cloud=cloud)
    if type(value) is CoroutineType:
        value.close()
        return COROUTINE, None
    try:
        return RETURNED, dumps_value(value, cloud=cloud)
    except Exception as error:
        return UNSENDABLE, dump_error(error, cloud=cloud)


def outcome_of(job: Job[Any], sent: Sent) -> Outcome:
    """Return what became of an attempt of *job*, as it was sent back."""
    kind, what = sent
    if kind == RETURNED:
        try:
            return Outcome(None, pickle.loads(what))  # noqa: S301  a process of ours wrote it
        except Exception as error:
            msg = f"what {name_of(job.submitted)} returned cannot be read here: {_words(error)}"
            return Outcome(_final(msg, error))
    if kind == COROUTINE:
        return Outcome(PermanentError(TypeError(coroutine_refusal(job.submitted))))
    raised = load_error(what)
    if kind == UNREADABLE:
        msg = (
            f"{name_of(job.submitted)} cannot be read where attempts run, which has to be able to "
            f"import it: {_words(raised)}"
        )
        return Outcome(_final(msg, raised))
    return Outcome(PermanentError(raised) if kind == UNSENDABLE else raised)


def _final(msg: str, cause: BaseException) -> PermanentError:
    error = pickle.UnpicklingError(msg)
    error.__cause__ = with_traceback(cause, None)
    return PermanentError(error)


def _words(error: BaseException) -> str:
    return f"{qualified_name(type(error))}: {text_of(error)}"


# ---- for an executor that may be anything


class Task:
    """An attempt for an executor of any kind: it runs as it is, or pickled."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    @calls_jobs
    def __call__(self) -> Outcome:
        """Run the attempt in this thread, in a copy of the submitter's context."""
        job, context = self._job, self._job.context.copy()
        context.run(retrying_here.set, (job.ensure_progress(), job.settings, job, running_job()))
        try:
            call = job.submitted.exec if job.by_exec else job.submitted
            return Outcome(None, context.run(call, *job.args, **job.kwargs))
        except BaseException as error:
            return Outcome(error)
        finally:
            del self._job, job, context  # the traceback keeps this frame

    @override
    def __reduce__(self) -> Any:
        facts = facts_of(self._job, same_host=False, cloud=False)
        return _PickledTask, (pickled_call(self._job, cloud=False), facts)


class _PickledTask:
    """What a `Task` is once it has been pickled."""

    def __init__(self, call: bytes, facts: Facts) -> None:
        self._call = call
        self._facts = facts

    def __call__(self) -> Sent:
        return run_pickled(self._call, *self._facts)

    @override
    def __reduce__(self) -> Any:
        return _PickledTask, (self._call, self._facts)
