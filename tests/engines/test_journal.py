"""A journal beside an engine: its marks are of this process, whatever happens to the others."""

import os
import subprocess
import sys
from pathlib import Path

from helpers import TESTS, remote

from retryexec import RetryingExecutor, RetryPolicy, StopReason, ZeroBackoff
from retryexec.engines import processes
from retryexec.journal import Journal

AT_ONCE = RetryPolicy(backoff=ZeroBackoff())


JOBS: dict[str, type] = {"save": remote.Save, "kill": remote.Kill, "meet": remote.Meet}


def test_crash_of_an_engine_is_none_of_this_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", jobs=JOBS)
    with RetryingExecutor(
        policy=AT_ONCE, journal=journal, attempts_on=processes(2, max_crashes=3)
    ) as executor:
        futures = [executor.submit(remote.Save(i)) for i in range(20)]
        killer = executor.submit(remote.Kill(str(tmp_path / "runs")))
        futures += [executor.submit(remote.Save(i)) for i in range(20, 40)]
        assert [future.result(50) for future in futures] == [
            (i, future.job_id) for i, future in enumerate(futures)
        ]
        assert killer.exception(50) is not None
    assert len((tmp_path / "runs").read_text().splitlines()) == 3
    with Journal(tmp_path / "journal", jobs=JOBS) as after:
        (letter,) = after.dead
        assert (letter.reason, letter.attempts, letter.crashes) == (StopReason.CRASHED, 0, 0)
        assert after.stats().unfinished == 0


CHILD = """
import sys
from pathlib import Path
from helpers.remote import Meet
from retryexec import RetryingExecutor
from retryexec.engines import processes
from retryexec.journal import Journal

if __name__ == "__main__":
    journal = Journal(Path(sys.argv[1]) / "journal", jobs={"meet": Meet})
    executor = RetryingExecutor(journal=journal, attempts_on=processes(1))
    executor.submit(Meet(sys.argv[1])).result()
"""


def test_process_killed_while_an_attempt_is_away(tmp_path: Path) -> None:
    """What ran there ends with it, and the next process runs the job again."""
    script = tmp_path / "script.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.kill()
        assert process.stdout.read() == b""  # once nobody is left to write there
    journal = Journal(tmp_path / "journal", jobs=JOBS)
    successes = []
    with RetryingExecutor(journal=journal, on_success=successes.append) as executor:
        assert executor.recovered.wait(30)
    assert [success.result for success in successes] == [1]
