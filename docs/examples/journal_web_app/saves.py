"""A web app that says yes to a save when it is in the journal, and saves it in the background.

gunicorn --config gunicorn_conf.py --workers 2 saves:app
"""

import json
import logging
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from retryexec import ExponentialBackoff, GiveUp, RetryingExecutor, RetryPolicy, current_attempt
from retryexec.journal import JobRefused, Journal, JournalError

logger = logging.getLogger("saves")

DATABASE = os.environ.get("SAVES_DATABASE", "activity.db")
JOURNAL = os.environ.get("SAVES_JOURNAL", "var/saves")

POLICY = RetryPolicy(
    max_attempts=None,  # a day's worth of them, each soon enough after the last one
    max_elapsed=24 * 3600,
    backoff=ExponentialBackoff(initial_interval=0.1, max_interval=30),
    # Locked, full, out of reach. What else goes wrong does not go away.
    retry_on=sqlite3.OperationalError,
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


journal = Journal(JOURNAL, jobs={"save_activity": SaveActivity})


@cache
def saver() -> RetryingExecutor:
    """Return this process's executor, made when it is first asked for."""
    return RetryingExecutor(4, policy=POLICY, journal=journal, on_give_up=tell)


def tell(event: GiveUp) -> None:
    assert event.future is not None  # as of any job of an executor
    logger.error("job %s is a dead letter: %s", event.future.job_id, event.stop_reason)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    status, answer = save(environ) if environ["REQUEST_METHOD"] == "POST" else health()
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def save(environ: WSGIEnvironment) -> tuple[str, dict[str, Any]]:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        job = SaveActivity(**json.loads(environ["wsgi.input"].read(length)))
        future = saver().submit(job)
    except (ValueError, TypeError, JobRefused) as error:
        return "400 Bad Request", {"error": str(error)}
    except JournalError as error:  # the disk is full, say: nothing is accepted
        return "503 Service Unavailable", {"error": str(error)}
    return "202 Accepted", {"id": future.job_id}


def health() -> tuple[str, dict[str, Any]]:
    jobs, disk = saver().stats(), journal.stats()
    answer = {
        "pid": os.getpid(),
        "unfinished": disk.unfinished,
        "parked": disk.parked,
        "dead": disk.dead,
        "oldest_wait": jobs.oldest_wait,
        "healthy": disk.healthy,
    }
    return "200 OK" if disk.healthy else "503 Service Unavailable", answer
