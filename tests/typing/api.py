"""What type checkers make of the public names; only they run this file."""

# An error that is no longer one is an error, for both of them.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import assert_type

from retryexec import RetryFuture, RetryingExecutor, RetryPolicy


@dataclass(frozen=True)
class Save:
    activity: str

    def exec(self) -> int:
        return len(self.activity)


async def awaited(future: RetryFuture[int]) -> None:
    assert_type(await future, int)


def double(number: int, *, times: int = 1) -> int:
    return number * 2 * times


with RetryingExecutor(max_workers=1, policy=RetryPolicy(max_attempts=3)) as executor:
    assert_type(executor, RetryingExecutor)
    assert_type(executor.submit(len, "seven"), RetryFuture[int])
    assert_type(executor.submit(Save("login")), RetryFuture[int])
    assert_type(executor.submit(double, 7, times=2), RetryFuture[int])
    assert_type(executor.submit(len, "seven").result(), int)
    plain: Future[int] = executor.submit(len, "seven")
    assert_type(list(executor.map(double, [1, 2])), list[int])

    executor.submit(len, 7)  # type: ignore[call-overload]
    executor.submit(double, 7, often=2)  # type: ignore[call-arg]
    executor.submit("no job")  # type: ignore[call-overload]

some_executor: Executor = RetryingExecutor()

RetryPolicy(attempts=3)  # type: ignore[call-arg]
