"""What cannot be pickled is named, with its place and the reason."""

import pickle
import threading
from functools import partial
from typing import Any

import pytest
from helpers.remote import Session, double

from retryexec.engines._pickles import dumps_call, dumps_value


class Save:
    def __init__(self, record: Any) -> None:
        self.record = record

    def exec(self) -> None:
        raise NotImplementedError


def refusal(job: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(pickle.PicklingError) as info:
        dumps_call(job, hasattr(job, "exec"), args, kwargs, cloud=False)
    return str(info.value)


def test_a_call_that_can_be_sent() -> None:
    pickled = dumps_call(double, False, (1,), {"b": 2}, cloud=False)
    assert pickle.loads(pickled) == (double, False, (1,), {"b": 2})


def test_function_defined_within_another() -> None:
    text = refusal(lambda: None)
    assert "<lambda> cannot be sent to where attempts run" in text
    assert "it is defined within a function, where other processes do not find it" in text


def test_argument() -> None:
    assert "its argument 2, a lock: TypeError: cannot pickle" in refusal(
        double, 1, threading.Lock()
    )


def test_named_argument_and_the_part_of_it() -> None:
    text = refusal(double, given={"rows": [1, Session()]})
    assert "its argument given, a dict, because of ['rows'][1].lock, a lock: TypeError" in text


def test_field_of_a_job() -> None:
    text = refusal(Save({"session": Session()}))
    assert "the job itself, because of .record['session'].lock, a lock" in text


def test_partial() -> None:
    assert "double cannot be sent" in refusal(partial(double, threading.Lock()))


def test_object_that_refuses_to_be_looked_at() -> None:
    class Hostile:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise ValueError

    assert "its argument 1, a test_object_that" in refusal(double, Hostile())


def test_value() -> None:
    with pytest.raises(pickle.PicklingError) as info:
        dumps_value([1, {"lock": threading.Lock()}], cloud=False)
    assert "the attempt returned what cannot be pickled: a list, because of [1]['lock']" in str(
        info.value
    )


def test_cloudpickle_takes_functions_defined_anywhere() -> None:
    factor = 3
    pickled = dumps_call(lambda number: factor * number, False, (2,), {}, cloud=True)
    job, _, args, _ = pickle.loads(pickled)
    assert job(*args) == 6
