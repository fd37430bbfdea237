"""Count the attempts: for yourself in a ticker's loop, or told by `retry`."""

from collections import Counter

from retryexec import ConstantBackoff, Retry, RetryPolicy, Ticker, retry

BACKOFF = ConstantBackoff(0.01)


class Service:
    """Fails twice, then answers."""

    def __init__(self) -> None:
        self.failures = iter([ConnectionError("refused"), ConnectionError("reset")])

    def call(self) -> str:
        for failure in self.failures:
            raise failure
        return "hello"


def with_a_ticker(service: Service, metrics: Counter[str]) -> None:
    with Ticker(BACKOFF) as ticker:
        for number, _ in enumerate(ticker, start=1):
            try:
                service.call()
            except ConnectionError as error:
                metrics[f"failed: {error}"] += 1
            else:
                metrics[f"succeeded at attempt {number}"] += 1
                break


def with_retry(service: Service, metrics: Counter[str]) -> None:
    def notify(event: Retry) -> None:
        metrics[f"failed: {event.exception}"] += 1
        print(f"attempt {event.attempt} failed, the next one follows in {event.delay:g} s")

    retry(service.call, policy=RetryPolicy(backoff=BACKOFF), on_retry=notify)
    metrics["succeeded"] += 1


def main() -> None:
    for example in (with_a_ticker, with_retry):
        metrics: Counter[str] = Counter()
        example(Service(), metrics)
        print(example.__name__, dict(metrics))


if __name__ == "__main__":
    main()
