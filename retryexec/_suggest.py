"""Suggest the right name for an argument that does not exist."""

import functools
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

POLICY_NAMES = (
    "max_attempts",
    "max_elapsed",
    "backoff",
    "retry_on",
    "retry_on_result",
    "attempt_timeout",
)
"""What a RetryPolicy takes; whatever takes a policy= is often given these instead."""

# Our names, and for each those that other libraries have for the same thing (tenacity, backoff,
# stamina, urllib3, celery, Go's backoff), or that a user may guess. Some stand under several of
# ours: the one that the callee takes is meant.
_ELSEWHERE = {
    "max_attempts": (
        "attempts attempt tries max_tries stop stop_after stop_after_attempt retries max_retries "
        "retry_count num_retries n_retries times total retry_limit"
    ),
    "max_elapsed": (
        "timeout max_time max_elapsed_time elapsed deadline total_timeout max_duration stop "
        "stop_after_delay time_limit"
    ),
    "attempt_timeout": "timeout timeout_per_attempt per_attempt_timeout request_timeout",
    "backoff": (
        "wait waits delay delays sleep interval intervals retry_delay retry_interval "
        "backoff_factor wait_strategy jitter delay_seconds countdown"
    ),
    "retry_on": (
        "on exceptions exception exception_types retry_if retry retry_on_exception retry_for "
        "autoretry_for errors catch on_exception"
    ),
    "retry_on_result": "on_result retry_if_result predicate on_predicate",
    "exit_timeout": "timeout atexit_timeout shutdown_timeout",
    "max_workers": "workers threads n_jobs num_workers max_threads concurrency pool_size",
    "thread_name_prefix": "name prefix",
    "max_pending": "queue_size maxsize max_queue max_queue_size max_jobs buffersize capacity",
    "on_retry": "before_sleep on_backoff before_retry on_error",
    "on_give_up": "on_giveup giveup retry_error_callback on_failure on_error",
    "on_success": "on_done after",
    "policy": "retry_policy retrying",
    "max_interval": (
        "max cap maximum max_delay max_value max_wait max_backoff limit ceiling upper max_seconds"
    ),
    "initial_interval": "base",
    "multiplier": "factor exp_base base growth rate ratio exponent backoff_factor",
    "increment": "step",
    "randomization_factor": "jitter fraction randomization randomness",
    "random": "rng rand seed random_state randomizer",
} | dict.fromkeys(
    ("initial_interval", "initial", "base", "interval"),
    "base min minimum initial start first initial_delay base_delay delay initial_value min_wait "
    "min_delay wait seconds interval",
)
_COUNT_RETRIES = frozenset(("retries", "max_retries", "retry_count", "num_retries", "n_retries"))


def suggests_names(call: F) -> F:
    """Decorate *call*, an ``__init__`` or a function, to suggest a name in place of a wrong one.

    A call without an error costs one more Python call; the signature stays what it is.
    """
    code = call.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    is_init = call.__name__ == "__init__"
    takes = names[1:] if is_init else names
    by_name_only = code.co_argcount == is_init

    @functools.wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except TypeError:
            unknown = [key for key in kwargs if key not in takes]
            name = type(args[0]).__name__ if is_init else call.__name__
            if unknown:
                msg = unknown_argument(name, unknown[0], takes)
            elif by_name_only and len(args) > is_init:
                msg = f"{name} takes its arguments by name, as in {name}({takes[0]}=…)"
            else:
                raise  # another error
            raise TypeError(msg) from None

    return checked  # type: ignore[return-value]


def unknown_argument(callee: str, name: str, takes: Collection[str]) -> str:
    """Return the message about the argument *name*, which *callee* does not take."""
    meant = [*dict.fromkeys(_meant(name, takes))][:2]
    question = f": did you mean {' or '.join(meant)}?" if meant else "."
    if name in _COUNT_RETRIES and any("max_attempts" in one for one in meant):
        question += " Attempts count the first try, so they are one more than the retries."
    return f"{callee} does not take {name!r}{question} It takes {', '.join(takes)}."


def check_using(changes: Collection[str]) -> None:
    """Raise TypeError for a name that `RetryingExecutor.using` does not take."""
    takes = ("policy", "cancel", "key", "keep", "guards", *POLICY_NAMES)
    for name in changes:
        if name not in takes:
            raise TypeError(unknown_argument("using", name, takes))


def _meant(name: str, takes: Collection[str]) -> Iterator[str]:
    """Yield what *name* may have been meant to be, as code to write, best first."""
    known = [*takes, *(POLICY_NAMES if "policy" in takes else ())]
    for one in _similar(_in_our_style(name), known):
        yield f"{one}=" if one in takes else f"policy=RetryPolicy({one}=…)"


def _similar(name: str, known: list[str]) -> list[str]:
    """Return which of the *known* names may have been meant by *name*, best first."""
    if name in known:
        return [name]
    import difflib  # rarely needed

    elsewhere = [ours for ours in known if name in _ELSEWHERE.get(ours, "").split()]
    return elsewhere or difflib.get_close_matches(name, known, n=1, cutoff=0.7)


def _in_our_style(name: str) -> str:
    """Return *name*, perhaps ``maxAttempts`` or ``MAX_ATTEMPTS``, in snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
