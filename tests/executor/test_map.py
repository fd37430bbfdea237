"""map: like the builtin, with calls that run concurrently and are tried again."""

import math
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any

import pytest
from helpers.jobs import Boom, Gate, raise_

from retryexec import RetryingExecutor, RetryPolicy, ZeroBackoff


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    policy = RetryPolicy(max_attempts=2, backoff=ZeroBackoff())
    with RetryingExecutor(max_workers=2, policy=policy) as executor:
        yield executor


def test_results_come_in_the_order_of_the_items(executor: RetryingExecutor) -> None:
    assert list(executor.map(pow, [2, 3, 4], [5, 2])) == [32, 9]
    assert list(executor.map(len, [], chunksize=7)) == []


def test_calls_are_tried_again(executor: RetryingExecutor) -> None:
    failed: set[int] = set()

    def job(n: int) -> int:
        if n not in failed:
            failed.add(n)
            raise Boom
        return n

    assert list(executor.map(job, range(5))) == list(range(5))


def test_a_failure_comes_at_its_place_and_cancels_the_rest(executor: RetryingExecutor) -> None:
    gates = [Gate(), Gate()]
    gates[0].open()
    jobs: list[Any] = [gates[0].exec, lambda: raise_(Boom()), gates[1].exec, *[len] * 20]
    results = executor.map(lambda job: job(), jobs, buffersize=None)
    assert next(results) == "through"
    with pytest.raises(Boom):
        next(results)
    gates[1].open()
    with pytest.raises(StopIteration):
        next(results)


def test_giving_up_the_iterator_cancels_what_has_not_begun(executor: RetryingExecutor) -> None:
    gates = [Gate(), Gate()]
    for gate in gates:
        executor.submit(gate)
        assert gate.reached()
    results = executor.map(len, ["a"] * 10)
    with pytest.raises(TimeoutError):
        next(executor.map(len, ["a"], timeout=0))
    results.close()  # type: ignore[attr-defined]
    del results
    for gate in gates:
        gate.open()
    executor.shutdown()


def test_timeout_counts_from_the_call(executor: RetryingExecutor) -> None:
    gate = Gate()
    results = executor.map(lambda _: gate.exec(), [1, 2, 3], timeout=0)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()
    report = executor.shutdown()
    assert report.cancelled >= 1


def test_buffersize_takes_items_as_results_are_taken(executor: RetryingExecutor) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in count():
            taken.append(n)
            yield n

    results = executor.map(abs, items(), buffersize=3)
    assert taken == [0, 1, 2]
    for n in range(5):
        assert next(results) == n
        assert len(taken) == n + 4
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 8


def test_buffersize_larger_than_the_input(executor: RetryingExecutor) -> None:
    assert list(executor.map(abs, [1, -2], buffersize=9)) == [1, 2]


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", "", 2.0, False, True, None, 3, math.inf])
def test_buffersize_is_what_the_standard_library_takes(
    size: Any, executor: RetryingExecutor
) -> None:
    """The standard library has it from 3.14 on; before that, this is what it says there."""
    refusal = None
    if sys.version_info >= (3, 14):
        with ThreadPoolExecutor() as standard:
            try:
                standard.map(abs, [], buffersize=size)
            except (TypeError, ValueError) as error:
                refusal = error
    elif not isinstance(size, int | None):
        refusal = TypeError("buffersize must be an integer or None")
    elif size is not None and size < 1:
        refusal = ValueError("buffersize must be None or > 0")
    if refusal is None:
        assert list(executor.map(abs, [-1, -2], buffersize=size)) == [1, 2]
    else:
        with pytest.raises(type(refusal), match=f"^{re.escape(str(refusal))}$"):
            executor.map(abs, [-1, -2], buffersize=size)


def test_a_chunksize_below_one_is_refused(executor: RetryingExecutor) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(len, [""], chunksize=0)


@pytest.mark.parametrize("timeout", [Fraction(1, 1000), Decimal("0.001")])
def test_a_timeout_is_any_real_number(timeout: Any, executor: RetryingExecutor) -> None:
    gate = threading.Event()
    results = executor.map(gate.wait, [30], timeout=timeout)
    with pytest.raises(TimeoutError):
        next(results)
    gate.set()
