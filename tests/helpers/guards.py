"""Guards under test: a clock that is set by hand, and requests that note when they are woken."""

from typing import Any

from retryexec.guards import AttemptRequest, Guard, Outcome

SUCCESS = Outcome(None, succeeded=True, seconds=0.0)


def failure(exception: BaseException | None = None) -> Outcome:
    """Return the outcome of an attempt that raised *exception*, by default an OSError."""
    return Outcome(exception or OSError("down"), succeeded=False, seconds=0.0)


class SetClock:
    """A clock that shows what it is set to."""

    def __init__(self, time: float = 0.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time


class Asker:
    """Makes requests, and has a guard asked for each as an executor would."""

    def __init__(self, guard: Guard, clock: SetClock | None = None) -> None:
        self.guard = guard
        self.clock = clock or SetClock()
        self.woken: list[AttemptRequest] = []

    def request(
        self, *args: Any, number: int = 1, job: Any = print, **options: Any
    ) -> AttemptRequest:
        """Return a request of a job that is called with *args*."""
        request = AttemptRequest(
            number,
            job,
            args,
            now=self.clock.now,
            wake=lambda: self.woken.append(request),
            **options,
        )
        return request

    def ask(self, request: AttemptRequest | None = None) -> float | None:
        """Ask for *request*, or for a new one."""
        return self.guard.admit(request or self.request())

    def ask_at(self, time: float, request: AttemptRequest | None = None) -> float | None:
        """Set the clock, and ask."""
        self.clock.time = time
        return self.ask(request)
