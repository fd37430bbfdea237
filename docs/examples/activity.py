"""A job that saves what a user did, into a SQLite database that others use as well.

retryexec run docs/examples/activity.py:UserActivitySaver docs/examples/activity.jsonl
"""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

DATABASE = os.environ.get("ACTIVITY_DB", "activity.db")


@dataclass(frozen=True)
class UserActivitySaver:
    id: int
    user_email: str
    activity: str
    at: datetime
    ip: str | None = None

    def exec(self) -> None:
        # Give up on a locked database soon: retrying it later holds no thread meanwhile.
        with closing(sqlite3.connect(DATABASE, timeout=0.01)) as database, database:
            database.execute(
                # By its id, so that an attempt repeated by mistake saves nothing twice.
                "INSERT OR REPLACE INTO activity VALUES (?, ?, ?, ?, ?)",
                (self.id, self.user_email, self.activity, self.at.isoformat(), self.ip),
            )
