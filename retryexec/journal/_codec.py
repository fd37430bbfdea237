"""Jobs as JSON: registered kinds, their versions, and the round trip that every job must survive.

A record is the kind's registered name, its version and its fields as JSON: never a pickle, never
an import path. What JSON would silently change (a NaN, a subclass, a key that is no string) is
found when the job is accepted, in the caller's stack, and not when it is needed after a crash.
"""

import inspect
import ipaddress
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from retryexec.journal._compare import difference, field_names, is_model
from retryexec.journal._errors import JobRefused, Undecodable
from retryexec.journal._exact import exact_test
from retryexec.journal._rows import printable

# What msgspec knows nothing about, and what text stands for well.
_BY_TEXT: tuple[type, ...] = (
    pathlib.PurePath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)
# What encoding and decoding may raise for a job that is simply not fit: __post_init__ is the
# user's, and may raise anything.
_UNFIT = (Exception,)


class Kind:
    """A registered class of jobs.

    Attributes:
        name: what its records are filed under.
        cls: the class.
        version: of its fields; older records go through the class's ``upcast``.
        is_exact: passes only jobs that JSON is sure to give back, and may raise what their
            attributes do.
    """

    __slots__ = (
        "_fields",
        "_upcast",
        "cls",
        "decode",
        "is_exact",
        "json_names",
        "name",
        "version",
    )

    def __init__(self, name: Any, cls: Any) -> None:
        if not isinstance(name, str) or name == "":
            msg = f"jobs maps the names of kinds to their classes (got {name!r} as a name)"
            raise TypeError(msg)
        if printable(name) != name:
            msg = f"jobs[{name!r}]: the name of a kind is text that UTF-8 can hold"
            raise ValueError(msg)
        if not inspect.isclass(cls):
            msg = f"jobs[{name!r}] takes the class of the jobs (got {cls!r})"
            raise TypeError(msg)
        if not callable(getattr(cls, "exec", None)):
            msg = f"jobs[{name!r}] takes a class with exec(), which {cls.__qualname__} is not"
            raise TypeError(msg)
        fields = field_names(cls)
        if fields is None:
            msg = (
                f"jobs[{name!r}] takes a class whose fields are declared, such as a dataclass or "
                f"a msgspec.Struct: make {cls.__qualname__} one"
            )
            raise TypeError(msg)
        self.name = name
        self.cls = cls
        self.version = _version_of(name, cls, fields)
        # A field of that name is the job's own affair.
        self._upcast: Any = None if "upcast" in fields else getattr(cls, "upcast", None)
        self.decode: Callable[[bytes | str], Any] = _decoder_of(name, cls)
        self._fields = fields
        self.json_names = _json_names(cls, fields)
        self.is_exact = exact_test(cls)

    def check(self, job: Any, data: bytes) -> None:
        """Make sure that what *data* says is the whole of *job*.

        Raises:
            JobRefused: something gets lost or changed; the message names the field.
        """
        try:
            back = self.decode(data)
        except _UNFIT as error:
            raise self._refuse(job, f"it cannot be read back: {error}") from error
        try:
            for name in self._fields:
                found = difference(getattr(job, name), getattr(back, name), name)
                if found is not None:
                    raise self._refuse(job, f"field {found}")
        except JobRefused:
            raise
        except _UNFIT as error:
            raise self._refuse(job, f"it cannot be compared: {error!r}") from error

    def revive(self, version: int, data: bytes | str) -> Any:
        """Return the job of a record.

        Raises:
            Undecodable: with the reason.
        """
        if version > self.version:
            msg = (
                f"kind {self.name!r}: the record is of version {version}, which is newer than "
                f"{self.cls.__qualname__}'s {self.version}"
            )
            raise Undecodable(msg)
        try:
            if version < self.version:
                data = self._carried_over(version, data)
            return self.decode(data)
        except Undecodable:
            raise
        except _UNFIT as error:
            msg = f"kind {self.name!r}, version {version}: {type(error).__name__}: {error}"
            raise Undecodable(msg) from error

    def _carried_over(self, version: int, data: bytes | str) -> bytes:
        if self._upcast is None:
            msg = (
                f"kind {self.name!r}: the record is of version {version}, and "
                f"{self.cls.__qualname__} does not have an upcast(version, fields) to make it "
                f"{self.version}"
            )
            raise Undecodable(msg)
        fields = self._upcast(version, msgspec.json.decode(data))
        return _encode(fields)

    def _refuse(self, job: Any, reason: str) -> JobRefused:
        return JobRefused(
            f"a job of kind {self.name!r} ({type(job).__qualname__}) would not survive a crash: "
            f"{reason}"
        )

    def refuse_unencodable(self, job: Any, error: BaseException) -> JobRefused:
        """Return why *job* is refused when encoding it raised *error*, with the field if found."""
        for name in self._fields:
            try:
                _encode(getattr(job, name))
            except _UNFIT as found:
                return self._refuse(job, f"field {name!r} cannot be JSON: {found}")
        return self._refuse(job, f"it cannot be JSON: {error}")


class Codec:
    """The kinds of one journal.

    Args:
        jobs: registered name to class.
        max_bytes: the most that one job's JSON may take.

    Raises:
        TypeError, ValueError: a registration cannot be right; the message names it.
    """

    def __init__(self, jobs: Mapping[str, type], *, max_bytes: int) -> None:
        if not isinstance(jobs, Mapping):
            msg = f'jobs maps kinds to classes, as {{"user_saved": SaveUser}} (got {jobs!r})'
            raise TypeError(msg)
        self._max_bytes = max_bytes
        self._by_name = {name: Kind(name, cls) for name, cls in jobs.items()}
        self._by_class: dict[type, Kind] = {}
        for kind in self._by_name.values():
            twin = self._by_class.setdefault(kind.cls, kind)
            if twin is not kind:
                msg = (
                    f"{kind.cls.__qualname__} is registered as {twin.name!r} and as "
                    f"{kind.name!r}: a class has one kind"
                )
                raise ValueError(msg)

    def __contains__(self, kind: str) -> bool:
        return kind in self._by_name

    @property
    def kinds(self) -> list[str]:
        """The names of all kinds."""
        return [*self._by_name]

    def version_of(self, kind: str) -> int:
        """Return the version that records of *kind* are written in."""
        return self._by_name[kind].version

    def decoder(self, kind: Any) -> tuple[str, int, Callable[[str], Any]] | None:
        """Return the name of *kind*, its version, and what makes jobs of records of that version.

        None if it is not registered. What the decoder raises, `decode` puts into words.
        """
        known = self._by_name.get(kind)
        return None if known is None else (known.name, known.version, known.decode)

    def unknown(self, kind: str, names: Iterable[str]) -> str | None:
        """Return the first of *names* that is no field of *kind*, as JSON names them."""
        known = self._by_name[kind].json_names
        return next((name for name in names if name not in known), None)

    def encode(self, job: Any) -> tuple[Kind, bytes]:
        """Return the kind of *job* and its JSON, which is sure to make the same job again.

        Raises:
            JobRefused: its class is not registered, it is too large, or JSON would change it.
        """
        kind = self._by_class.get(job.__class__)
        if kind is None:
            raise self._unregistered(job)
        try:
            data = _encode(job)
        except _UNFIT as error:
            raise kind.refuse_unencodable(job, error) from error
        try:
            is_sure = kind.is_exact(job)
        except _UNFIT:  # it lacks a field, say
            is_sure = False
        if not is_sure:
            kind.check(job, data)
        if len(data) > self._max_bytes:
            msg = (
                f"a job of kind {kind.name!r} takes {len(data):,} bytes, and the limit is "
                f"max_bytes={self._max_bytes:,}: keep what is large elsewhere and a reference to "
                "it in the job, or raise the limit"
            )
            raise JobRefused(msg)
        return kind, data

    def decode(self, kind: str, version: int, data: bytes | str) -> Any:
        """Return the job of a record.

        Raises:
            Undecodable: with the reason.
        """
        known = self._by_name.get(kind)
        if known is None:
            msg = f"kind {kind!r} is not registered here"
            raise Undecodable(msg)
        return known.revive(version, data)

    def _unregistered(self, job: Any) -> JobRefused:
        names = ", ".join(sorted(self._by_name)) or "none"
        cls = type(job)
        if inspect.isclass(job):
            return JobRefused(
                f"a journal keeps jobs, not classes: submit an instance of {job.__qualname__}"
            )
        if callable(job) and not hasattr(job, "exec"):
            return JobRefused(
                f"a journal keeps jobs as typed records, which a {cls.__qualname__} is not: make a "
                'dataclass with exec() of it, register it in Journal(jobs={"name": Class}), or '
                "submit it to another executor, without a journal"
            )
        for kind in self._by_name.values():
            if isinstance(job, kind.cls):
                return JobRefused(
                    f"{cls.__qualname__} is a subclass of {kind.cls.__qualname__}, as which it "
                    "would come back: register it under a kind of its own in Journal(jobs={...})"
                )
        return JobRefused(
            f"{cls.__qualname__} is not a registered kind of job: add it to Journal(jobs="
            f"{{...}}) under a name of its own (registered: {names}), or submit it to "
            "another executor, without a journal"
        )


def json_of(value: Any) -> bytes:
    """Return *value* as JSON."""
    return _encode(value)


def _decoder_of(name: str, cls: type) -> Callable[[bytes | str], Any]:
    if is_model(cls):
        validate: Callable[[bytes | str], Any] = cls.model_validate_json  # type: ignore[attr-defined]
        return validate
    try:
        return msgspec.json.Decoder(cls, dec_hook=_from_json).decode
    except (TypeError, NameError) as error:
        msg = f"jobs[{name!r}]: the fields of {cls.__qualname__} cannot be JSON: {error}"
        raise TypeError(msg) from error


def _to_json(value: Any) -> Any:
    """Return what stands in JSON for *value*, which msgspec does not know."""
    if isinstance(value, _BY_TEXT):
        return str(value)
    if is_model(type(value)):
        return msgspec.Raw(_json_of_model(value))
    msg = f"{type(value).__qualname__} cannot be written as JSON"
    raise NotImplementedError(msg)


def _json_of_model(value: Any) -> bytes:
    # Without computed fields, which nobody can set, and by the names that it is read by.
    return str(value.model_dump_json(round_trip=True, by_alias=True)).encode()


def _from_json(expected: Any, value: Any) -> Any:
    make: Any = expected
    if inspect.isclass(expected):
        if issubclass(expected, _BY_TEXT):
            return make(value)
        if is_model(expected):
            return make.model_validate_json(_encode(value))
    msg = f"{expected!r} cannot be made of JSON"
    raise NotImplementedError(msg)


_encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_to_json).encode


def _json_names(cls: type, fields: tuple[str, ...]) -> frozenset[str]:
    """Return what JSON calls the fields, which may have other names there."""
    if is_model(cls):
        known: Any = cls.__pydantic_fields__  # type: ignore[attr-defined]
        return frozenset(known[name].serialization_alias or name for name in fields)
    names = getattr(cls, "__struct_encode_fields__", None)
    return frozenset(fields if names is None else names)


def _version_of(name: str, cls: type, fields: tuple[str, ...]) -> int:
    version = 1 if "version" in fields else getattr(cls, "version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        msg = (
            f"jobs[{name!r}]: the version of {cls.__qualname__} is a whole number from 1 up, "
            f"as version: ClassVar[int] = 2 (got {version!r})"
        )
        raise TypeError(msg)
    return version
