"""Under load, the server is restarted, stopped, cut off, and replaced by its standby.

Four threads submit without a pause. Whatever happens, each job that was accepted is run, once, and
none that was refused; nobody waits much longer than `accept_timeout` says; and afterwards it goes
on as before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Any, ClassVar

import pytest
from helpers.postgres import Schema, Server, pooled, serving, until
from helpers.proxy import Proxy

from retryexec import RetryingExecutor
from retryexec.journal import Journal, JournalError

pytestmark = pytest.mark.timeout(180)

ACCEPT_TIMEOUT = 0.5

_numbers = count(1)


@dataclass
class Counted:
    """A job that counts its runs."""

    number: int
    runs: ClassVar[Counter[int]] = Counter()

    def exec(self) -> None:
        self.runs[self.number] += 1


class Load:
    """Four threads that submit, and what they were told.

    Attributes:
        waits: the seconds that the longest submit took.
    """

    def __init__(self, executor: RetryingExecutor) -> None:
        self._executor = executor
        self._numbers = count()
        self.accepted: list[int] = []
        self.refused: list[int] = []
        self.waits = 0.0
        self._stopped = False
        self._threads = [threading.Thread(target=self._submit) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _submit(self) -> None:
        while not self._stopped:
            number, began = next(self._numbers), monotonic()
            try:
                self._executor.submit(Counted(number))
            except JournalError:
                self.refused.append(number)
                threading.Event().wait(0.01)
            else:
                self.accepted.append(number)
            self.waits = max(self.waits, monotonic() - began)

    def stop(self) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)

    def rate(self) -> float:
        """Return how many are accepted in a second, now."""
        before, began = len(self.accepted), monotonic()
        threading.Event().wait(0.3)
        return (len(self.accepted) - before) / (monotonic() - began)


@contextmanager
def loaded(url: str, schema: Schema, **options: Any) -> Iterator[Load]:
    """Let an executor work under load, and see that it does so again after what happens inside.

    Args:
        schema: the same, by a way that nothing happens to.
    """
    Counted.runs.clear()
    journal = Journal(
        url,
        schema=schema.name,
        jobs={"counted": Counted},
        accept_timeout=ACCEPT_TIMEOUT,
        **options,
    )
    with RetryingExecutor(4, journal=journal) as executor:
        load = Load(executor)
        try:
            until(lambda: len(load.accepted) > 200)
            usual = max(load.rate(), load.rate())
            yield load
            until(lambda: load.rate() > usual / 2)
        finally:
            load.stop()
    assert {*load.accepted} <= {*Counted.runs}, "lost"
    assert not {*load.refused} & {*Counted.runs}, "refused, and run all the same"
    assert {*Counted.runs.values()} == {1}
    assert schema.query("SELECT count(*) FROM {s}.job") == [(0,)]
    assert schema.query("SELECT count(*) FROM {s}.dead") == [(0,)]
    # One that was under way has all of `accept_timeout`, and some that a slow machine takes.
    assert load.waits < 20


def is_refused(load: Load) -> Callable[[], bool]:
    """Return a function that tells whether submitters have been told since that it is away."""
    known = len(load.refused)
    return lambda: len(load.refused) >= known + 4


@pytest.fixture(scope="module")
def frail() -> Iterator[Server]:
    """A server that tests stop and start again."""
    with serving() as server:
        yield server


@pytest.fixture
def place(frail: Server) -> Iterator[Schema]:
    made = Schema(frail.url, f"failover_{next(_numbers)}")
    yield made
    made.drop()


@pytest.fixture
def network(frail: Server) -> Iterator[Proxy]:
    proxy = Proxy(frail.socket)
    yield proxy
    proxy.close()


def cut_all(place: Schema, name: str = "retryexec") -> None:
    place.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=%s", name
    )


def test_connections_are_cut_at_random(place: Schema) -> None:
    with loaded(place.url, place) as load:
        for _ in range(10):
            cut_all(place)
            known = len(load.accepted)
            until(lambda known=known: len(load.accepted) > known + 20)  # type: ignore[misc]


def test_the_server_crashes_and_is_back(place: Schema, frail: Server) -> None:
    with loaded(place.url, place):
        frail.restart()


def test_the_server_is_away_until_submitters_are_told(place: Schema, frail: Server) -> None:
    with loaded(place.url, place) as load:
        frail.stop("immediate")
        until(is_refused(load))
        frail.start()


def test_the_server_is_stopped_with_its_connections(place: Schema, frail: Server) -> None:
    with loaded(place.url, place) as load, frail.hung():
        until(is_refused(load))


@pytest.mark.parametrize("way", ["forth", "back", "both"])
def test_the_network_hangs(place: Schema, network: Proxy, way: str) -> None:
    """What was sent may have arrived, or its answer only, or it arrives when it is too late."""
    url = f"postgresql://tester@127.0.0.1:{network.port}/postgres"
    with loaded(url, place) as load:  # noqa: SIM117  the load must go on once it flows again
        with network.hung(forth=way != "back", back=way != "forth"):
            until(is_refused(load))


@pytest.mark.parametrize("way", ["forth", "back"])
def test_what_connections_that_hang_have_sent_arrives_late(
    place: Schema, network: Proxy, way: str
) -> None:
    """When others have long taken their place: then it must do nothing any more."""
    url = f"postgresql://tester@127.0.0.1:{network.port}/postgres"
    with loaded(url, place) as load:
        for _ in range(3):
            with network.hung(forth=way == "forth", back=way == "back", new=False):
                known = len(load.accepted)
                until(lambda known=known: len(load.accepted) > known + 200)  # type: ignore[misc]


def test_the_network_hangs_for_a_moment(place: Schema, network: Proxy) -> None:
    url = f"postgresql://tester@127.0.0.1:{network.port}/postgres"
    with loaded(url, place) as load:
        with network.hung():
            threading.Event().wait(ACCEPT_TIMEOUT / 4)
        assert not load.refused


@pytest.mark.slow("makes two servers")
def test_the_standby_takes_over() -> None:
    with serving() as first, first.standby() as second:
        both = f"{first.url},{second.url.rpartition('=')[2]}"
        with loaded(both, Schema(both, "standby")) as load:
            first.stop("immediate")
            until(is_refused(load))
            second.promote()


@pytest.fixture
def pool(frail: Server) -> Iterator[str]:
    with pooled(frail) as url:
        yield url


def test_behind_a_pooler_its_connections_are_cut(place: Schema, pool: str) -> None:
    with loaded(pool, place, poll=0.2) as load:
        for _ in range(5):
            place.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE %s AND pid<>pg_backend_pid()",
                f'%"{place.name}"%',
            )
            known = len(load.accepted)
            until(lambda known=known: len(load.accepted) > known + 20)  # type: ignore[misc]


def test_behind_a_pooler_the_server_crashes(place: Schema, pool: str, frail: Server) -> None:
    with loaded(pool, place, poll=0.2) as load:
        frail.stop("immediate")
        until(is_refused(load))
        frail.start()
