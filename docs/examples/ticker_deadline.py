"""A loop with a deadline: five minutes of attempts, and then no more.

On a virtual clock, so that the five minutes take no time; leave `clock=` out for the real one.
"""

from retryexec import CancelToken, Clock, ConstantBackoff, Ticker
from retryexec.testing import VirtualClock


def operation() -> None:
    raise ConnectionError("refused")


def main(clock: Clock) -> None:
    deadline = CancelToken(timeout=5 * 60, clock=clock)
    for tick in Ticker(ConstantBackoff(70), cancel=deadline, clock=clock):
        try:
            operation()
        except ConnectionError as error:
            print(f"{tick:3.0f} s: {error}")
        else:
            break
    else:
        print(f"{clock.now():3.0f} s: out of time")


if __name__ == "__main__":
    main(VirtualClock())
