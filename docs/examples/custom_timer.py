"""A timer of your own: this one fires at once, and remembers what it was asked for."""

from retryexec import LinearBackoff, RetryPolicy, Ticker, retry


class HastyTimer:
    """A `retryexec.Timer`, by its three methods; it needs no base class."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.stopped = False

    def start(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 (it never waits)
        return not self.stopped


def operation() -> None:
    raise ConnectionError("refused")


def main() -> None:
    backoff = LinearBackoff(initial=60, increment=60, max_interval=200)

    timer = HastyTimer()
    ticks = sum(1 for _ in Ticker(backoff.take(4), timer=timer))
    print(f"{ticks} ticks, after waits of {timer.asked} seconds")

    timer = HastyTimer()
    try:
        retry(operation, policy=RetryPolicy(max_attempts=3, backoff=backoff), timer=timer)
    except ConnectionError as error:
        print(f"{error}, after waits of {timer.asked} seconds")


if __name__ == "__main__":
    main()
