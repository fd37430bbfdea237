"""What the web apps beside this file share: a job, and the executor that runs it."""

import logging
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Literal

from retryexec import ExponentialBackoff, GiveUp, RetryingExecutor, RetryPolicy, current_attempt
from retryexec.journal import Journal

logger = logging.getLogger("saves")

DATABASE = os.environ.get("SAVES_DATABASE", "activity.db")
JOURNAL = os.environ.get("SAVES_JOURNAL", "var/saves")

POLICY = RetryPolicy(
    max_attempts=None,  # a day's worth of them, each soon enough after the last one
    max_elapsed=24 * 3600,
    backoff=ExponentialBackoff(initial_interval=0.1, max_interval=30),
    retry_on=sqlite3.OperationalError,  # locked, full, out of reach: it may go away
)


@dataclass(frozen=True)
class SaveActivity:
    user_email: str
    activity: str

    def exec(self) -> None:
        with closing(sqlite3.connect(DATABASE, timeout=1)) as database, database:
            database.execute(
                "INSERT INTO activity(id, user_email, activity) VALUES(?, ?, ?) "
                "ON CONFLICT(id) DO NOTHING",
                (current_attempt().job_id, self.user_email, self.activity),
            )


def make_saver(accept: Literal["wait", "async"] = "wait") -> RetryingExecutor:
    """Return a new executor, which takes over what dead processes have left."""
    journal = Journal(JOURNAL, jobs={"save_activity": SaveActivity}, accept=accept)
    return RetryingExecutor(4, policy=POLICY, journal=journal, on_give_up=tell)


@cache
def saver() -> RetryingExecutor:
    """Return this process's executor, made when it is first asked for."""
    return make_saver()


def tell(event: GiveUp) -> None:
    assert event.future is not None  # as of any job of an executor
    logger.error("job %s is a dead letter: %s", event.future.job_id, event.stop_reason)
