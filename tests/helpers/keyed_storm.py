"""What a process does that saves under keys until it is killed, and the ledger that all write."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from retryexec import FullJitterBackoff, RetryingExecutor, RetryPolicy
from retryexec.journal import Journal

KINDS = ("all", "latest")
KEYS = 3  # of each kind, for each process


@dataclass(frozen=True)
class Run:
    """Writes into the ledger that it runs: the *n*-th save of a key of the process *owner*."""

    kind: str
    owner: int
    index: int
    n: int

    ledger: ClassVar[int] = -1

    @property
    def key(self) -> tuple[str, int, int]:
        return self.kind, self.owner, self.index

    def note(self, what: str) -> None:
        line = f"{what} {self.kind} {self.owner} {self.index} {self.n} {os.getpid()}\n"
        os.write(self.ledger, line.encode())

    def exec(self) -> None:
        self.note("starts")
        time.sleep(random.uniform(0, 0.03) if self.kind == "latest" else 0.001)
        if random.random() < 0.2:
            self.note("fails")
            raise OSError("busy")
        self.note("ends")


def opened(place: Path, workers: int = 4) -> tuple[RetryingExecutor, Journal]:
    """Return an executor and its journal, which is in *place* as the ledger is."""
    Run.ledger = os.open(place / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    journal = Journal(place / "journal", jobs={"run": Run}, poll=0.05, max_crashes=1000)
    policy = RetryPolicy(max_attempts=None, backoff=FullJitterBackoff(0.001, max_interval=0.02))
    return RetryingExecutor(workers, policy=policy, journal=journal, max_pending=100), journal


def storm(place: Path) -> None:
    """Save until killed."""
    executor, _ = opened(place)
    views = {
        kind: executor.using(key=lambda run: run.key, keep=kind)  # type: ignore[arg-type]
        for kind in KINDS
    }

    def submit(kind: str) -> None:
        n = 0
        while True:
            for index in range(KEYS):
                n += 1
                run = Run(kind, os.getpid(), index, n)
                views[kind].submit(run)
                run.note("accepted")

    for kind in KINDS:
        threading.Thread(target=submit, args=(kind,), daemon=True).start()
    threading.Event().wait()
