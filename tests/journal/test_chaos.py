"""Several processes accept and run jobs, and are killed and stopped at random.

A ledger outside, appended to by all of them, says afterwards what was accepted, run, and when.
RETRYEXEC_CHAOS is the number of seconds; a few by default.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from journal_kit import Process, opened

SECONDS = float(os.environ.get("RETRYEXEC_CHAOS", "4"))

WORKER = """
import random
ledger = os.open(sys.argv[1] + "/../ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
me = os.getpid()

def note(what, id):
    os.write(ledger, f"{what} {id} {me}\\n".encode())

def run(entry):
    note("starts", entry.id)
    dice = random.random()
    if dice < 0.05 and entry.attempts < 3:
        journal.retrying(entry, entry.attempts + 1, 0.0, OSError("busy"))
        note("fails", entry.id)
        return run(entry)
    if dice < 0.07:
        note("dies", entry.id)
        journal.died(entry, "permanent", entry.attempts + 1)
    else:
        note("ends", entry.id)
        journal.succeeded(entry)

def recovered():
    while True:
        run(host._arrivals.get())

def submit():
    n = 0
    while True:
        entry = journal.accept(Save("chaos", n))
        note("accepted", entry.id)
        run(entry)
        n += 1

def adopt():
    while True:
        threading.Event().wait(0.05)
        journal.poll()

say("up")
for target in (recovered, submit, submit, adopt):
    threading.Thread(target=target, daemon=True).start()
threading.Event().wait()
"""


class Told(NamedTuple):
    """What the ledger says."""

    accepted: set[str]
    ended: set[str]
    died: set[str]
    runs: Counter[str]
    overlaps: list[str]  # starts of a job that was at work in a living process


def read(ledger: Path) -> Told:
    told = Told(set(), set(), set(), Counter(), [])
    at_work: dict[str, str] = {}
    gone: set[str | None] = {None}
    for line in ledger.read_text().splitlines():
        what, job, pid = line.split()
        if what == "killed":
            gone.add(pid)
        elif what == "accepted":
            told.accepted.add(job)
        elif what == "starts":
            if at_work.get(job) not in gone | {pid}:
                told.overlaps.append(line)
            at_work[job] = pid
            told.runs[job] += 1
        else:
            at_work.pop(job, None)
            if what != "fails":
                (told.died if what == "dies" else told.ended).add(job)
    return told


@pytest.mark.timeout(SECONDS * 3 + 60)
def test_row_01_processes_killed_at_random(tmp_path: Path) -> None:
    directory, ledger = tmp_path / "journal", tmp_path / "ledger"
    chance = random.Random(int(os.environ.get("RETRYEXEC_SEED", "1")))
    processes = [Process(directory, WORKER, wait=False) for _ in range(3)]
    killed = []
    end = time.monotonic() + SECONDS
    try:
        for process in processes:
            process.until("up")
        while time.monotonic() < end:
            place = chance.randrange(len(processes))
            victim = processes[place]
            time.sleep(chance.uniform(0.02, 0.3))
            if chance.random() < 0.3:
                victim.popen.send_signal(signal.SIGSTOP)
                time.sleep(chance.uniform(0.05, 0.3))
                victim.popen.send_signal(signal.SIGCONT)
                continue
            with ledger.open("a") as file:
                file.write(f"killed - {victim.popen.pid}\n")
            victim.kill()
            killed.append(victim.popen.pid)
            processes[place] = Process(directory, WORKER, wait=False)
            processes[place].until("up")
    finally:
        for process in processes:
            with ledger.open("a") as file:
                file.write(f"killed - {process.popen.pid}\n")
            process.kill()
    # The last one finishes what is left.
    journal, host = opened(directory)
    left = 0
    while journal.poll() or journal.stats().unfinished:
        while not host._arrivals.empty():
            entry = host.next()
            with ledger.open("a") as file:
                file.write(f"starts {entry.id} 0\nends {entry.id} 0\n")
            journal.succeeded(entry)
            left += 1
        assert journal.flush(10)
    dead = {letter.id for letter in journal.dead}
    journal.close()

    told = read(ledger)
    crashed = dead - told.died  # suspected once too often
    again = sum(n - 1 for n in told.runs.values())
    print(  # noqa: T201  for whoever runs it with -s
        f"{len(killed)} killed, {len(told.accepted)} accepted, {left} left at the end, "
        f"{len(dead)} dead ({len(crashed)} by crashes), {again} attempts after a first"
    )
    assert killed
    assert len(told.accepted) > 100
    assert told.accepted <= told.ended | dead, "lost"
    assert told.overlaps == []
    # The dead letters are all that is left, and whole: a journal that some process had only begun
    # to write stays until the next one writes.
    assert {path.name for path in directory.iterdir()} <= {"dead.db", "dead.db-journal"}
    with closing(sqlite3.connect(directory / "dead.db")) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
