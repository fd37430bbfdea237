"""What runs an attempt on the other side, called here on this one."""

import pickle
import time
from contextvars import Context
from typing import Any

import pytest
from helpers import remote
from helpers.jobs import Boom

from retryexec import PermanentError, RetryingExecutor, RetryPolicy
from retryexec._core.away import Outcome
from retryexec._core.job import Job
from retryexec.engines._carried import dump_error
from retryexec.engines._remote import (
    UNREADABLE,
    Facts,
    Task,
    outcome_of,
    pickled_call,
    run_pickled,
)

FACTS = Facts(3, "a job", 10.0, None, None, False)


@pytest.fixture
def make_job() -> Any:
    """Make jobs of an executor that it never runs."""
    with RetryingExecutor(policy=RetryPolicy(max_elapsed=60)) as executor:

        def make(fn: Any, *args: Any) -> Job[Any]:
            return Job(executor._settings, fn, hasattr(fn, "exec"), args, {}, Context())

        yield make


def ran(job: Job[Any], facts: Facts = FACTS) -> Outcome:
    sent = run_pickled(pickled_call(job, cloud=False), *facts)
    return outcome_of(job, pickle.loads(pickle.dumps(sent)))


def test_value(make_job: Any) -> None:
    assert ran(make_job(remote.double, 4)) == Outcome(None, 8)


def test_exception_with_the_frames_of_the_job_alone(make_job: Any) -> None:
    raised = ran(make_job(remote.boom)).raised
    assert type(raised) is Boom
    text = str(raised.__cause__)
    assert "in boom" in text
    assert "run_pickled" not in text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), Boom("x")])
def test_whatever_is_raised_is_the_outcome(make_job: Any, error: BaseException) -> None:
    assert type(ran(make_job(remote.raises, error)).raised) is type(error)


def test_value_that_cannot_be_pickled_is_final(make_job: Any) -> None:
    raised = ran(make_job(remote.nothing_to_pickle)).raised
    assert isinstance(raised, PermanentError)
    assert isinstance(raised.exception, pickle.PicklingError)
    assert "['lock'], a lock" in str(raised.exception)


def test_value_that_cannot_be_read_here_is_final(make_job: Any) -> None:
    job = make_job(remote.double)
    raised = outcome_of(job, ("returned", b"no pickle")).raised
    assert isinstance(raised, PermanentError)
    assert "what double returned cannot be read here" in str(raised)


def test_job_that_cannot_be_read_there_is_final(make_job: Any) -> None:
    sent = run_pickled(b"no pickle", *FACTS)
    assert sent[0] == UNREADABLE
    raised = outcome_of(make_job(remote.double), sent).raised
    assert isinstance(raised, PermanentError)
    assert "double cannot be read where attempts run, which has to be able" in str(raised)


def test_coroutine_is_refused_as_here(make_job: Any) -> None:
    raised = ran(make_job(remote.returns_coroutine)).raised
    assert isinstance(raised, PermanentError)
    assert "returns_coroutine" in str(raised)


def test_current_attempt(make_job: Any) -> None:
    facts = FACTS._replace(previous=dump_error(Boom("before")))
    number, job_id, left, previous, cancelled = ran(make_job(remote.told), facts).value
    assert (number, job_id, cancelled) == (3, "a job", False)
    assert 9 < left <= 10
    assert "before" in previous


def test_remaining_counts_from_when_it_was_sent_if_clocks_are_shared(make_job: Any) -> None:
    facts = FACTS._replace(sent=time.monotonic() - 4)
    assert 5 < ran(make_job(remote.told), facts).value[2] <= 6


def test_no_limit(make_job: Any) -> None:
    assert ran(make_job(remote.told), FACTS._replace(left=None)).value[2] is None


def test_accepted_is_not_there(make_job: Any) -> None:
    raised = ran(make_job(remote.accepted)).raised
    assert isinstance(raised, AttributeError)
    assert "is not there where an engine runs the attempt" in str(raised)


def test_each_attempt_has_a_context_of_its_own(make_job: Any) -> None:
    job = make_job(remote.swap_variable, "set")
    assert [ran(job).value, ran(job).value] == ["unset", "unset"]
    assert remote.VARIABLE.get() == "unset"


# ---- tasks, for executors of any kind


def test_task_runs_as_it_is_in_another_thread(make_job: Any) -> None:
    value = object()
    assert Task(make_job(lambda: value))() == Outcome(None, value)


def test_task_has_the_context_of_the_submitter(make_job: Any) -> None:
    job = make_job(remote.swap_variable, "set")
    job.context.run(remote.VARIABLE.set, "submitted")
    assert [Task(job)().value, Task(job)().value] == ["submitted", "submitted"]


def test_exception_of_a_task_is_the_very_same(make_job: Any) -> None:
    error = Boom()
    assert Task(make_job(remote.raises, error))().raised is error


def test_task_that_is_pickled_runs_in_another_process(make_job: Any) -> None:
    task = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(Task(make_job(remote.told))))))
    kind, value = task()
    assert kind == "returned"
    assert pickle.loads(value)[0] == 0  # no attempt has begun, in this test


def test_task_that_cannot_be_pickled_says_why(make_job: Any) -> None:
    with pytest.raises(pickle.PicklingError, match="it is defined within a function"):
        pickle.dumps(Task(make_job(lambda: None)))
