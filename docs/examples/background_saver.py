"""Save a user's activity in the background: five attempts, and a word about every error."""

import time
from dataclasses import dataclass

from retryexec import ConstantBackoff, GiveUp, Retry, RetryingExecutor, RetryPolicy


def save_to_db(email: str, activity: str) -> None:
    time.sleep(0.05)  # what a database takes
    if email == "user@example.com":
        raise OSError("mocking an error")
    print(f"saved for {email}: {activity}")


@dataclass(frozen=True)
class UserActivitySaver:
    """All that the job needs is in here, so nothing can change under its feet."""

    user_email: str
    activity: str

    def exec(self) -> None:
        save_to_db(self.user_email, self.activity)


def on_retry(event: Retry) -> None:
    print(f"attempt {event.attempt} failed: {event.exception}")


def on_give_up(event: GiveUp) -> None:
    print(f"gave up after attempt {event.attempt}: {event.exception} ({event.stop_reason})")


def main() -> None:
    policy = RetryPolicy(max_attempts=5, backoff=ConstantBackoff(0.02))
    with RetryingExecutor(policy=policy, on_retry=on_retry, on_give_up=on_give_up) as executor:
        executor.submit(UserActivitySaver("john@example.com", "Login Success"))
        executor.submit(UserActivitySaver("user@example.com", "Login Success"))
        print("submitted")
    # The end of the block has waited for both, retries included.
    print("done")


if __name__ == "__main__":
    main()
