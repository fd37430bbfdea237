"""Files of dead owners that are damaged at random, and rows that somebody else has written.

Each damaged thing costs itself alone: the journal opens, what can be read comes back as it was and
once, what has ended does not come back, and whoever looks is told what is wrong.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.damage import KINDS, SMALL, Left, leave
from helpers.journal_kit import FakeHost, Save, memory, settled

from retryexec.journal import Inspector, Journal
from retryexec.journal._check import check
from retryexec.journal._errors import Newer

SECONDS = float(os.environ.get("RETRYEXEC_CHAOS", "24")) / 3
SEED = int(os.environ.get("RETRYEXEC_SEED", "1"))


# ---- what a dead owner leaves


@pytest.fixture(scope="module")
def templates() -> Iterator[list[Left]]:
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        place = Path(name)
        yield [
            leave(place / "few", 40, letters=5, log=False),
            leave(place / "many", 1500, letters=40, log=False),
            leave(place / "log", 300, letters=5, log=True),
        ]


# ---- what becomes of it


class Outcome(NamedTuple):
    """What came of the jobs of a damaged directory."""

    ran: dict[str, Save]
    parked: int
    letters: set[str]
    newer: bool  # whether a version was damaged, so that it looks like a later one


def take_over(directory: Path) -> Outcome:
    """Open the journal as the next process would, end all jobs, and look at it again."""
    ran: dict[str, Save] = {}
    parked, letters, newer = 0, set[str](), False
    for look in range(3):
        host = FakeHost()
        journal = Journal(directory, jobs={"save": Save}, poll=3600)
        journal.open(host)
        try:
            journal.poll()
            done = 0
            while True:
                assert journal.flush(20)
                new = host.recovered[done:]
                for entry in new:
                    assert look == 0, f"{entry} came back after its end"
                    assert entry.id not in ran, f"{entry} came twice"
                    ran[entry.id] = entry.job
                    journal.succeeded(entry)
                done += len(new)
                if settled(journal) and len(host.recovered) == done:
                    break
            with suppress(Newer):
                for letter in journal.dead:
                    assert isinstance(letter.reason, str)
                    assert isinstance(letter.errors, tuple)
                assert journal.stats().healthy
        finally:
            journal.close()
        inspector = Inspector(directory)
        parked = sum(job.state == "parked" for job in inspector.jobs())
        findings = [*check(inspector)]
        assert all(str(finding.text) for finding in findings)
        letters = {
            letter.id for letter in inspector.letters() if not letter.reason.startswith("damaged")
        }
        inspector.stats()
        newer = any(finding.about == "version" for finding in findings)
    return Outcome(ran, parked, letters, newer)


def damaged(template: Left, seed: int) -> tuple[str, Outcome]:
    """Damage a copy of *template*, take it over, and return what was done and what came of it."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        directory = Path(name) / "journal"
        shutil.copytree(template.path, directory)
        told = []
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            files = [path for path in sorted(directory.iterdir()) if path.is_file()]
            path, kind = chance.choice(files), chance.choice(KINDS)
            with suppress(FileNotFoundError):
                kind(path, chance)
            told.append(f"{kind.__name__} {path.name[-8:]}")
        for path in directory.iterdir():  # so that nobody waits for a lock to be made anew
            if not path.is_symlink() and not path.is_fifo():
                os.utime(path, (1, 1))
        words = f"{template.path.name}, seed {seed}: {', '.join(told)}"
        started = time.monotonic()
        try:
            before = [*check(Inspector(directory))]
            outcome = take_over(directory)
            hold(template, told, outcome)
            # Who looks before the next process comes is told, if anything is missing.
            there = len(outcome.ran) + outcome.parked
            assert before or there == len(template.jobs) or len(told) > 1, "check says all is well"
        except BaseException as error:
            error.add_note(words)
            raise
        assert time.monotonic() - started < 30, words
        return words, outcome


def hold(template: Left, told: list[str], outcome: Outcome) -> None:
    """Check what must hold, whatever was damaged."""
    # A bit that is flipped in a text, and leaves it a text, nobody can see.
    changed = {name for name, job in outcome.ran.items() if template.jobs.get(name) != job}
    assert len(changed) <= sum(what.startswith("flip") for what in told)
    there = len(outcome.ran) + outcome.parked
    assert there <= len(template.jobs)
    if len(told) > 1 or outcome.newer:
        return
    kind, _, name = told[0].partition(" ")
    if name.endswith((".lock", "-shm", "dead.db")) or "journal" in name:
        assert there == len(template.jobs), "a job is missing"
    elif not template.in_log and kind in {kind.__name__ for kind in SMALL}:
        # A page holds some twenty rows; an inner one leads to all of them, and is gone round.
        assert there >= len(template.jobs) - 60, f"{len(template.jobs) - there} jobs are missing"
    if not name.endswith("dead.db"):
        assert outcome.letters == template.letters


@pytest.mark.timeout(60 + 3 * SECONDS)
def test_damage_costs_itself_alone(templates: list[Left]) -> None:
    due = time.monotonic() + SECONDS
    tried = 0
    for seed in count(SEED * 1_000_000):
        damaged(templates[seed % len(templates)], seed)
        tried += 1
        if time.monotonic() > due:
            break
    print(f"{tried} damaged directories")  # noqa: T201
