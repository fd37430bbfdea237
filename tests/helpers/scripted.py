"""An executor whose calls end when a test says so, and as it says."""

from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any


class Scripted(Executor):
    """An executor whose calls are ended by the test."""

    _max_workers = 3

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Future[Any]]] = []
        self.closed = False

    def submit(self, fn: Any, /, *_: Any, **__: Any) -> Future[Any]:
        if self.closed:
            raise BrokenProcessPool("broken before")
        future: Future[Any] = Future()
        self.calls.append((fn, future))
        return future

    def run(self, index: int) -> None:
        fn, future = self.calls.pop(index)
        future.set_result(fn())

    def crash(self) -> None:
        self.closed = True
        calls, self.calls = self.calls, []
        for _, future in calls:
            future.set_exception(BrokenProcessPool("broken"))

    def shutdown(self, *_: Any, **__: Any) -> None:
        self.closed = True


class Factory:
    def __init__(self) -> None:
        self.made: list[Scripted] = []

    def __call__(self) -> Scripted:
        self.made.append(Scripted())
        return self.made[-1]
