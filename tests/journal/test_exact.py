"""What need not be decoded when it is accepted: only what is sure to come back as it is."""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Self,
    TypeAlias,
    Union,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retryexec.journal import JobRefused
from retryexec.journal._codec import Codec, Kind, json_of
from retryexec.journal._exact import exact_test


class Job:
    def exec(self) -> None:
        """Not called here."""


class Name(str):
    """Text, but not quite."""

    __slots__ = ()


class Number(int):
    """A number, but not quite."""


class Names(list[str]):
    """A list, but not quite."""


class Liar(str):
    """Text that says it is plain text."""

    __slots__ = ()
    __class__ = str  # type: ignore[assignment]


class Color(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Point3(Point):
    z: int = 0


class Place(msgspec.Struct):
    name: str
    at: Point | None = None


@dataclass
class Tree:
    value: int
    branches: list[Tree] = field(default_factory=list)


UserId = NewType("UserId", int)
BERLIN = ZoneInfo("Europe/Berlin")
ODD_ZONE = timezone(timedelta(hours=5, seconds=1))


class Struct(msgspec.Struct):
    def exec(self) -> None:
        """Not called here."""


# ---- for any class and any values: what the test passes comes back

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text()),
    (int, st.integers(-(2**63), 2**63 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (None, st.none()),
    (bytes, st.binary()),
    (UUID, st.uuids()),
    (date, st.dates()),
    (datetime, st.datetimes(timezones=st.sampled_from([None, UTC]))),
    (timedelta, st.timedeltas()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Point, st.builds(Point, st.integers(-9, 9), st.floats(0, 1))),
    (Place, st.builds(Place, st.text(), st.builds(Point, st.integers(-9, 9)))),
    (Tree, st.builds(Tree, st.integers(-9, 9))),
    (Color, st.just(Color.RED)),
    (UserId, st.integers(0, 9)),
    (Literal["a", "b"], st.sampled_from("ab")),
    (Annotated[str, "a note"], st.text()),
    (complex, st.just(1j)),
]
# Not within unions: msgspec 0.22 crashes if a constraint stands there beside a tuple.
CONSTRAINED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Annotated[int, msgspec.Meta(ge=0)], st.integers(-1, 1)),
    (list[Annotated[str, msgspec.Meta(max_length=1)]], st.lists(st.text(max_size=2), max_size=2)),
    (Annotated[list[int], msgspec.Meta(max_length=1)], st.lists(st.integers(0, 9), max_size=2)),
    (Annotated[dict[str, int], msgspec.Meta(min_length=1)], st.just({})),
]
ODD = st.sampled_from(
    [
        *(2**63, 2**64, -(2**63) - 1, 2**53 + 1, 5, True, math.nan, -math.inf, -0.0, Number(3)),
        *("\ud800", Name("john"), Liar("john"), b"raw", bytearray(b"raw"), UUID(int=1), None, 1j),
        *(
            datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
            datetime(2024, 1, 1, tzinfo=ODD_ZONE),
        ),
        *(
            Decimal("NaN"),
            Decimal("-Infinity"),
            Decimal("sNaN"),
            Point(1, 5),
            Point(2**70),
            Color.RED,
        ),
        *(Point3(1, 0.5, 2), Place("x", Point3(1)), Tree(1, [Tree(2)]), Names(["a"]), [Name("a")]),
        *(
            {1: "a"},
            {Name("a"): 1},
            {"a": (1,)},
            (1, "a"),
            {1, 2},
            frozenset("ab"),
            [[[]]],
            object(),
        ),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
Declared: TypeAlias = tuple[Any, st.SearchStrategy[Any]]


def nested(inner: st.SearchStrategy[Declared]) -> st.SearchStrategy[Declared]:
    def of_two(a: Declared, b: Declared) -> list[Declared]:
        return [
            (tuple[a[0], b[0]], st.tuples(a[1], b[1])),
            (Union[a[0], b[0]], a[1] | b[1]),  # noqa: UP007  None | None is an error
        ]

    def of_one(hint: Any, values: st.SearchStrategy[Any]) -> list[Declared]:
        many = st.lists(values | ODD if hint is str else values, max_size=3)
        few = st.lists(values, max_size=2).map(hashable)
        return [
            (list[hint], many),
            (Sequence[hint], many),
            (tuple[hint, ...], many.map(tuple)),
            (dict[str, hint], st.dictionaries(st.text(), values, max_size=3)),
            (dict[int, hint], st.dictionaries(st.integers(), values, max_size=3)),
            (Mapping[str, hint], st.dictionaries(st.text(), values, max_size=3)),
            (set[hint], few.map(set)),
            (frozenset[hint], few.map(frozenset)),
            (Optional[hint], values | st.none()),  # noqa: UP045
        ]

    one = inner.flatmap(lambda declared: st.sampled_from(of_one(*declared)))
    return one | st.tuples(inner, inner).flatmap(lambda two: st.sampled_from(of_two(*two)))


def hashable(values: list[Any]) -> list[Any]:
    try:
        return [*set(values)]
    except TypeError:
        return []


LEAF = st.sampled_from([*LEAVES, (Any, JSON), (dict, JSON), (list, JSON), (object, JSON)])
DECLARED = st.recursive(LEAF, nested, max_leaves=3) | st.sampled_from(CONSTRAINED)
MAKERS: list[Callable[[list[tuple[str, Any]]], Any]] = [
    lambda fields: make_dataclass("Made", fields, bases=(Job,)),
    lambda fields: make_dataclass("Made", fields, bases=(Job,), frozen=True, slots=True),
    lambda fields: make_dataclass("Made", fields, bases=(Job,), eq=False),
    lambda fields: msgspec.defstruct("Made", fields, bases=(Struct,)),
    lambda fields: msgspec.defstruct("Made", fields, bases=(Struct,), array_like=True),
    lambda fields: msgspec.defstruct("Made", fields, bases=(Struct,), rename="camel", tag=True),
    lambda fields: msgspec.defstruct("Made", fields, bases=(Struct,), omit_defaults=True),
]


def has_same_types(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(has_same_types(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(has_same_types, a, b))
    if isinstance(a, (set, frozenset)):
        return a == b and sorted(map(str, map(type, a))) == sorted(map(str, map(type, b)))
    if isinstance(a, msgspec.Struct):
        return all(has_same_types(getattr(a, n), getattr(b, n)) for n in a.__struct_fields__)
    if is_dataclass(a):
        return all(has_same_types(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b) and str(a) == str(b)  # which tells -0.0 from 0.0


@settings(max_examples=300, deadline=None)
@given(data=st.data(), declared=st.lists(DECLARED, max_size=3), make=st.sampled_from(MAKERS))
def test_what_passes_comes_back_and_the_full_check_agrees(
    data: st.DataObject, declared: list[Declared], make: Callable[[list[tuple[str, Any]]], Any]
) -> None:
    cls = make([(f"field_{n}", hint) for n, (hint, _) in enumerate(declared)])
    try:
        kind = Kind("job", cls)
    except TypeError:  # msgspec has no JSON for that
        return
    job = cls(*(data.draw(values | ODD) for _, values in declared))
    try:
        encoded = json_of(job)
        kind.check(job, encoded)
    except Exception:
        is_accepted = False
    else:
        is_accepted = True
    if kind.is_exact(job):
        try:
            encoded = json_of(job)
        except Exception:
            return  # either way it is refused
        assert is_accepted
        assert has_same_types(job, kind.decode(encoded))


@settings(max_examples=300)
@given(st.integers(0, 2**64 - 1))
@example(0x0010000000000000)  # the smallest normal number
@example(0x000FFFFFFFFFFFFF)
@example(0x7FEFFFFFFFFFFFFF)
def test_each_float_comes_back_to_the_bit(bits: int) -> None:
    (value,) = struct.unpack("<d", struct.pack("<Q", bits))
    job = Real(value)
    if IS_EXACT[Real](job):
        back = msgspec.json.decode(json_of(job), type=Real)
        assert struct.pack("<d", back.value) == struct.pack("<d", value)
    else:
        assert not math.isfinite(value)


# ---- which those are


@dataclass(frozen=True)
class Save(Job):
    version: ClassVar[int] = 2
    user: str
    number: int = 0
    at: float = 0.0
    tags: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    point: Point = field(default_factory=lambda: Point(1))
    key: UUID | None = None


@dataclass
class Real(Job):
    value: float


IS_EXACT = {cls: exact_test(cls) for cls in (Save, Real)}
SAVE = Save("john", 5, 1.5, ["web"], {"a": [1, {"b": None}]}, "note", Point(2, 0.5), UUID(int=5))


@pytest.mark.parametrize(
    "job",
    [
        SAVE,
        Save(""),
        Save("ä €", -(2**63)),
        Save("", 2**63 - 1),
        Save("", 0, -0.0),
        Save("", 0, 5e-324),
    ],
    ids=repr,
)
def test_a_job_of_plain_fields_passes(job: Save) -> None:
    assert IS_EXACT[Save](job)


@pytest.mark.parametrize(
    "other",
    [
        {"user": Name("john")},
        {"user": Liar("john")},
        {"user": None},
        {"number": True},
        {"number": Number(5)},
        {"number": 2**63},
        {"number": -(2**63) - 1},
        {"at": 1},
        {"at": math.nan},
        {"at": math.inf},
        {"tags": ("web",)},
        {"tags": [1]},
        {"tags": [Liar("web")]},
        {"tags": Names(["web"])},
        {"more": {1: 2}},
        {"more": {Liar("a"): 2}},
        {"more": {"a": (1, 2)}},
        {"more": {"a": [math.nan]}},
        {"more": {"a": 2**63}},
        {"note": 5},
        {"point": Point3(1, 0.5)},
        {"point": Point(1, 5)},
        {"key": "0" * 32},
    ],
    ids=repr,
)
def test_anything_else_is_left_to_the_comparison(other: dict[str, Any]) -> None:
    assert not IS_EXACT[Save](replace(SAVE, **other))


@dataclass
class Pairs(Job):
    pair: tuple[int, str] = (1, "a")
    price: Decimal = Decimal(1)
    when: datetime | None = None
    number: int | float | None = None
    some: frozenset[str] = frozenset()


@dataclass
class Short(Job):
    value: Annotated[list[int], msgspec.Meta(max_length=1)]


@dataclass
class Counted(Job):
    value: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


@dataclass
class Ambiguous(Job):
    value: Decimal | float


@pytest.mark.parametrize(
    ("job", "passes"),
    [
        (Pairs(), True),
        (Pairs(when=datetime(2024, 1, 1, tzinfo=UTC), number=1.5, some=frozenset("ab")), True),
        (Pairs(when=datetime(2024, 10, 27, 2, 30, fold=1)), True),  # noqa: DTZ001
        (Pairs(pair=(1, "a", 2)), False),  # type: ignore[arg-type]
        (Pairs(pair=(1,)), False),  # type: ignore[arg-type]
        (Pairs(price=Decimal("NaN")), False),
        (Pairs(price=Decimal("Infinity")), False),
        (Pairs(when=datetime(2024, 1, 1, tzinfo=timezone(timedelta(0)))), True),
        (Pairs(when=datetime(2024, 1, 1, tzinfo=BERLIN)), False),
        (Pairs(number=True), False),
        (Pairs(number=math.nan), False),
        (Pairs(some=frozenset([Name("a")])), False),
        (Short([1]), False),  # whatever is declared beside the type is left to the comparison
        (Counted({"a": 1}), False),
        (Ambiguous(1.5), False),
    ],
)
def test_of_unions_tuples_and_constraints(job: Any, passes: bool) -> None:
    assert exact_test(type(job))(job) is passes


def test_what_is_deeper_than_the_decoder_may_follow_is_left_to_the_comparison() -> None:
    value: list[Any] = []
    for _ in range(100):
        value = [value]
    assert not IS_EXACT[Save](replace(SAVE, more={"a": value}))


def test_a_job_that_lacks_a_field_is_left_to_the_comparison() -> None:
    job = Real(1.0)
    del job.value
    with pytest.raises(JobRefused, match=r"'value'|required"):
        Codec({"real": Real}, max_bytes=100).encode(job)


@dataclass
class PostInit(Real):
    def __post_init__(self) -> None:
        self.value = abs(self.value)


@dataclass(init=False)
class OwnInit(Real):
    def __init__(self, value: float) -> None:
        self.value = value


class NotDecorated(Real):
    pass


@dataclass
class NotAtBirth(Job):
    value: float = field(init=False, default=1.0)


@dataclass
class Computed(Real):
    pass


Computed.value = property(lambda _: 1.0, lambda *_: None)  # type: ignore[assignment]


@dataclass
class Reading(Real):
    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__(name)


@dataclass
class Finding(Real):
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@dataclass
class Setting(Real):
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)


@dataclass
class Making(Real):
    def __new__(cls, *_: Any) -> Self:
        return super().__new__(cls)


@dataclass
class IsDict(dict[str, int], Job):
    value: float = 1.0


class Leaving(Struct, omit_defaults=True):
    value: float = 1.0


class PostInitStruct(Struct):
    value: float

    def __post_init__(self) -> None:
        self.value = abs(self.value)


class Pair(NamedTuple):
    value: float


ODD_CLASSES: list[Any] = [
    *(PostInit, OwnInit, NotDecorated, Computed, Reading, Finding, Setting, Making),
    *(NotAtBirth, IsDict, Leaving, PostInitStruct, Pair),
]


@pytest.mark.parametrize("cls", ODD_CLASSES)
def test_a_class_with_code_of_its_own_is_left_to_the_comparison(cls: Any) -> None:
    job = cls() if cls in {NotAtBirth, IsDict, Leaving} else cls(1.0)
    assert not exact_test(cls)(job)


def test_a_subclass_is_not_its_base() -> None:
    assert not IS_EXACT[Real](PostInit(1.0))
