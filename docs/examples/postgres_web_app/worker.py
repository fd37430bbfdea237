"""The process that runs what the app puts; start as many of them as you like, on any host.

python worker.py
"""

import signal
import threading

import psycopg
from jobs import DATABASE, JOBS

from retryexec import ExponentialBackoff, RetryingExecutor, RetryPolicy
from retryexec.journal import Journal

POLICY = RetryPolicy(
    max_attempts=None,
    max_elapsed=24 * 3600,
    backoff=ExponentialBackoff(initial_interval=0.1, max_interval=30),
    retry_on=psycopg.OperationalError,
)


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    executor = RetryingExecutor(8, journal=Journal(DATABASE, jobs=JOBS), policy=POLICY)
    stop.wait()
    executor.shutdown(timeout=3)  # what is left is the next worker's at once


if __name__ == "__main__":
    main()
