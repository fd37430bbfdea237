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
    """A key with its hash at hand: no code of the user's runs to ask it.

    Attributes:
        is_new: whether it is being put into a dict that is known to have no such key. Meanwhile no
            code of the user's runs to compare it: it is equal to no key of a user's own type.
    """

    __slots__ = ("_hash", "is_new", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.is_new = False
        self._hash = hash(key)

    @override
    def __hash__(self) -> int:
        return self._hash

    @override
    def __eq__(self, other: object) -> bool:
        mine, its, is_new = self.key, other, self.is_new
        if isinstance(other, HashedKey):
            its, is_new = other.key, is_new or other.is_new
        if is_new and not (is_builtin(mine) and is_builtin(its)):
            return False
        return bool(mine == its)


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
