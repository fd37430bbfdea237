"""Retriable: what may be submitted as a job."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from retryexec._validate import coroutine_refusal, is_coroutine_function

T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Retriable(Protocol[T_co]):
    """A job: anything with an ``exec()``, which is called for each attempt."""

    def exec(self) -> T_co:
        """Do the work once; raise if it failed."""
        ...


def runs_by_exec(job: Any) -> bool:
    """Return whether *job*, not a plain function, is run by its exec(); raise if it cannot be run.

    An object that is callable as well counts as a `Retriable` only if its class says so: some
    objects answer to every name.
    """
    by_exec = hasattr(job.__class__, "exec")
    if not by_exec:
        if isinstance(job, type) and hasattr(job, "exec"):
            msg = f"submit takes an instance of {job.__qualname__}, not the class with its exec()"
            raise TypeError(msg)
        by_exec = not callable(job)
    call = getattr(job, "exec", None) if by_exec else job
    if call is None:
        msg = f"submit takes an object with exec(), or a callable (got {job!r})"
        raise TypeError(msg)
    if not callable(call):
        msg = f"submit takes an object with exec(), and {job!r} has {call!r} in its place"
        raise TypeError(msg)
    if is_coroutine_function(call):
        raise TypeError(coroutine_refusal(call))
    return by_exec
