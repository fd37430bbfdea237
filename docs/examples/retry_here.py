"""Retry a call right here, where a ticker would be more than it takes."""

from retryexec import ConstantBackoff, PermanentError, RetryPolicy, retry, retrying

POLICY = RetryPolicy(max_attempts=3, backoff=ConstantBackoff(0.01))
failures = iter([ConnectionError("refused"), ConnectionError("reset")])


def operation() -> str:
    for failure in failures:
        raise failure
    return "hello"


@retrying(POLICY)
def read_page(number: int) -> str:
    if number > 7:
        raise PermanentError(IndexError(f"there is no page {number}"))
    return f"page {number}"


def main() -> None:
    print(retry(operation, policy=POLICY))
    print(read_page(7))
    try:
        read_page(8)
    except IndexError as error:
        print(error, error.__notes__)


if __name__ == "__main__":
    main()
