"""Keys as users give them: how they are found in a dict without running code of the user's."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from retryexec._typing import override

if TYPE_CHECKING:
    from retryexec._core.controlled import ControlledJob

BUILTIN = frozenset({str, bytes, int, bool, float, type(None)})


def is_builtin(key: Hashable) -> bool:
    """Return whether to hash and to compare *key* runs no code of the user's."""
    kind = type(key)
    return kind in BUILTIN or (kind is tuple and BUILTIN.issuperset(map(type, key)))  # type: ignore[call-overload]


class HashedKey:
    """A key of a user's own type, with its hash at hand: no code of the user's runs to ask it."""

    __slots__ = ("_hash", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self._hash = hash(key)

    @override
    def __hash__(self) -> int:
        return self._hash

    @override
    def __eq__(self, other: object) -> bool:
        return bool(self.key == (other.key if isinstance(other, HashedKey) else other))


class Exactly(HashedKey):
    """Finds one key in a dict by its identity: no code of the user's runs to compare it.

    Python asks this one first, since its class is the derived one, or the other one has no answer.
    """

    __slots__ = ()

    @override
    def __hash__(self) -> int:
        return self._hash

    @override
    def __eq__(self, other: object) -> bool:
        return other is self.key


def key_of(key: Any, job: "ControlledJob[Any]") -> Hashable:
    """Return the key of *job*, where the user has given *key*.

    Raises:
        TypeError: it cannot be a key, since it has no hash.
        Exception: what the user's callable raised.
    """
    if not callable(key):
        return key  # type: ignore[no-any-return]  # checked when it was given
    args = (job.submitted, *job.args) if job.by_exec else job.args
    found = key(*args, **job.kwargs) if job.kwargs else key(*args)
    return found if type(found) in BUILTIN else checked_key(found)


def checked_key(key: Any) -> Hashable:
    """Return *key*; raise TypeError if it has no hash."""
    try:
        hash(key)
    except TypeError as error:
        msg = f"a key must have a hash, as a str, a number or a tuple of them has (got {key!r})"
        raise TypeError(msg) from error
    return key  # type: ignore[no-any-return]
