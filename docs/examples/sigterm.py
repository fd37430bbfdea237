"""Let SIGTERM end the process as sys.exit() does: everything accepted is finished first.

Without a handler, SIGTERM kills a Python process on the spot, and what is in memory with it.
"""

import signal
import sys
import time

from retryexec import ConstantBackoff, RetryingExecutor, RetryPolicy

failures = iter([OSError("database is locked"), OSError("database is locked")])


def save() -> None:
    for failure in failures:
        raise failure
    print("saved", flush=True)


def main() -> None:
    # In the main thread, like every signal handler: SystemExit leaves the block below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with RetryingExecutor(policy=RetryPolicy(backoff=ConstantBackoff(0.2))) as executor:
        executor.submit(save)
        print("serving", flush=True)
        while True:
            # What a service does all day, in steps: Python sees a signal that comes just before a
            # wait only after it, so a wait without an end could go on for ever.
            time.sleep(0.5)


if __name__ == "__main__":
    main()
