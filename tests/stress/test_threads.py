"""Many threads, random faults and shutdowns: what was accepted is what has ended.

Each round makes an executor, lets threads submit, cancel, wait and ask, shuts it down in some
way, and then counts. `RETRYEXEC_STRESS` is how many seconds to go on (12 unless told), and
`RETRYEXEC_SEED` the seed; a failure names its round's own seed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import itertools
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.faults import Fault, Job, Starts, hook, policy, quietly
from helpers.threads import threads_of

from retryexec import CancelToken, RetryFuture, RetryingExecutor, RetryPolicy, StopReason
from retryexec.guards import ConcurrencyLimit, RateLimit

SECONDS = float(os.environ.get("RETRYEXEC_STRESS", "12"))
SEED = int(os.environ.get("RETRYEXEC_SEED", "1"))
BOUND = 20  # seconds for anything that must come to an end

pytestmark = [
    pytest.mark.leaks("jobs keep what they raised, which is what they are for"),
    pytest.mark.timeout(SECONDS + 60, method="thread"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Threads that change places all the time, and no log of all that fails on purpose."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    sys.setswitchinterval(before)


class Round:
    """One executor, from its beginning to its end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rnd = rnd = random.Random(seed)
        self.limit = rnd.choice([None, None, 20])
        self.threads = f"RetryingExecutor-{seed}"  # their names
        self.executor = RetryingExecutor(
            rnd.choice([1, 2, 4, 8]),
            self.threads,
            policy=policy(rnd),
            max_pending=self.limit,
            on_retry=rnd.choice([None, hook(rnd)]),
            on_give_up=rnd.choice([None, hook(rnd)]),
        )
        self.token = CancelToken()
        self.views = [
            self.executor,
            self.executor.using(policy(rnd)),
            self.executor.using(policy(rnd), cancel=self.token),
            self.executor.using(key=lambda _: self.numbers_of_keys(3)),
            self.executor.using(policy(rnd), key="latest", keep="latest"),
            self.executor.using(
                guards=[ConcurrencyLimit(2), RateLimit(20_000, burst=5)],
                key=lambda _: self.numbers_of_keys(50),
                keep=rnd.choice(["all", "latest"]),
            ),
        ]
        self.accepted: list[RetryFuture[Any]] = []
        self.called: list[int] = []  # a number for each callback that ran; append is atomic
        self.added: list[int] = []
        self.numbers = itertools.count()
        self.refused = 0

    def numbers_of_keys(self, most: int) -> int:
        return self.rnd.randrange(most)

    def callback(self, rnd: random.Random) -> Any:
        number = next(self.numbers)
        self.added.append(number)

        def told(_: Any) -> None:
            self.called.append(number)
            if rnd.random() < 0.2:
                raise rnd.choice([Fault, SystemExit, MemoryError])

        return told

    def submit(self, seed: float) -> None:
        """Submit jobs, and do something with most of their futures."""
        rnd = random.Random(seed)
        for _ in range(rnd.choice([20, 80, 200])):
            view = rnd.choice(self.views)
            try:
                future = view.submit(Job(rnd))
            except (RuntimeError, MemoryError) as error:
                if "after shutdown" in str(error):
                    return
                continue  # no thread could be started
            self.accepted.append(future)
            self.ask(future, rnd)

    def steer(self, future: RetryFuture[Any], rnd: random.Random) -> None:
        quietly(future.retry_now)
        quietly(lambda: future.postpone(rnd.random() * 0.002))
        if rnd.random() < 0.5:
            quietly(self.executor.pause)
            quietly(self.executor.pending)
            quietly(self.executor.resume)

    def ask(self, future: RetryFuture[Any], rnd: random.Random) -> None:
        x = rnd.random()
        if x < 0.15:
            quietly(future.cancel)  # which runs callbacks
        elif x < 0.30:
            # One for a future that has ended is called at once, in this thread.
            callback = self.callback(rnd)
            quietly(lambda: future.add_done_callback(callback))
        elif x < 0.34:
            quietly(lambda: future.result(rnd.random() * 0.002))
        elif x < 0.37:
            assert repr(self.executor)
            assert repr(future)
            assert self.executor.stats().attempts >= 0
            assert len(future.history) <= 5
        elif x < 0.39:
            cf.wait([future], timeout=0.001)
        elif x < 0.42:
            self.steer(future, rnd)
        elif x < 0.43:
            quietly(lambda: list(cf.as_completed([future], timeout=0.001)))
        elif x < 0.435:
            quietly(self.token.cancel)
        elif x < 0.44:
            quietly(lambda: asyncio.run(asyncio.wait_for(asyncio.wrap_future(future), 0.001)))

    def shut_down(self) -> None:
        rnd = self.rnd
        how = rnd.choice(
            [
                {},
                {"cancel_futures": True},
                {"timeout": rnd.random() * 0.01},
                {"timeout": rnd.random() * 0.01, "wait": False},
                {"wait": False},
                {"wait": False, "cancel_futures": True},
            ]
        )
        quietly(lambda: self.executor.shutdown(**how))
        self.executor.shutdown()

    def play(self) -> Counter[str]:
        """Do it all; return how many jobs ended in which way."""
        submitters = [
            threading.Thread(target=self.submit, args=(self.rnd.random(),), daemon=True)
            for _ in range(self.rnd.choice([1, 3, 5]))
        ]
        for thread in submitters:
            thread.start()
        if self.rnd.random() < 0.3:
            join(submitters)
        time.sleep(self.rnd.random() * 0.03)
        closer = threading.Thread(target=self.shut_down, daemon=True)
        closer.start()
        join([closer, *submitters])
        join(threads_of(self.threads))
        return self.count()

    def count(self) -> Counter[str]:
        assert not cf.wait(self.accepted, timeout=BOUND).not_done
        ends = Counter(
            "superseded"
            if future.superseded_by is not None
            else "cancelled"
            if future.cancelled()
            else "succeeded"
            if future.stop_reason is StopReason.SUCCEEDED
            else "failed"
            for future in self.accepted
        )
        for future in self.accepted:
            assert future.stop_reason is not None
            assert future.submitted is None
            assert future.held_by is None
        stats = self.executor.stats()
        assert {end: getattr(stats, end) for end in ends} == ends
        assert (stats.queued, stats.running, stats.waiting, stats.held) == (0, 0, 0, 0)
        assert stats.attempts == sum(future.attempts for future in self.accepted)
        assert sorted(self.called) == sorted(self.added)
        return ends


def join(threads: list[Any]) -> None:
    until = time.monotonic() + BOUND
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, until - time.monotonic()))
            assert not thread.is_alive(), f"{thread.name} does not end"


def play_on(seconds: float, what: str) -> None:
    """Play rounds for so long, and tell the count."""
    ends: Counter[str] = Counter()
    until = time.monotonic() + seconds
    rounds = 0
    for seed in itertools.count(SEED * 1_000_000):
        if time.monotonic() > until:
            break
        try:
            ends += Round(seed).play()
        except BaseException as error:
            error.add_note(f"in the round of Round({seed})")
            raise
        rounds += 1
    told = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
    print(f"\n{what}: {rounds} rounds, {ends.total()} accepted = {told}")  # noqa: T201
    assert ends.keys() <= {"succeeded", "failed", "cancelled", "superseded"}
    assert ends["succeeded"] > 0


def test_threads_and_faults() -> None:
    play_on(SECONDS * 0.7, "threads and faults")


def test_threads_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    rnd = random.Random(SEED)
    starts = Starts(rnd, 0.4)

    def start(thread: threading.Thread) -> None:  # a function, since it becomes a method
        starts(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    play_on(SECONDS * 0.3, "threads that cannot be started")


def test_no_memory_where_jobs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heap that cannot grow, now and then, loses nobody."""
    rnd = random.Random(SEED)
    from retryexec._core import due_queue

    push = due_queue.heappush

    def push_or_not(heap: Any, entry: Any) -> None:
        if rnd.random() < 0.05:
            raise MemoryError
        push(heap, entry)

    monkeypatch.setattr(due_queue, "heappush", push_or_not)

    def job(tries: list[int]) -> int:
        tries.append(1)
        if len(tries) < 4:
            raise Fault
        return len(tries)

    with RetryingExecutor(4, policy=RetryPolicy(backoff=[0.001] * 9)) as executor:
        futures = [executor.submit(job, []) for _ in range(60)]
        ended = cf.wait(futures, timeout=BOUND)
        monkeypatch.undo()
    assert not ended.not_done
    assert [future.result() for future in futures] == [4] * 60
