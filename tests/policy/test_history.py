"""The history that a job's progress keeps, against a plain list of records."""

from typing import Any

import pytest
from helpers.jobs import Boom
from hypothesis import given
from hypothesis import strategies as st

from retryexec import _progress
from retryexec._outcome import Failure
from retryexec._progress import HISTORY_LENGTH, Progress

ERRORS = st.sampled_from([None, Boom(), Boom("locked"), OSError("locked"), OSError("gone")])
SPANS = st.floats(0, 1e6)


def failed(progress: Progress, error: Any, start: float, end: float) -> Failure:
    """Let an attempt of *progress* fail; return what is to be found in its history."""
    progress.begin(start)
    assert not progress.failed
    progress.fail(error, end)
    assert progress.failed
    assert progress.failed_at == end
    kind, text = (None, "refused result") if error is None else (type(error), str(error))
    return Failure(progress.attempts, start, end - start, kind, text)


@given(st.lists(st.tuples(ERRORS, SPANS, SPANS, st.booleans())), st.integers(0, 2**40))
def test_history_of_jobs_that_fail_by_turns(runs: list[Any], before: int) -> None:
    """Each keeps its own latest failures, of whatever kinds they and the other one's are."""
    jobs = [Progress(), Progress(attempts=before)]
    expected: list[list[Failure]] = [[], []]
    now = 0.0
    for error, wait, span, which in runs:
        start = now + wait
        now = start + span
        expected[which].append(failed(jobs[which], error, start, now))
        for job, failures in zip(jobs, expected, strict=True):
            assert job.history == tuple(failures[-HISTORY_LENGTH:])


def test_history_is_whole_while_a_failure_is_put_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another thread may read it, with each failure of another type."""
    progress, seen = Progress(), list[tuple[Failure, ...]]()
    pack = _progress._pack_times

    def look(*times: Any) -> bytes:
        seen.append(progress.history)
        return pack(*times)

    monkeypatch.setattr(_progress, "_pack_times", look)
    errors = [type(f"Error{n}", (Exception,), {})() for n in range(2 * HISTORY_LENGTH)]
    failures = [failed(progress, error, n, n + 0.5) for n, error in enumerate(errors)]
    assert seen == [tuple(failures[max(0, n - HISTORY_LENGTH) : n]) for n in range(len(errors))]


def test_jobs_that_fail_with_the_same_error_share_its_record() -> None:
    jobs = [Progress() for _ in range(3)]
    for number, job in enumerate(jobs):
        for _ in range(3):
            failed(job, Boom(f"{'locked'}, as the database is"), number, number + 1)
    assert len({id(job._errors) for job in jobs}) == 1
