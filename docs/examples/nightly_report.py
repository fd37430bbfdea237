"""A nightly report: locks the whole database to count what is in it, again and again.

python nightly_report.py DATABASE
"""

import os
import sqlite3
import sys
import time
from contextlib import closing

LOCKED, UNLOCKED = 0.25, 0.25  # seconds


def report(database: str) -> None:
    with closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        print("the nightly report has locked the database, as it will again and again", flush=True)
        started_by = os.getppid()
        while os.getppid() == started_by:  # and no longer: nobody would ever end it
            connection.execute("SELECT activity, count(*) FROM activity GROUP BY activity")
            time.sleep(LOCKED)  # the report is thorough
            connection.execute("COMMIT")
            time.sleep(UNLOCKED)
            connection.execute("BEGIN EXCLUSIVE")


if __name__ == "__main__":
    report(sys.argv[1])
