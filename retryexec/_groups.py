"""Whether an ExceptionGroup is worth another try: its members decide together."""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import TypeAlias

from retryexec._errors import PermanentError, RetryAfter
from retryexec._exceptions import members

Types: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]


def is_control_flow(raised: BaseException) -> bool:
    """Return whether *raised*, or any member of a group, is control flow and never retried."""
    return any(
        isinstance(leaf, CancelledError) or not isinstance(leaf, Exception)
        for leaf in leaves(raised)
    )


def names_permanent(raised: BaseException) -> bool:
    """Return whether *raised* is, holds, or names as its cause at any remove a PermanentError."""
    found, seen = [raised], set[int]()
    for one in found:  # which grows meanwhile
        if isinstance(one, PermanentError):
            return True
        if id(one) not in seen:
            seen.add(id(one))
            if one.__cause__ is not None:
                found.append(one.__cause__)
            if isinstance(one, BaseExceptionGroup):
                found += members(one)
    return False


def all_match(raised: BaseException, wanted: Types) -> bool:
    """Return whether *raised* is of the types *wanted*, or a group of which all members are.

    A member that is a RetryAfter asks for another try itself, and counts as one.
    """
    wanted = (*wanted, RetryAfter) if isinstance(wanted, tuple) else (wanted, RetryAfter)
    return all(isinstance(leaf, wanted) for leaf in leaves(raised, until=wanted))


def asks_for_retry(raised: BaseException) -> bool:
    """Return whether *raised* is a RetryAfter, or a group of nothing else."""
    return all_match(raised, ())


def longest_named_delay(raised: BaseException) -> float | None:
    """Return the longest wait that a RetryAfter in the group *raised* names; None without one."""
    named = (leaf.seconds for leaf in leaves(raised) if isinstance(leaf, RetryAfter))
    return max((delay for delay in named if delay is not None), default=None)


def leaves(raised: BaseException, *, until: Types = ()) -> Iterator[BaseException]:
    """Yield *raised*, or the members of a group, to any depth, that are not groups themselves.

    A group of one of the types in *until* is yielded itself. No group is looked into twice.
    """
    found, seen = [raised], set[int]()
    for one in found:  # which grows meanwhile: no recursion, since groups can nest deeply
        if not isinstance(one, BaseExceptionGroup) or isinstance(one, until):
            yield one
        elif id(one) not in seen:
            seen.add(id(one))
            found += members(one)
