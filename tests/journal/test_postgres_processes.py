"""Real processes on one server: one is killed, or stopped for longer than its lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from helpers import TESTS
from helpers.postgres import Schema, serving, until

from retryexec import RetryingExecutor, RetryPolicy, current_attempt

pytestmark = pytest.mark.timeout(120)

LEASE = 1.5
WORKERS = 4

SCRIPT = """
import os, sys, time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from retryexec import RetryingExecutor
from retryexec.journal import Journal

url, schema, folder, lease, workers, jobs = sys.argv[1:]
gate, ledger = Path(folder, "gate"), Path(folder, "ledger")

@dataclass
class Numbered:
    number: int

    def exec(self):
        with ledger.open("a") as file:
            file.write(f"{self.number}\\n")
        while not gate.exists():
            time.sleep(0.01)

journal = Journal(
    url, schema=schema, jobs={"numbered": Numbered}, lease=float(lease), poll=3600, accept="async"
)
executor = RetryingExecutor(int(workers), journal=journal)
futures = [executor.submit(Numbered(n)) for n in range(int(jobs))]
journal.flush()
while executor.stats().running < int(workers):
    time.sleep(0.01)
print("ready", flush=True)
sys.stdin.readline()
reasons = Counter()
for future in futures:
    future.exception()
    reasons[future.stop_reason and future.stop_reason.value] += 1
executor.submit(Numbered(-1)).result()
journal.flush()
print(dict(reasons), flush=True)
os._exit(0)  # what it has in hand is nobody's but its own
"""


@dataclass
class Numbered:
    """The same job, as the test's own process runs it: it is just counted."""

    number: int
    runs: ClassVar[Counter[int]] = Counter()
    ids: ClassVar[dict[int, str]] = {}

    def exec(self) -> None:
        self.ids[self.number] = current_attempt().job_id
        self.runs[self.number] += 1


@contextmanager
def process(schema: Schema, folder: Path, jobs: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has accepted so many *jobs*, `WORKERS` of which are at work."""
    Numbered.runs.clear()
    popen = subprocess.Popen(
        [
            *(sys.executable, "-c", textwrap.dedent(SCRIPT), schema.url, schema.name),
            *map(str, (folder, LEASE, WORKERS, jobs)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    try:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "ready\n"
        yield popen
    finally:
        popen.kill()
        popen.communicate(timeout=30)


@contextmanager
def other(schema: Schema) -> Iterator[RetryingExecutor]:
    """Run what the process leaves; nobody looks for that but who knows when its lease ends."""
    journal = schema(
        jobs={"numbered": Numbered}, poll=3600, lease=LEASE, grace=LEASE, max_crashes=1000
    )
    with RetryingExecutor(WORKERS, journal=journal, policy=RetryPolicy.never()) as executor:
        yield executor


def test_all_jobs_of_a_process_that_was_killed_are_run_once_its_lease_ends(
    schema: Schema, tmp_path: Path
) -> None:
    with process(schema, tmp_path, 3000) as killed, other(schema):
        killed.send_signal(signal.SIGKILL)
        until(lambda: len(Numbered.runs) == 3000)
    assert {*Numbered.runs.values()} == {1}
    assert schema.query("SELECT count(*) FROM {s}.job") == [(0,)]


@pytest.mark.skipif("RETRYEXEC_CHAOS" not in os.environ, reason="run by make chaos-postgres")
@pytest.mark.slow("accepts 10,000 jobs and waits for a lease to end, on a server of its own")
def test_ten_thousand_jobs_of_a_process_that_was_killed_are_taken_soon_after_its_lease(
    tmp_path: Path,
) -> None:
    """Within three seconds, by the server's own times of the commits that took them."""
    with serving(durable=True) as server:
        schema = Schema(server.url, "taken")
        schema.query("ALTER SYSTEM SET track_commit_timestamp=on")
        server.restart()
        with process(schema, tmp_path, 10_000) as killed, other(schema) as executor:
            executor.pause()
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            ((life, ends),) = schema.query(
                "SELECT id, lease_until FROM {s}.owner WHERE pid=%s", killed.pid
            )
            left = "SELECT count(*) FROM {s}.job WHERE owner=%s"
            until(lambda: schema.query(left, life) == [(0,)])
            ((rows, last),) = schema.query(
                "SELECT count(*), max(pg_xact_commit_timestamp(xmin)) FROM {s}.job"
            )
            assert rows == 10_000
            after = (last - ends).total_seconds()
            print(f"\n10,000 jobs were taken {after:.2f} s after the lease")  # noqa: T201
            assert after <= 3.0
            executor.shutdown(cancel_futures=True)


def test_a_process_that_was_stopped_past_its_lease_starts_nothing_that_others_have(
    schema: Schema, tmp_path: Path
) -> None:
    """What was at work there is run twice, and ends there as it ends; all else is told to be
    another's, and it goes on with what is new.
    """
    with process(schema, tmp_path, 300) as stopped, other(schema):
        stopped.send_signal(signal.SIGSTOP)
        until(lambda: len(Numbered.runs) == 300)
        (tmp_path / "gate").touch()
        stopped.send_signal(signal.SIGCONT)
        out, _ = stopped.communicate("go on\n", timeout=60)
    assert out == f"{{'succeeded': {WORKERS}, 'moved': {300 - WORKERS}}}\n"
    started = [int(line) for line in (tmp_path / "ledger").read_text().split()]
    assert len(started) == WORKERS + 1
    assert started[-1] == -1
    assert {*Numbered.runs.values()} == {1}
    assert schema.query("SELECT count(*) FROM {s}.job") == [(0,)]


def test_what_a_stopped_process_has_ended_meanwhile_ends_nothing_of_the_others(
    schema: Schema, tmp_path: Path
) -> None:
    """An end that is written too late must not remove the row of who runs the job now."""
    with process(schema, tmp_path, WORKERS) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        with other(schema) as executor:
            executor.pause()
            until(lambda: len(executor.recovered) == WORKERS)
            (tmp_path / "gate").touch()
            stopped.send_signal(signal.SIGCONT)
            stopped.communicate("go on\n", timeout=60)
            rows = schema.query("SELECT count(*) FROM {s}.job WHERE owner>0")
            assert rows == [(WORKERS,)]
            executor.resume()
            until(lambda: len(Numbered.runs) == WORKERS)
    assert schema.query("SELECT count(*) FROM {s}.job") == [(0,)]
