"""An executor with a journal: what it writes down, and what it takes over."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers import TESTS
from helpers.jobs import Gate, InThread

from retryexec import (
    PendingLimitError,
    RetryAfter,
    RetryingExecutor,
    RetryPolicy,
    ShutdownError,
    StopReason,
    current_attempt,
    retry,
)
from retryexec.journal import JobRefused, Journal, JournalError, MemoryJournal
from retryexec.testing import VirtualClock

THREE = RetryPolicy(backoff=[0.0, 0.0])


@dataclass
class Save:
    """A save that fails as often as it is told, and tells what it saw."""

    key: str
    fails: int = 0
    wait: float = 0.0

    seen: ClassVar[list[tuple[str, int, str]]] = []
    gates: ClassVar[dict[str, Gate]] = {}

    def exec(self) -> str:
        attempt = current_attempt()
        self.seen.append((self.key, attempt.number, attempt.job_id))
        if (gate := self.gates.get(self.key)) is not None:
            gate.exec()
        if attempt.number <= self.fails:
            if self.wait:
                raise RetryAfter(self.wait) from OSError("locked")
            raise OSError("locked")
        return self.key


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    Save.seen.clear()
    Save.gates.clear()
    yield
    for gate in Save.gates.values():
        gate.open()


@pytest.fixture(params=["memory", "disk", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """A function that returns the journal, as the next process would have it."""
    jobs = {"save": Save}
    if request.param == "disk":
        return lambda: Journal(tmp_path / "journal", jobs=jobs)
    if request.param == "postgres":
        schema = request.getfixturevalue("schema")
        return lambda: schema(jobs=jobs)
    memory = MemoryJournal(jobs=jobs)
    return lambda: memory


def test_succeeded_job_leaves_nothing(journal: Callable[[], Any]) -> None:
    with RetryingExecutor(2, journal=journal(), policy=THREE) as executor:
        futures = [executor.submit(Save(str(n), fails=n)) for n in range(3)]
        assert [future.result(10) for future in futures] == ["0", "1", "2"]
        assert len(executor.recovered) == 0
    with RetryingExecutor(1, journal=journal()) as executor:
        assert len(executor.recovered) == 0
    assert journal().dead.list() == []


def test_failed_job_becomes_a_dead_letter(journal: Callable[[], Any]) -> None:
    with RetryingExecutor(1, journal=journal(), policy=THREE, on_give_up=list) as executor:
        assert isinstance(executor.submit(Save("bad", fails=9)).exception(10), OSError)
    (letter,) = journal().dead.list()
    assert (letter.kind, letter.reason, letter.attempts) == ("save", "backoff_exhausted", 3)
    assert [error.text for error in letter.errors][:2] == ["locked", "locked"]


def test_cancelled_job_is_not_run_again(journal: Callable[[], Any]) -> None:
    gate = Save.gates["busy"] = Gate()
    with RetryingExecutor(1, journal=journal()) as executor:
        executor.submit(Save("busy"))
        assert gate.reached()
        cancelled = executor.submit(Save("cancelled"))
        assert cancelled.cancel()
        gate.open()
    with RetryingExecutor(1, journal=journal()) as executor:
        assert len(executor.recovered) == 0
    assert [key for key, *_ in Save.seen] == ["busy"]


def test_jobs_left_by_a_shutdown_are_taken_over_where_they_were(journal: Callable[[], Any]) -> None:
    """At the attempt and the due time where it was, under the same name."""
    clock = VirtualClock()
    executor = RetryingExecutor(1, journal=journal(), clock=clock)
    future = executor.submit(Save("later", fails=1, wait=100.0))
    clock.run_until(lambda: future.next_attempt_at is not None)
    report = executor.shutdown(timeout=0)
    assert (report.abandoned, report.journaled) == (1, 1)
    assert isinstance(future.exception(0), ShutdownError)

    succeeded: list[Any] = []
    clock = VirtualClock()
    executor = RetryingExecutor(1, journal=journal(), clock=clock, on_success=succeeded.append)
    assert (len(executor.recovered), executor.recovered.unfinished) == (1, 1)
    assert not executor.recovered.wait(timeout=0)
    clock.advance(90)
    assert executor.stats().waiting == 1
    clock.advance(10)
    assert executor.recovered.wait(timeout=10)
    executor.shutdown()
    (event,) = succeeded
    assert (event.attempt, event.result, event.job.key) == (2, "later", "later")
    assert {name for _, _, name in Save.seen} == {future.job_id}
    assert [number for _, number, _ in Save.seen] == [1, 2]


def test_recovered_jobs_give_up_as_any_other(journal: Callable[[], Any]) -> None:
    clock = VirtualClock()
    executor = RetryingExecutor(1, journal=journal(), clock=clock)
    future = executor.submit(Save("bad", fails=9, wait=1.0))
    clock.run_until(lambda: future.next_attempt_at is not None)
    executor.shutdown(timeout=0)

    given_up: list[Any] = []
    clock = VirtualClock()
    policy = RetryPolicy(max_attempts=2)
    with RetryingExecutor(
        1, journal=journal(), clock=clock, policy=policy, on_give_up=given_up.append
    ) as executor:
        clock.advance(1)
        assert executor.recovered.wait(timeout=10)
    (event,) = given_up
    assert (event.attempt, event.stop_reason) == (2, StopReason.MAX_ATTEMPTS)
    (letter,) = journal().dead.list()
    assert letter.attempts == 2


def test_takeover_may_exceed_max_pending(journal: Callable[[], Any]) -> None:
    """What is taken over counts as pending, and makes room only for what it exceeds no more."""
    clock = VirtualClock()
    executor = RetryingExecutor(2, journal=journal(), clock=clock)
    futures = [executor.submit(Save(str(n), fails=1, wait=1.0)) for n in range(3)]
    clock.run_until(lambda: all(future.next_attempt_at is not None for future in futures))
    executor.shutdown(timeout=0)

    clock = VirtualClock()
    executor = RetryingExecutor(1, journal=journal(), clock=clock, max_pending=2)
    assert executor.stats().waiting == 3
    submitted = InThread(executor.submit, Save("later"))
    clock.advance(1)
    assert executor.recovered.wait(timeout=10)
    assert submitted.result().result(10) == "later"
    executor.shutdown()


def test_a_journal_takes_registered_jobs_alone(journal: Callable[[], Any]) -> None:
    with RetryingExecutor(1, journal=journal()) as executor:
        with pytest.raises(JobRefused, match="register"):
            executor.submit(print)
        with pytest.raises(TypeError, match="make them its fields"):
            executor.submit(print, "by name")
        assert executor.stats().queued == 0


def test_closed_executor_writes_no_outcomes(journal: Callable[[], Any]) -> None:
    executor = RetryingExecutor(1, journal=journal())
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(Save("late"))
    with RetryingExecutor(1, journal=journal()) as executor:
        assert len(executor.recovered) == 0


def test_a_job_that_the_pool_refuses_is_not_kept(journal: Callable[[], Any]) -> None:
    refused: list[BaseException] = []
    gate = Save.gates["busy"] = Gate()

    class Submits:
        def __call__(self, _: Any) -> None:
            try:
                executor.submit(Save("too many"))
            except PendingLimitError as error:
                refused.append(error)

    executor = RetryingExecutor(
        1, journal=journal(), max_pending=1, on_retry=Submits(), policy=THREE
    )
    future = executor.submit(Save("busy", fails=1))
    gate.open()
    assert future.result(10) == "busy"
    executor.shutdown()
    assert len(refused) == 1
    with RetryingExecutor(1, journal=journal()) as executor:
        assert len(executor.recovered) == 0


def test_one_journal_object_serves_one_executor(journal: Callable[[], Any]) -> None:
    shared = journal()
    with RetryingExecutor(1, journal=shared), pytest.raises(JournalError, match="open already"):
        RetryingExecutor(1, journal=shared)
    with RetryingExecutor(1, journal=shared) as executor:  # closed with the first executor
        assert executor.submit(Save("again")).result(10) == "again"


def test_a_forgotten_executor_closes_its_journal_once_its_jobs_have_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", jobs={"save": Save})
    executor = RetryingExecutor(1, journal=journal)
    future = executor.submit(Save("kept"))
    threads = executor._threads
    del executor
    gc.collect()
    assert future.result(10) == "kept"
    for thread in threads:
        thread.join(10)
    assert repr(journal).endswith("closed>")


def test_accepted_is_on_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", jobs={"save": Save})
    with RetryingExecutor(1, journal=journal) as executor:
        future = executor.submit(Save("x"))
        assert future.accepted.done()
        assert future.job_id == future.entry.id  # type: ignore[attr-defined]


def test_without_a_journal_a_job_has_a_name_and_is_on_no_disk() -> None:
    names: list[str] = []

    def job() -> None:
        names.append(current_attempt().job_id)
        if len(names) < 3:
            raise OSError

    with RetryingExecutor(1, policy=THREE) as executor:
        future = executor.submit(job)
        future.result(10)
        assert names == [future.job_id] * 3
        assert executor.submit(int).job_id != future.job_id
        assert not hasattr(future, "accepted")
        with pytest.raises(AttributeError, match="journal="):
            _ = future.accepted
        assert (len(executor.recovered), executor.recovered.wait(0)) == (0, True)


def test_retry_in_place_has_a_name_for_all_attempts() -> None:
    names: list[str] = []

    def job() -> None:
        names.append(current_attempt().job_id)
        if len(names) < 3:
            raise OSError

    retry(job, policy=THREE)
    assert len(names) == 3
    assert len(set(names)) == 1


def test_on_success_is_called_for_each_success() -> None:
    told: list[Any] = []
    with RetryingExecutor(1, on_success=told.append, policy=RetryPolicy.never()) as executor:
        good = executor.submit(len, "four")
        bad = executor.submit(int, "x")
        assert isinstance(bad.exception(10), ValueError)
    (event,) = told
    assert (event.attempt, event.result, event.job, event.future) == (1, 4, len, good)


def test_journal_is_recognized_by_its_methods() -> None:
    with pytest.raises(TypeError, match="journal takes a retryexec"):
        RetryingExecutor(journal="var/saves")  # type: ignore[arg-type]


def test_killed_while_jobs_wait_and_taken_over_by_the_next(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from retryexec import RetryingExecutor
        from retryexec.journal import Journal
        from journal.test_executor import Save

        executor = RetryingExecutor(1, journal=Journal(sys.argv[1], jobs={"save": Save}))
        for n in range(10):
            executor.submit(Save(str(n), fails=1, wait=100.0))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path / "journal"]
    tests = {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=os.environ | tests, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    clock = VirtualClock()
    journal = Journal(tmp_path / "journal", jobs={"save": Save})
    with RetryingExecutor(1, journal=journal, clock=clock) as executor:
        assert len(executor.recovered) == 10
        while executor.recovered.unfinished:
            clock.advance(100)
        assert executor.stats().succeeded == 10
    assert {key for key, *_ in Save.seen} == {str(n) for n in range(10)}


def test_time_in_which_no_process_ran_does_not_count(tmp_path: Path) -> None:
    """A job that has used little of its max_elapsed gets the rest, however long the break."""
    now = [1000.0]
    jobs = {"save": Save}
    policy = RetryPolicy(max_elapsed=10.0)
    clock = VirtualClock()
    journal = Journal(tmp_path / "journal", jobs=jobs, wall_clock=lambda: now[0])
    executor = RetryingExecutor(1, journal=journal, clock=clock, policy=policy)
    future = executor.submit(Save("x", fails=1, wait=1.0))
    clock.run_until(lambda: future.next_attempt_at is not None)
    executor.shutdown(timeout=0)

    now[0] += 86400.0
    clock = VirtualClock()
    journal = Journal(tmp_path / "journal", jobs=jobs, wall_clock=lambda: now[0])
    with RetryingExecutor(1, journal=journal, clock=clock, policy=policy) as executor:
        clock.advance(1)
        assert executor.recovered.wait(timeout=10)
        assert executor.stats().succeeded == 1


def test_a_closed_executor_leaves_what_it_is_handed(tmp_path: Path) -> None:
    """What is adopted while the executor shuts down stays on disk, for the next."""
    clock = VirtualClock()
    journal = Journal(tmp_path / "journal", jobs={"save": Save})
    executor = RetryingExecutor(1, journal=journal, clock=clock)
    future = executor.submit(Save("x", fails=1, wait=1.0))
    clock.run_until(lambda: future.next_attempt_at is not None)
    entry = future.entry  # type: ignore[attr-defined]
    executor.shutdown(timeout=0)
    closed = RetryingExecutor(1, journal=MemoryJournal(jobs={"save": Save}), clock=clock)
    closed.shutdown()
    journaled: Any = closed._link
    journaled.recover([entry])
    assert repr(closed.recovered) == "<Recovered: 1, 0 unfinished>"
    assert closed.stats().queued == closed.stats().waiting == 0


def test_a_job_due_later_that_never_began_is_taken_over(tmp_path: Path) -> None:
    """As one that the journal releases bit by bit."""
    clock = VirtualClock()
    clock.advance(10_000)  # far more than max_elapsed
    journal = MemoryJournal(jobs={"save": Save})
    with RetryingExecutor(1, journal=journal, clock=clock) as executor:
        entry = journal.accept(Save("x"))
        entry.due_in = 5.0
        journaled: Any = executor._link
        journaled.recover([entry])
        assert (executor.stats().waiting, executor.stats().oldest_wait) == (1, 0.0)
        clock.advance(5)
        assert executor.recovered.wait(10)
    assert [(key, number) for key, number, _ in Save.seen] == [("x", 1)]


class Nameless(type):
    """A class of classes that do not say their names."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__name__", "__qualname__", "__module__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


class Odd(Exception, metaclass=Nameless): ...


@dataclass
class RaisesOdd:
    times: int
    attempts: ClassVar[int] = 0

    def exec(self) -> None:
        RaisesOdd.attempts += 1
        if RaisesOdd.attempts <= self.times:
            raise Odd


def test_an_error_whose_class_raises_costs_no_attempt_and_no_letter(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", jobs={"odd": RaisesOdd})
    policy = RetryPolicy(max_attempts=2, backoff=[0.01])
    RaisesOdd.attempts = 0
    with RetryingExecutor(1, journal=journal, policy=policy) as executor:
        assert executor.submit(RaisesOdd(times=1)).exception(10) is None
        assert type(executor.submit(RaisesOdd(times=99)).exception(10)) is Odd
    assert [letter.reason for letter in journal.dead.list()] == ["max_attempts"]
