"""What guards with a `key=` have in common: one state for each key, as long as it is needed."""

import math
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Generic, TypeAlias, TypeVar

from retryexec.guards._guard import AttemptRequest, Outcome

Key: TypeAlias = Callable[..., Hashable] | Hashable | None
"""What a guard's `key=` takes: a function of what the attempt is called with, or a constant."""

# States that are looked at, and dropped if they are idle, for each request that joins one.
_SWEPT = 2

_NONE: tuple[Any, ...] = ()


class GuardState(ABC):
    """The state of a guard for one key. All its methods are called under the guard's lock.

    Each can be called again after an interrupt has ended it halfway.
    """

    __slots__ = ("dropped", "key", "key_hash", "woken")

    def __init__(self, woken: "deque[AttemptRequest]") -> None:
        # To be woken once the lock is free.
        self.woken = woken
        self.key: Hashable = None
        self.key_hash = 0
        self.dropped = False  # whether the guard has forgotten it

    @abstractmethod
    def admit(self, request: AttemptRequest, now: float) -> float | None:
        """Do as `Guard.admit`."""

    @abstractmethod
    def release(self, request: AttemptRequest, outcome: Outcome | None, now: float) -> None:
        """Do as `Guard.release`, for a request that was admitted or told to wait here."""

    @abstractmethod
    def is_idle(self, now: float) -> bool:
        """Return whether nobody holds anything here, and a new state would do as well."""


S = TypeVar("S", bound=GuardState)


class KeyedGuard(ABC, Generic[S]):
    """A guard that has a state for each key; without a key it has one for all.

    Keys are the users' objects: hashing and comparing them runs code of theirs, which must not
    run under a lock. So the states are kept by the hashes, as numbers; a key is compared with
    those of equal hash without the lock, and then the lock tells whether those are still all.
    """

    def __init__(self, key: Key) -> None:
        self._key = key if callable(key) else None
        # Guards all below and the states; held across a fork. Reentrant, for signal handlers. No
        # code of users runs under it: neither keys' nor clocks' nor what request.wake() does.
        self._lock = threading.RLock()
        self.reset()
        _guards.add(self)

    def reset(self) -> None:
        """Forget all attempts, as in a forked child, which has none of their threads."""
        # Which state each request holds something of.
        self._held: dict[AttemptRequest, S] = {}
        self._woken: deque[AttemptRequest] = deque()
        self._by_hash: dict[int, tuple[S, ...]] = {}
        self._states: OrderedDict[S, None] = OrderedDict()  # with a key, longest unseen first
        self._only = self._new_state() if self._key is None else None

    def lock_for_fork(self) -> None:
        """Take the lock, so that a forked child finds the state in order."""
        self._lock.acquire()

    def unlock_after_fork(self) -> None:
        """Release the lock, in both processes."""
        with suppress(RuntimeError):  # an interrupt came before it was taken
            self._lock.release()

    @abstractmethod
    def _new_state(self) -> S:
        """Return the state of a key that nobody has asked for yet."""

    def admit(self, request: AttemptRequest) -> float | None:
        """Let the attempt go, or say when to ask again; see `Guard.admit`."""
        now = request.now()
        while True:
            state = self._held.get(request) or self._join(request, now)
            with self._lock:
                if self._held.get(request) is not state:
                    told: float | None = math.inf  # another thread has just released it for good
                elif state.dropped:  # before it was used, since it was idle
                    del self._held[request]
                    continue
                else:
                    told = state.admit(request, now)
            self._wake()
            return told

    def release(self, request: AttemptRequest, outcome: Outcome | None) -> None:
        """Take back what *request* holds here; see `Guard.release`."""
        now = request.now()
        with self._lock:
            state = self._held.get(request)
            if state is not None:
                state.release(request, outcome, now)
                # Last, so that another call does what an interrupt has kept this one from.
                self._held.pop(request, None)
                if self._only is None and state.is_idle(now):
                    self._drop(state)
        self._wake()

    def _wake(self) -> None:
        """Wake those whose turn it is: also those that an interrupted call has left."""
        while self._woken:
            try:
                request = self._woken.popleft()
            except IndexError:  # another thread was faster
                return
            request.wake()

    # ---- the states of the keys

    def states(self) -> list[S]:
        """Return the states there are; with the lock held."""
        return [*self._states] if self._only is None else [self._only]

    def _join(self, request: AttemptRequest, now: float) -> S:
        """Return the state of the request's key, and note that the request belongs to it."""
        if self._only is not None:
            self._held[request] = self._only
            return self._only
        assert self._key is not None
        key = request.key_by(self._key)
        number = hash(key)
        while True:
            known = self._by_hash.get(number, _NONE)
            state = next((s for s in known if s.key is key or s.key == key), None)
            with self._lock:
                if self._by_hash.get(number, _NONE) is not known:
                    continue  # another thread has added or dropped a state meanwhile
                if state is None:
                    state = self._new_state()
                    state.key, state.key_hash = key, number
                    self._by_hash[number] = (*known, state)
                    self._states[state] = None
                self._held[request] = state
                self._sweep(now, but=state)
                return state

    def _sweep(self, now: float, *, but: S) -> None:
        """Look at the states that were looked at longest ago, and drop those that are idle."""
        for _ in range(min(_SWEPT, len(self._states))):
            state = next(iter(self._states))
            if state is not but and state.is_idle(now):
                self._drop(state)
            else:
                self._states.move_to_end(state)

    def _drop(self, state: S) -> None:
        rest = tuple(s for s in self._by_hash.get(state.key_hash, _NONE) if s is not state)
        if rest:
            self._by_hash[state.key_hash] = rest
        else:
            self._by_hash.pop(state.key_hash, None)
        self._states.pop(state, None)
        # Last: nobody finds it any more, even if an interrupt has ended this before.
        state.dropped = True


_guards: "weakref.WeakSet[KeyedGuard[Any]]" = weakref.WeakSet()
_forking: list[KeyedGuard[Any]] = []  # those whose locks a fork under way holds


def _before_fork() -> None:
    for guard in list(_guards):
        _forking.append(guard)
        guard.lock_for_fork()


def _after_fork() -> None:
    for guard in _forking:
        guard.unlock_after_fork()
    _forking.clear()


def _in_child() -> None:
    """Let no attempt of the parent's keep those of the child waiting."""
    for guard in _forking:
        guard.reset()
    _after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch  no forks on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
