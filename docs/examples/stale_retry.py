"""A stale retry overwrites a newer save: with a loop of retries in a pool, and not with a key."""

import time
from concurrent.futures import ThreadPoolExecutor

from retryexec import ConstantBackoff, RetryingExecutor, RetryPolicy


class Database:
    """Keeps the name of each user; the first save finds it locked."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.locked = True

    def save(self, user: str, name: str) -> None:
        """Save the name."""
        if self.locked:
            self.locked = False
            raise OSError("the database is locked")
        self.names[user] = name


def save_with_retries(database: Database, user: str, name: str) -> None:
    """Try until it succeeds, as tenacity's decorator does: the thread sleeps in between."""
    while True:
        try:
            return database.save(user, name)
        except OSError:
            time.sleep(0.2)


def in_a_pool() -> str:
    """Save two names, one after the other, by a pool whose jobs retry."""
    database = Database()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(save_with_retries, database, "ann", "Ann Old")
        time.sleep(0.05)
        pool.submit(save_with_retries, database, "ann", "Ann New")
    return database.names["ann"]


def with_a_key() -> str:
    """Do the same with a key."""
    database = Database()
    policy = RetryPolicy(backoff=ConstantBackoff(0.2))
    with RetryingExecutor(2, policy=policy, key=lambda user, _: user) as executor:
        executor.submit(database.save, "ann", "Ann Old")
        time.sleep(0.05)
        executor.submit(database.save, "ann", "Ann New")
    return database.names["ann"]


if __name__ == "__main__":
    print("retries in a pool:", in_a_pool())
    print("with a key:       ", with_a_key())
