"""An argument that is not there: the message names the one that was meant."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from retryexec import (
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    EqualJitterBackoff,
    ExponentialBackoff,
    FibonacciBackoff,
    FullJitterBackoff,
    LinearBackoff,
    RetryingExecutor,
    RetryPolicy,
    retrying,
)
from retryexec._suggest import POLICY_NAMES, suggests_names, unknown_argument

OWN = [
    *[(RetryPolicy, n, "max_attempts=") for n in ("attempts", "tries", "max_tries", "max_attempt")],
    *[(RetryPolicy, name, "max_attempts=") for name in ("maxAttempts", "MAX_ATTEMPTS", "retries")],
    (RetryPolicy, "stop", "max_attempts= or max_elapsed="),
    (RetryPolicy, "timeout", "max_elapsed= or attempt_timeout="),
    *[(RetryPolicy, name, "backoff=") for name in ("wait", "delay", "sleep", "back_off")],
    *[(RetryPolicy, name, "retry_on=") for name in ("retry", "exceptions", "on", "retryOn")],
    *[(ExponentialBackoff, n, "max_interval=") for n in ("max", "cap", "max_delay", "maxInterval")],
    *[(ExponentialBackoff, n, "initial_interval=") for n in ("min", "initial", "start")],
    *[(ExponentialBackoff, n, "multiplier=") for n in ("factor", "exp_base", "multiplyer")],
    (ExponentialBackoff, "jitter", "randomization_factor="),
    (ExponentialBackoff, "seed", "random="),
    (FullJitterBackoff, "initial", "base="),
    (EqualJitterBackoff, "cap", "max_interval="),
    (DecorrelatedJitterBackoff, "max", "max_interval="),
    (ConstantBackoff, "delay", "interval="),
    (LinearBackoff, "step", "increment="),
    (FibonacciBackoff, "start", "initial="),
    (RetryingExecutor, "workers", "max_workers="),
    (RetryingExecutor, "on_giveup", "on_give_up="),
    (RetryingExecutor, "queue_size", "max_pending="),
    (RetryingExecutor, "retries", "policy=RetryPolicy(max_attempts=…)"),
    (RetryingExecutor, "max_attempts", "policy=RetryPolicy(max_attempts=…)"),
    (RetryingExecutor, "wait", "policy=RetryPolicy(backoff=…)"),
    (retrying, "max_attempts", "policy=RetryPolicy(max_attempts=…)"),
    (retrying, "before_sleep", "on_retry="),
]


@pytest.mark.parametrize(("call", "name", "meant"), OWN)
def test_the_name_that_was_meant(call: Callable[..., Any], name: str, meant: str) -> None:
    words = f"{call.__name__} does not take {name!r}: did you mean {meant}?"
    with pytest.raises(TypeError, match="^" + re.escape(words)) as caught:
        call(**{name: 3})
    assert caught.value.__cause__ is None
    takes = [one for one in inspect.signature(call).parameters if one != "self"]
    assert str(caught.value).endswith(f" It takes {', '.join(takes)}.")


def test_changes_of_a_policy_are_answered_too() -> None:
    with pytest.raises(TypeError, match="'attempts': did you mean max_attempts="):
        RetryPolicy().replace(attempts=3)
    with RetryingExecutor() as executor, pytest.raises(TypeError, match=r"mean max_attempts=\?"):
        executor.using(max_retries=3)


def test_retries_are_not_attempts() -> None:
    with pytest.raises(TypeError, match="one more than the retries"):
        RetryPolicy(max_retries=3)  # type: ignore[call-arg]


def test_what_resembles_nothing_is_answered_with_what_there_is() -> None:
    with pytest.raises(TypeError, match=r"'colour'. It takes max_attempts, max_elapsed"):
        RetryPolicy(colour="red")  # type: ignore[call-arg]


def test_a_policy_by_position_is_a_slip_that_is_named() -> None:
    for arguments in ([RetryPolicy()], [4, RetryPolicy()]):
        with pytest.raises(TypeError, match="policy= is a keyword"):
            RetryingExecutor(*arguments)


def test_a_number_by_position_is_asked_for_its_name() -> None:
    with pytest.raises(TypeError, match="by name, as in RetryPolicy"):
        RetryPolicy(3)  # type: ignore[call-arg]


def test_other_type_errors_stay_as_they_are() -> None:
    with pytest.raises(TypeError, match=r"^max_attempts counts the first try"):
        RetryPolicy(max_attempts="3")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'interval'"):
        ConstantBackoff()  # type: ignore[call-arg]


def test_a_subclass_is_named_itself() -> None:
    class Mine(ExponentialBackoff):
        pass

    with pytest.raises(TypeError, match=r"^Mine does not take 'max'"):
        Mine(max=3)  # type: ignore[call-arg]


def test_the_names_of_a_policy_are_those() -> None:
    assert tuple(inspect.signature(RetryPolicy).parameters) == POLICY_NAMES


def test_the_signature_stays() -> None:
    def call(one: int, *, two: str = "") -> None:
        """Do so."""

    decorated = suggests_names(call)
    assert inspect.signature(decorated) == inspect.signature(call)
    assert (decorated.__name__, decorated.__doc__) == ("call", "Do so.")


def test_any_function_may_ask() -> None:
    assert unknown_argument("walk", "speeed", ["speed", "to"]) == (
        "walk does not take 'speeed': did you mean speed=? It takes speed, to."
    )


@pytest.mark.parametrize(("name", "meant"), [("keys", "key="), ("guard", "guards=")])
def test_a_view_takes_more_than_a_policy(name: str, meant: str) -> None:
    wrong: dict[str, Any] = {name: None}
    with RetryingExecutor() as executor, pytest.raises(TypeError) as caught:
        executor.using(**wrong)
    assert f"using does not take {name!r}: did you mean {meant}?" in str(caught.value)
