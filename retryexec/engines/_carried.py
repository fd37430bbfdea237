"""Carry exceptions from one process to another: class, attributes, causes, traceback as text.

Pickle alone drops the causes and the traceback, and fails for an exception whose constructor takes
something else than its `args`, or which has a socket among its attributes. The process that reads
such a pickle must not break by it.
"""

import pickle
import traceback
from contextlib import suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any, TypeAlias

from retryexec._errors import PermanentError, RetryAfter
from retryexec._exceptions import with_traceback
from retryexec._outcome import encodable, qualified_name, text_of
from retryexec._typing import override
from retryexec.engines._pickles import can_pickle

CarriedError: TypeAlias = tuple[bytes, bool, str, str, str]
"""An exception on its way: its pickle, whether it is an Exception, type, text and traceback."""


class RemoteError(Exception):
    """Stands for an exception of an attempt that could not be brought here itself.

    Attributes:
        type_name: the qualified name of the exception's class.
        text: what the exception said.
        reason: why it could not be brought here.
    """

    def __init__(self, type_name: str, text: str, reason: str) -> None:
        super().__init__(type_name, text, reason)
        self.type_name = type_name
        self.text = text
        self.reason = reason

    @override
    def __str__(self) -> str:
        return f"{self.type_name}: {self.text} ({self.reason})"


class RemoteTraceback(Exception):
    """The traceback that an exception had where it was raised, as text: its ``__cause__`` here.

    An exception with a cause has it at the end of its causes.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @override
    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def dump_error(error: BaseException, *, cloud: bool = False) -> CarriedError:
    """Take *error* apart for `load_error`; never raises."""
    remote_text = _traceback_of(error)
    try:
        pickled = _dumps_linked(error, cloud)
    except Exception:
        try:
            pickled = _dumps_linked(_in_words(error, cloud, {}), cloud)
        except Exception:
            pickled = b""
    is_exception, text = isinstance(error, Exception), text_of(error, limit=None)
    return pickled, is_exception, qualified_name(type(error)), text, remote_text


def load_error(carried: CarriedError) -> BaseException:
    """Make an exception again, with its remote traceback; never raises.

    One that cannot be made here arrives as a `RemoteError`, and is final if it was control flow.
    """
    pickled, is_exception, type_name, text, remote_text = carried
    error: BaseException | None = None
    reason = "which cannot be pickled"
    if pickled:
        try:
            error = pickle.loads(pickled)  # noqa: S301  another process of ours has written it
        except Exception as broken:
            reason = f"which cannot be made here: {qualified_name(type(broken))}: {text_of(broken)}"
    if not isinstance(error, BaseException):
        error = RemoteError(type_name, text, reason)
        if not is_exception:
            error = PermanentError(error)
    _attach(error, RemoteTraceback(remote_text))
    return error


def _traceback_of(error: BaseException) -> str:
    """Return the traceback of *error* as text, less the frame of ours that it begins with."""
    try:
        begun = error.__traceback__
        rest = None if begun is None else begun.tb_next
        shown = traceback.TracebackException(type(error), error, rest, compact=True)
        return encodable("".join(shown.format()))
    except Exception as broken:
        return f"<its traceback cannot be shown: {qualified_name(type(broken))}>\n"


def _attach(error: BaseException, remote: RemoteTraceback) -> None:
    """Hang *remote* on *error* where it changes nothing else: at the end of its causes.

    What hangs on a `RetryAfter` as its cause would be what the job fails with.
    """
    seen = set[int]()
    while id(error) not in seen:
        seen.add(id(error))
        following = error.exception if isinstance(error, PermanentError) else error.__cause__
        if following is None:
            (_CONTEXT if isinstance(error, RetryAfter) else _CAUSE).__set__(error, remote)
            return
        error = following


# Written by these, since a class may refuse that its attributes are set, as frozen ones do.
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_SUPPRESS: Any = BaseException.__dict__["__suppress_context__"]


# ---- pickles of exceptions with what they were raised from


class _Linked:
    """What a pickler does with exceptions: it takes their causes and contexts along."""

    def reducer_override(self, obj: Any) -> Any:
        if not issubclass(type(obj), BaseException):
            others = getattr(super(), "reducer_override", None)  # cloudpickle has one
            return NotImplemented if others is None else others(obj)
        reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if isinstance(reduced, str):
            return reduced
        make, args, state = (*reduced, None)[:3]
        links = obj.__cause__, obj.__context__, obj.__suppress_context__
        return _make, (make, args, type(obj), obj.args), (state, links), None, None, _restore


class _LinkedPickler(_Linked, pickle.Pickler):
    pass


@cache
def _cloud_pickler() -> Any:
    cloudpickle: Any = import_module("cloudpickle")  # which has no types
    return type("_LinkedCloudPickler", (_Linked, cloudpickle.Pickler), {})


def _dumps_linked(error: BaseException, cloud: bool) -> bytes:
    buffer = BytesIO()
    pickler = _cloud_pickler() if cloud else _LinkedPickler
    pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(error)
    return buffer.getvalue()


def _make(make: Any, args: Any, kind: Any, own_args: tuple[Any, ...]) -> BaseException:
    """Make an exception; also of a class whose constructor takes something else than its args."""
    with suppress(Exception):
        made = make(*args)
        if isinstance(made, BaseException):
            return made
    return _made_without_init(kind, own_args)


def _made_without_init(kind: Any, args: tuple[Any, ...]) -> BaseException:
    made: BaseException = kind.__new__(kind, *args)
    made.args = args
    return made


def _restore(error: BaseException, state: tuple[Any, Any]) -> None:
    """Give *error* its attributes, and what it was raised from."""
    own, (cause, context, suppressed) = state
    if own is not None:
        with suppress(Exception):
            if type(error).__setstate__ is BaseException.__setstate__:
                vars(error).update(own)
            else:
                error.__setstate__(own)
    _CAUSE.__set__(error, cause)
    _CONTEXT.__set__(error, context)
    _SUPPRESS.__set__(error, suppressed)


# ---- what cannot be pickled


def _in_words(error: BaseException, cloud: bool, made: dict[int, BaseException]) -> BaseException:
    """Return a copy of *error* in which words stand for whatever cannot be pickled."""
    if id(error) in made:
        return made[id(error)]
    kind: Any = type(error)
    if can_pickle(kind, cloud=cloud):
        copy = _made_without_init(kind, tuple(_or_words(arg, cloud, made) for arg in error.args))
        own = {name: _or_words(value, cloud, made) for name, value in vars(error).items()}
        vars(copy).update(own)
    else:
        reason = "whose class cannot be pickled"
        copy = RemoteError(qualified_name(kind), text_of(error, limit=None), reason)
    made[id(error)] = with_traceback(copy, None)
    for link, value in ((_CAUSE, error.__cause__), (_CONTEXT, error.__context__)):
        link.__set__(copy, None if value is None else _in_words(value, cloud, made))
    _SUPPRESS.__set__(copy, error.__suppress_context__)
    return copy


def _or_words(value: Any, cloud: bool, made: dict[int, BaseException]) -> Any:
    if isinstance(value, BaseException):
        return _in_words(value, cloud, made)
    if can_pickle(value, cloud=cloud):
        return value
    return f"<{qualified_name(type(value))}, which cannot be pickled>"
