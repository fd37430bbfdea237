"""A job as a list shows it, wherever it was found: on disk, dead, or living in this process."""

import time
from dataclasses import dataclass
from typing import Any

from retryexec import PendingJob, RetryFuture
from retryexec._shapes import text_shape
from retryexec.journal import Owner, UnfinishedJob
from retryexec.journal._keys import key_or_text
from retryexec.journal._rows import DAMAGED, LetterRow, errors_of
from retryexec.web._causes import Cause, cause_of
from retryexec.web._filter import key_text


@dataclass(frozen=True, slots=True)
class Line:
    """A job as a list shows it.

    Attributes:
        id, kind, key, state: what it is called, and where it is.
        attempts, crashes: how many there were.
        since: when it was accepted, or died; seconds of the wall clock, None if nobody knows.
        due: seconds until its next attempt; None if it waits for no time.
        cause: what its latest attempt failed of.
        note: what holds it, why it is parked, or that it is stale.
        owner: whose it is, in words.
        future: of a live executor's job, by which it can be steered.
        stale: whether a later job of its key has succeeded since.
    """

    id: str
    kind: str
    key: str
    state: str
    attempts: int
    crashes: int
    since: float | None
    due: float | None
    cause: Cause
    note: str
    owner: str
    future: RetryFuture[Any] | None = None
    stale: bool = False


def letter_line(row: LetterRow) -> Line:
    """Return a dead letter as a list shows it."""
    note = "stale: a later job of its key has succeeded since" if row.stale else ""
    if row.reason.startswith(DAMAGED):
        note = row.reason
    return Line(
        row.id,
        row.kind,
        key_text(key_or_text(row.key)),
        "dead",
        row.attempts,
        row.crashes,
        row.died_at,
        None,
        cause_of(errors_of(row.errors), row.reason),
        note,
        "",
        stale=bool(row.stale),
    )


def job_line(job: UnfinishedJob) -> Line:
    """Return a job on disk as a list shows it."""
    due = None if job.due_at is None else max(0.0, job.due_at - time.time())
    return Line(
        job.id,
        job.kind,
        key_text(job.key),
        job.state,
        job.attempts,
        job.crashes,
        job.accepted_at,
        due if job.state == "waiting" else None,
        cause_of(job.errors, ""),
        job.parked or "",
        owner_text(job.owner),
    )


def live_line(job: PendingJob) -> Line:
    """Return a job of this process as a list shows it."""
    type_, _, text = (job.last_error or "").partition(": ")
    text = " ".join(text.split())
    return Line(
        job.future.job_id,
        job.name,
        key_text(job.key),
        job.state,
        job.attempts,
        0,
        None,
        job.due_in,
        Cause(type_, text, text_shape(text)),
        f"held by {job.held_by}" if job.held_by is not None else "",
        "this process",
        job.future,
    )


def owner_text(owner: Owner) -> str:
    """Return whose a job is: ``process 7``, ``a process that ended``."""
    if owner.alive:
        return "a process" if owner.pid is None else f"process {owner.pid}"
    return {"0": "nobody yet", "-1": "nobody"}.get(owner.name, "a process that has ended")
