"""Several processes save under keys, and are killed at random; a ledger outside tells.

Each has keys of its own, and what it leaves is run by the others: one attempt of a key at a time,
in the order of acceptance, or the newest alone. RETRYEXEC_CHAOS is the number of seconds.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TypeAlias

import pytest
from helpers import TESTS
from helpers.keyed_storm import opened

SECONDS = float(os.environ.get("RETRYEXEC_CHAOS", "5"))
PROCESSES = 3

Key: TypeAlias = tuple[str, str, str]


def started(place: Path) -> subprocess.Popen[bytes]:
    script = "import sys, pathlib\nfrom helpers.keyed_storm import storm\n"
    script += "storm(pathlib.Path(sys.argv[1]))"
    return subprocess.Popen(
        [sys.executable, "-c", script, str(place)], env={**os.environ, "PYTHONPATH": str(TESTS)}
    )


def killed(process: subprocess.Popen[bytes], place: Path) -> None:
    process.kill()
    process.wait()
    with (place / "ledger").open("a") as ledger:
        ledger.write(f"killed - - - 0 {process.pid}\n")


class Ledger:
    """What the ledger says, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        self.accepted: dict[Key, set[int]] = defaultdict(set)
        self.ended: dict[Key, set[int]] = defaultdict(set)
        self.events: Counter[str] = Counter()
        self.wrong: list[str] = []
        at_work: dict[Key, str] = {}
        latest: dict[tuple[Key, str], int] = {}  # that ended, of a key in a process
        dead: set[str] = set()
        for line in text.splitlines():
            what, kind, owner, index, number, pid = line.split()
            key, n = (kind, owner, index), int(number)
            self.events[what] += 1
            if what == "killed":
                dead.add(pid)
            elif what == "accepted":
                self.accepted[key].add(n)
            elif what == "starts":
                if at_work.get(key, pid) not in dead and key in at_work:
                    self.wrong.append(f"two at a time: {line}")
                if n < latest.get((key, pid), 0):
                    self.wrong.append(f"an older one after a newer one: {line}")
                at_work[key] = pid
            else:
                at_work.pop(key, None)
                if what == "ends":
                    self.ended[key].add(n)
                    latest[key, pid] = max(n, latest.get((key, pid), 0))


@pytest.mark.slow("goes on for RETRYEXEC_CHAOS seconds, five by default")
@pytest.mark.timeout(SECONDS * 3 + 120)
def test_keys_of_processes_killed_at_random(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("RETRYEXEC_SEED", "1")))
    (tmp_path / "ledger").touch()
    processes = [started(tmp_path) for _ in range(PROCESSES)]
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.3, 1.5))
            victim = processes.pop(chance.randrange(PROCESSES))
            killed(victim, tmp_path)
            processes.append(started(tmp_path))
    finally:
        for process in processes:
            killed(process, tmp_path)
    executor, journal = opened(tmp_path)  # which has no keys of its own
    with executor:
        while journal.poll() or journal.stats().unfinished:
            assert executor.recovered.wait(60)
            assert journal.flush(10)
        left = len(executor.recovered)

    told = Ledger((tmp_path / "ledger").read_text())
    print(f"\n{dict(told.events)}, {left} left at the end")  # noqa: T201  for whoever runs it with -s
    assert told.events["killed"] > PROCESSES
    assert told.events["accepted"] > 100
    assert told.wrong == []
    for key, numbers in told.accepted.items():
        if key[0] == "all":
            assert numbers <= told.ended[key], key
        else:
            assert max(numbers) <= max(told.ended[key], default=0), key
    assert [path.name for path in (tmp_path / "journal").glob("*.db")] == []
