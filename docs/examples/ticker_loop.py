"""A loop of attempts: try at every tick, until one succeeds or the ticks end."""

from retryexec import ExponentialBackoff, Ticker

failures = iter([ConnectionError("refused"), ConnectionError("reset")])


def operation() -> str:
    for failure in failures:  # your service, on a bad day
        raise failure
    return "hello"


def main() -> None:
    # The first tick comes at once; at most five more follow, each after a longer wait.
    for _ in Ticker(ExponentialBackoff(initial_interval=0.02).take(5)):
        try:
            answer = operation()
        except ConnectionError as error:
            print(f"operation failed: {error}")
        else:
            print(f"operation succeeded: {answer}")
            break
    else:
        print("operation failed for good")


if __name__ == "__main__":
    main()
