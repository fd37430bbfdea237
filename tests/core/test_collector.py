"""The garbage collector is off while many objects are made, and comes on again in every case."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from helpers.jobs import InThread

from retryexec._collector import collector_off


class Cycle:
    """Something that only the collector frees."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def collects() -> Iterator[None]:
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def test_it_is_off_within_and_on_again_after() -> None:
    with collector_off():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_it_is_on_again_whatever_was_raised(error: type[BaseException]) -> None:
    with pytest.raises(error), collector_off():
        raise error
    assert gc.isenabled()


def test_it_stays_off_for_a_user_who_has_it_off() -> None:
    gc.disable()
    with collector_off():
        pass
    assert not gc.isenabled()


def test_it_is_on_again_once_two_threads_have_left_in_any_order() -> None:
    for first in (0, 1):
        gates = [threading.Event(), threading.Event()]
        entered = threading.Barrier(3, timeout=10)

        def work(gate: threading.Event, entered: threading.Barrier = entered) -> None:
            with collector_off():
                entered.wait()
                assert gate.wait(10)

        threads = [InThread(work, gate) for gate in gates]
        entered.wait()
        for place in (first, 1 - first):
            gates[place].set()
            threads[place].result()
        assert gc.isenabled()


def test_what_is_made_within_is_collected_later_all_the_same() -> None:
    with collector_off():
        cycle = weakref.ref(Cycle())
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert cycle() is None


def test_what_the_user_has_frozen_stays_so() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    assert frozen > 0
    with collector_off():
        pass
    assert gc.get_freeze_count() == frozen
