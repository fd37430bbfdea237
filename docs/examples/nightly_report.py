"""A nightly report: locks the whole database to count what is in it, again and again.

python nightly_report.py DATABASE
"""

import sqlite3
import sys
import time
from contextlib import closing

LOCKED, UNLOCKED = 0.4, 0.4  # seconds


def report(database: str) -> None:
    with closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as connection:
        while True:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("SELECT activity, count(*) FROM activity GROUP BY activity")
            time.sleep(LOCKED)  # the report is thorough
            connection.execute("COMMIT")
            time.sleep(UNLOCKED)


if __name__ == "__main__":
    report(sys.argv[1])
