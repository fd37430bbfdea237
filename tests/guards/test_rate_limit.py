"""RateLimit: never faster than the rate, each held once, no slot lost."""

import gc
import math
import weakref
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from helpers.guards import SUCCESS, Asker, SetClock
from hypothesis import given
from hypothesis import strategies as st

from retryexec.guards import AttemptRequest, RateLimit, _rate_limit


def test_each_reserves_its_slot_and_is_held_once() -> None:
    asker = Asker(RateLimit(2))
    requests = [asker.request() for _ in range(5)]
    told = [asker.ask(request) for request in requests]
    assert told == [None, 0.5, 1.0, 1.5, 2.0]
    for request, at in zip(requests[1:], told[1:], strict=True):
        assert at is not None
        assert asker.ask_at(at, request) is None


def test_asked_early_it_names_the_same_time() -> None:
    asker = Asker(RateLimit(1))
    asker.ask()
    request = asker.request()
    assert [asker.ask_at(t, request) for t in (0.0, 0.5, 0.75)] == [1.0, 1.0, 1.0]
    assert asker.ask_at(1.0, request) is None


def test_a_burst_may_start_at_once_after_a_time_without_any() -> None:
    asker = Asker(RateLimit(10, per=10, burst=3))
    assert [asker.ask() for _ in range(5)] == [None, None, None, 1.0, 2.0]
    assert [asker.ask_at(100.0) for _ in range(4)] == [None, None, None, 101.0]


def test_times_that_a_float_cannot_hold_exactly_do_not_drift() -> None:
    """Each is let go at the very time it was told."""
    asker = Asker(RateLimit(3, per=0.7, burst=2), SetClock(0.1))
    requests = [asker.request() for _ in range(1000)]
    told = [asker.ask(request) or 0.1 for request in requests]
    assert told == sorted(told)
    for request, at in zip(requests, told, strict=True):
        assert asker.ask_at(at, request) is None


def test_the_last_slot_is_given_back_by_one_that_is_cancelled() -> None:
    asker = Asker(RateLimit(1))
    asker.ask()
    first, last = asker.request(), asker.request()
    assert (asker.ask(first), asker.ask(last)) == (1.0, 2.0)
    asker.guard.release(last, None)
    assert asker.ask() == 2.0
    asker.guard.release(first, None)
    assert asker.ask() == 3.0


def test_when_all_who_wait_are_cancelled_nobody_waits_for_their_slots() -> None:
    asker = Asker(RateLimit(1))
    asker.ask()
    requests = [asker.request() for _ in range(100)]
    for request in requests:
        asker.ask(request)
    for request in requests:  # the first of them first
        asker.guard.release(request, None)
    assert asker.ask() == 1.0


def test_a_permit_that_was_not_used_can_be_had_by_another() -> None:
    asker = Asker(RateLimit(1))
    request = asker.request()
    assert asker.ask(request) is None
    asker.guard.release(request, None)
    assert asker.ask() is None
    assert asker.ask() == 1.0


def test_one_that_starts_late_keeps_those_behind_it_at_a_distance() -> None:
    """As when all workers were busy: what has come due meanwhile does not start at once."""
    asker = Asker(RateLimit(1))
    requests = [asker.request() for _ in range(6)]
    assert [asker.ask(request) for request in requests] == [None, 1.0, 2.0, 3.0, 4.0, 5.0]
    told = [asker.ask_at(3.5, request) for request in requests[1:]]
    assert told == [None, 4.5, 5.5, 4.0, 5.0]  # the last two are not late
    assert asker.ask_at(4.0, requests[4]) == 6.5
    assert asker.ask_at(4.5, requests[2]) is None
    assert asker.ask_at(5.0, requests[5]) == 7.5
    for at, request in ((5.5, requests[3]), (6.5, requests[4]), (7.5, requests[5])):
        assert asker.ask_at(at, request) is None


def test_one_that_a_later_guard_held_back_does_not_queue_again() -> None:
    asker = Asker(RateLimit(1))
    held = asker.request()
    assert asker.ask(held) is None
    others = [asker.request() for _ in range(3)]
    assert [asker.ask(other) for other in others] == [1.0, 2.0, 3.0]
    asker.guard.release(held, None)
    assert asker.ask_at(2.0, others[1]) is None
    assert asker.ask_at(2.5, held) == 3.0
    assert asker.ask_at(3.0, held) is None


class ByTheMachine(Asker):
    """Asks by a clock that the guard takes for the machine's."""

    def __init__(self, guard: RateLimit, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(guard)
        self._now = self.clock.now  # one object, as the machine's clock is
        monkeypatch.setattr(_rate_limit, "monotonic", self._now)

    def request(self, *args: Any, **options: Any) -> AttemptRequest:
        request = super().request(*args, **options)
        request.now = self._now
        return request


def test_by_the_machines_clock_a_start_may_be_a_little_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or each millisecond would put off all that follow, and the rate would be missed."""
    asker = ByTheMachine(RateLimit(1024), monkeypatch)
    requests = [asker.request() for _ in range(3)]
    assert asker.ask(requests[0]) is None
    for request in requests[1:]:
        assert asker.ask(request) is not None
    assert [asker.ask_at(0.05, request) for request in requests] == [None] * 3
    assert asker.ask() is None
    assert asker.ask_at(0.05) == 0.05 + 1 / 1024


def test_one_that_is_later_than_that_counts_as_so_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """After all workers were busy, no more start at once than belong to a tenth of a second."""
    asker = ByTheMachine(RateLimit(1024), monkeypatch)
    requests = [asker.request() for _ in range(1000)]
    for request in requests:
        asker.ask(request)
    told = [asker.ask_at(0.9, request) for request in requests[1:]]
    assert told[:103] == [None] * 103
    assert None not in told[103:]


def test_those_that_wait_long_are_asked_in_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up for each thirty of them, none of them early, each in its turn, and no rate lost."""
    asker = ByTheMachine(RateLimit(1024), monkeypatch)
    requests = [asker.request() for _ in range(20_000)]
    told = [asker.ask(request) or 0.0 for request in requests]
    assert told == sorted(told)
    for n, at in enumerate(told):
        assert n / 1024 <= at <= n / 1024 + min(1 / 32, n / 8192)
    assert len(set(told)) < 20_000 / 30
    for request, at in zip(requests, told, strict=True):
        assert asker.ask_at(at, request) is None


def test_one_that_waits_alone_is_asked_when_it_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = ByTheMachine(RateLimit(1024), monkeypatch)
    assert [asker.ask(), asker.ask()] == [None, 1 / 1024]
    asker = ByTheMachine(RateLimit(20), monkeypatch)  # and where a lot would be of one
    assert [asker.ask() or 0.0 for _ in range(100)] == pytest.approx([n / 20 for n in range(100)])


def test_a_newcomer_does_not_overtake_a_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = ByTheMachine(RateLimit(1024), monkeypatch)
    requests = [asker.request() for _ in range(1000)]
    lot = [asker.ask(request) for request in requests][-1]
    assert lot is not None
    asker.clock.time = lot - 0.0001
    assert asker.ask() == lot


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_in_which_a_lot_asks_costs_no_time(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs are drawn by many workers."""
    asker = ByTheMachine(RateLimit(1024), monkeypatch)
    lots: dict[float, list[AttemptRequest]] = {}
    for _ in range(1025):
        request = asker.request()
        lots.setdefault(asker.ask(request) or 0.0, []).append(request)
    for at, requests in lots.items():
        told = [asker.ask_at(at, request) for request in requests[::order]]
        assert told == [None] * len(requests)


def test_by_any_other_clock_it_may_not() -> None:
    asker = Asker(RateLimit(1000))
    requests = [asker.request() for _ in range(3)]
    assert [asker.ask(request) for request in requests] == [None, 0.001, 0.002]
    assert asker.ask_at(0.0017, requests[1]) is None
    assert asker.ask_at(0.002, requests[2]) == pytest.approx(0.0027)


def test_each_key_has_a_rate_of_its_own() -> None:
    asker = Asker(RateLimit(1, key=lambda tenant: tenant))
    assert [asker.ask(asker.request(t)) for t in "abab"] == [None, None, 1.0, 1.0]


def test_a_retriable_is_what_its_key_is_called_with() -> None:
    class Save:
        tenant = "a"

        def exec(self, *args: Any) -> None: ...

    seen: list[Any] = []
    asker = Asker(RateLimit(1, key=lambda *args: seen.append(args)))
    save = Save()
    asker.ask(asker.request(1, job=save))
    asker.ask(asker.request(2, job=print))
    assert seen == [(save, 1), (2,)]


def test_a_constant_key_is_one_rate_for_all() -> None:
    asker = Asker(RateLimit(1, key="all"))
    assert [asker.ask(asker.request(t)) for t in "ab"] == [None, 1.0]


class Key:
    """A key with code of its own."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.value == self.value


def test_keys_of_one_hash_are_told_apart() -> None:
    asker = Asker(RateLimit(1, key=Key))
    assert [asker.ask(asker.request(n)) for n in (1, 2, 1, 2, 3)] == [None, None, 1.0, 1.0, None]


def test_an_idle_key_is_forgotten() -> None:
    asker = Asker(RateLimit(1, key=Key))
    guard: Any = asker.guard
    for n in range(100):
        request = asker.request(n)
        asker.ask(request)
        guard.release(request, SUCCESS)
    assert len(guard.states()) == 100  # their second has not passed
    asker.clock.time = 10.0
    for _ in range(100):
        request = asker.request("one")
        asker.ask(request)
        guard.release(request, None)
    assert guard.states() == []


def test_a_guard_keeps_nothing_of_an_attempt_that_has_ended() -> None:
    asker = Asker(RateLimit(1))
    for outcome in (SUCCESS, None):
        request = asker.request()
        dead = weakref.ref(asker)
        asker.ask(request)
        asker.guard.release(request, outcome)
        asker.guard.release(request, outcome)
    guard: Any = asker.guard
    del asker, request
    gc.collect()
    assert dead() is None
    assert repr(guard) == "<RateLimit(1/s): 0 held>"


@pytest.mark.parametrize("rate", [2, 2.0, Fraction(2)])
def test_a_rate_is_any_real_number(rate: Any) -> None:
    assert RateLimit(rate, per=timedelta(seconds=1)).rate == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0}, "rate takes a number above 0"),
        ({"rate": -1}, "rate takes a finite number from 0 up"),
        ({"rate": math.nan}, "rate takes a finite number"),
        ({"rate": math.inf}, "rate takes a finite number"),
        ({"rate": True}, "rate takes a number"),
        ({"rate": "10"}, "rate takes a number"),
        ({"rate": 1, "per": 0}, "per takes a number above 0"),
        ({"rate": 1, "per": -1}, "per takes seconds from 0 up"),
        ({"rate": 1, "burst": 0}, "burst takes a whole number from 1 up"),
        ({"rate": 1, "burst": 1.5}, "burst takes a whole number from 1 up"),
        ({"rate": 1e-300, "per": 1e300}, "more seconds between two starts"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        RateLimit(**arguments)


STEPS = st.sampled_from(["new", "new", "due", "due", "late", "cancel", "hold", "back"])
SCHEDULES = st.lists(st.tuples(STEPS, st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5])), max_size=60)


class Played:
    """Requests of one guard, and what becomes of them."""

    def __init__(self, asker: Asker) -> None:
        self.clock = asker.clock
        self.asker = asker
        self.waiting: dict[AttemptRequest, float] = {}
        self.held: list[AttemptRequest] = []
        self.starts: list[float] = []

    def new(self) -> None:
        self.ask(self.asker.request())

    def due(self) -> None:
        """Ask again for the one whose time comes first, at that time."""
        if self.waiting:
            request = min(self.waiting, key=lambda r: self.waiting[r])
            self.clock.time = max(self.clock.time, self.waiting.pop(request))
            self.ask(request)

    def late(self) -> None:
        """Ask again for all, when the last of them is due."""
        self.clock.time = max([self.clock.time, *self.waiting.values()])
        requests = list(self.waiting)
        self.waiting.clear()
        for request in requests:
            self.ask(request)

    def cancel(self) -> None:
        if self.waiting:
            request, _ = self.waiting.popitem()
            self.asker.guard.release(request, None)

    def hold(self) -> None:
        """Ask for one that another guard holds back, or that gives up if it has to wait."""
        request = self.asker.request()
        if self.asker.ask(request) is None:
            self.held.append(request)
        self.asker.guard.release(request, None)

    def back(self) -> None:
        """Ask again for one that another guard has held back."""
        if self.held:
            self.ask(self.held.pop())

    def ask(self, request: AttemptRequest) -> None:
        told = self.asker.ask(request)
        if told is None:
            self.starts.append(self.clock.time)
        else:
            assert told > self.clock.time
            self.waiting[request] = told

    def play(self, steps: list[tuple[str, float]]) -> list[float]:
        """Take *steps*, let all who wait go then, and return when attempts started."""
        for step, pause in steps:
            getattr(self, step)()
            self.clock.time += pause
        asks = 0
        while self.waiting:
            self.due()
            asks += 1
            assert asks < 10_000
        return self.starts


@given(SCHEDULES, st.integers(1, 4), st.sampled_from([0.5, 1.0, 3.0]))
def test_never_faster_than_the_rate_in_any_window(
    steps: list[tuple[str, float]], burst: int, rate: float
) -> None:
    starts = Played(Asker(RateLimit(rate, burst=burst))).play(steps)
    for i, begin in enumerate(starts):
        for j in range(i, len(starts)):
            assert j - i + 1 <= burst + rate * (starts[j] - begin) + 1e-9


@given(SCHEDULES, st.integers(1, 4), st.sampled_from([0.05, 0.5, 2.0]))
def test_by_the_machines_clock_no_more_than_belong_to_a_tenth_of_a_second(
    steps: list[tuple[str, float]], burst: int, hurry: float
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        asker = ByTheMachine(RateLimit(64, burst=burst), patched)
        starts = Played(asker).play([(step, pause * hurry) for step, pause in steps])
    for i, begin in enumerate(starts):
        for j in range(i, len(starts)):
            assert j - i + 1 <= burst + 64 * (starts[j] - begin + 0.1) + 1e-9
