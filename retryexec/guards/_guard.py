"""The guard protocol, and the passage of one attempt through the guards before it."""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from threading import current_thread, main_thread
from types import MappingProxyType
from typing import Any, Protocol

from retryexec._exceptions import report
from retryexec._outcome import name_of, type_name
from retryexec._typing import override

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went, as reported to a guard.

    Attributes:
        exception: what it raised; None if it returned.
        succeeded: whether the policy takes it as a success; a refused result is not one.
        seconds: how long it ran.
    """

    exception: BaseException | None
    succeeded: bool
    seconds: float


class AttemptRequest:
    """One attempt that asks to start; compared and hashed by identity.

    Attributes:
        number: the attempt's number: 1 for a job's first attempt, more for a retry.
        job: what was submitted: a `Retriable` or a callable.
        args, kwargs: what it is called with.
        now: a callable that returns the time of the attempt's clock, in seconds.
        wake: makes the guards be asked again. A guard may call it from any thread and any number
            of times, but not while holding a lock.
        attempt_timeout: that of the policy, in seconds; None if it has none.
    """

    __slots__ = (
        "args",
        "attempt_timeout",
        "by_exec",
        "job",
        "kwargs",
        "now",
        "number",
        "origin",
        "turns",
        "wake",
    )

    def __init__(
        self,
        number: int,
        job: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = _NOTHING,
        *,
        now: Callable[[], float],
        wake: Callable[[], object],
        attempt_timeout: float | None = None,
        by_exec: bool | None = None,
    ) -> None:
        self.number = number
        self.job = job
        self.args = args
        self.kwargs = kwargs
        self.now = now
        self.wake = wake
        self.attempt_timeout = attempt_timeout
        # Whether the attempt is job.exec(*args), and not job(*args).
        self.by_exec = hasattr(type(job), "exec") if by_exec is None else by_exec
        # The executor's pool; None for a call of `retry`. Where all workers of one are busy, those
        # of another may be free.
        self.origin: object = None
        # The guards of ours that have let it go before a later one held it: at those it is no
        # newcomer when it comes back. Made when there is one.
        self.turns: set[object] | None = None

    def key_by(self, key: Callable[..., Hashable]) -> Hashable:
        """Call *key* with the arguments of the attempt, with a `Retriable` itself first."""
        if self.by_exec:
            return key(self.job, *self.args, **self.kwargs)
        return key(*self.args, **self.kwargs)

    @override
    def __repr__(self) -> str:
        return f"<AttemptRequest {self.number} of {name_of(self.job)}>"


class Guard(Protocol):
    """An object that is asked before each attempt, and told how it went.

    Both methods are called from any thread, without a lock held, and must return quickly. If one
    raises, this is logged, and the attempt may start.
    """

    def admit(self, request: AttemptRequest) -> float | None:
        """Let the attempt start, or say when to ask again.

        Returns:
            None if the attempt may start; it then holds a permit until `release`. Otherwise the
            time to ask again, in the seconds of ``request.now()``, which must be later than now;
            or `math.inf`, to be asked when the guard calls ``request.wake()``. The guard may be
            asked earlier.
        """
        ...

    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
        """Take back what *request* holds here: its permit, or its place among those that wait.

        It may hold nothing, or be released twice.

        Args:
            outcome: how the attempt went; None if it did not start. In that case the request may
                ask again: a permit is released while a later guard holds the attempt back.
        """
        ...


class Passage:
    """The way of one attempt through its guards, outermost first.

    `ask` is called by one thread at a time; `settle` by any, meanwhile too.
    """

    __slots__ = ("_guards", "_heard", "_held_at", "_released", "_settled", "_skipped", "request")

    def __init__(self, guards: tuple[Guard, ...], request: AttemptRequest) -> None:
        self.request = request
        self._guards = guards
        self._heard = 0  # how many guards have been asked at least once
        self._held_at: Guard | None = None
        self._skipped: tuple[int, ...] = ()  # the places of guards that have raised
        self._settled = False
        self._released = False

    def ask(self) -> float | None:
        """Ask the guards; return None if the attempt may start now.

        Otherwise when to ask again: at that time, or when the request is woken, whichever is
        first. The guard that said so keeps the request's place; what it holds at the others is
        given back, so that it keeps nobody waiting there.
        """
        for i, guard in enumerate(self._guards):
            if i in self._skipped:
                continue
            told = math.inf if self._settled else self._admit(i, guard)
            if self._settled:
                # settle() may have released this guard before it was asked.
                _release(guard, self.request, None)
                return math.inf
            if told is not None:
                self._held_at = guard
                if self._heard > 1:
                    self._give_back_but(i)
                return told
        self._held_at = None
        return None

    @property
    def held_by(self) -> str | None:
        """The name of the guard that holds the attempt back; None if none does."""
        guard = self._held_at
        return None if guard is None else guard_name(guard)

    def settle_attempt(
        self, exception: BaseException | None, seconds: float, *, succeeded: bool
    ) -> None:
        """Give back all that the request holds, and tell the guards how the attempt went."""
        self.settle(Outcome(exception, succeeded, seconds))

    def settle(self, outcome: Outcome | None) -> None:
        """Give back all that the request holds, innermost first; a second call does nothing.

        Args:
            outcome: how the attempt went; None if it did not start and never will.
        """
        if self._settled:
            return
        self._settled = True
        self._held_at = None
        # Of all guards: ask() may just be asking one of them, and each has a lock of its own.
        for guard in reversed(self._guards):
            _release(guard, self.request, outcome)
        self._released = True

    def __del__(self) -> None:
        """Give back what an interrupt in the main thread has kept from being given back."""
        if not getattr(self, "_released", True):
            for guard in reversed(self._guards):
                _release(guard, self.request, None)

    def _admit(self, i: int, guard: Guard) -> float | None:
        if i >= self._heard:
            self._heard = i + 1
        try:
            now = self.request.now()
            told: Any = guard.admit(self.request)
            if told is None:
                return None
            # Somewhat earlier than now: it is asked again at once, as after a rounding error.
            if type(told) is float and told > now - 1.0:
                return told
            return _checked_time(told, now)
        except BaseException as error:
            if _is_interrupt(error):
                raise
            report("%s failed to decide; the attempt goes past it", guard_name(guard))
            self._skipped = (*self._skipped, i)
            return None

    def _give_back_but(self, i: int) -> None:
        """Give back what the request holds, but for its place at the guard *i*."""
        for j in reversed(range(self._heard)):
            guard = self._guards[j]
            # A later guard has held it before, and may have let it go meanwhile. A mere
            # reservation of a time can stay, because nobody waits behind it.
            if j < i or (j > i and not getattr(guard, "reserves", False)):
                _release(guard, self.request, None)


def _checked_time(told: Any, now: float) -> float:
    """Return what a guard has told, if that is a time to ask again at."""
    if not isinstance(told, (int, float)) or isinstance(told, bool) or math.isnan(told):
        msg = f"admit() returns None or the time to ask again (it returned {told!r})"
        raise TypeError(msg)
    if told < now - 1.0:
        msg = (
            "admit() returns the time to ask again, and not how long to wait: request.now() + 0.5, "
            f"for one (it returned {told!r}, and it is {now!r})"
        )
        raise ValueError(msg)
    return told


def _release(guard: Guard, request: AttemptRequest, outcome: Outcome | None) -> None:
    try:
        guard.release(request, outcome)
    except BaseException as error:
        if _is_interrupt(error):
            raise
        report("%s failed to take back a permit", guard_name(guard))


def _is_interrupt(error: BaseException) -> bool:
    """Return whether a signal handler may have raised *error*, in the main thread."""
    return not isinstance(error, Exception) and current_thread() is main_thread()


def guard_name(guard: Guard) -> str:
    """Return what *guard* is called in `held_by` and in the log; never raises."""
    try:
        name = getattr(guard, "name", None)
    except Exception:
        name = None
    return name if type(name) is str else type_name(type(guard))


def checked_guards(guards: Any) -> tuple[Guard, ...]:
    """Return *guards*, a list or another iterable of guards, as a tuple.

    Raises:
        TypeError: it is not that.
    """
    if not isinstance(guards, type) and _is_guard(guards):
        msg = f"guards takes a list of guards: guards=[{guards!r}], not the guard alone"
        raise TypeError(msg)
    if isinstance(guards, (str, bytes, type)) or not hasattr(guards, "__iter__"):
        msg = f"guards takes a list of guards, such as [RateLimit(100)] (got {guards!r})"
        raise TypeError(msg)
    checked: tuple[Any, ...] = tuple(guards)
    for guard in checked:
        if isinstance(guard, type):
            msg = f"guards takes objects, and {guard.__name__} is a class: {guard.__name__}(…)"
            raise TypeError(msg)
        if not _is_guard(guard):
            msg = f"guards takes guards, with admit() and release(), which {guard!r} is not"
            raise TypeError(msg)
    if len({id(guard) for guard in checked}) < len(checked):
        msg = f"guards has the same guard twice, which would hold back itself (got {guards!r})"
        raise ValueError(msg)
    return checked


def _is_guard(value: Any) -> bool:
    return callable(getattr(value, "admit", None)) and callable(getattr(value, "release", None))
