"""Jobs as JSON: what the round trip lets through and what it finds; old records."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import math
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest

from retryexec.journal import JobRefused
from retryexec.journal._codec import Codec
from retryexec.journal._errors import Undecodable

LOCALHOST = ipaddress.IPv4Address("127.0.0.1")


class Job:
    def exec(self) -> None:
        """Not called here."""


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Name(str):
    """Text, but not quite."""

    __slots__ = ()


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Point3(Point):
    z: int = 0


@dataclass
class Everything(Job):
    text: str = "ä €"
    number: int = 2**70
    real: float = 0.1
    truth: bool = True
    nothing: None = None
    raw: bytes = b"\x00\xff"
    exact: Decimal = Decimal("1.10")
    id: UUID = field(default_factory=uuid4)
    day: date = date(2026, 1, 2)
    span: timedelta = timedelta(days=-1, microseconds=3)
    moment: datetime = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    elsewhere: datetime = datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    zoned: datetime = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    naive: datetime = datetime(2026, 1, 2)  # noqa: DTZ001  as people have them
    clock: time = time(3, 4)
    pair: tuple[int, str] = (1, "one")
    many: list[Point] = field(default_factory=lambda: [Point(1), Point(2, 3)])
    some: set[int] = field(default_factory=lambda: {3, 1, 2})
    fixed: frozenset[str] = frozenset("ab")
    table: dict[int, str] = field(default_factory=lambda: {1: "a", 2: "b"})
    anything: Any = field(default_factory=lambda: {"a": [1, 2.5, None, {"b": "c"}]})
    maybe: int | None = None
    color: Color = Color.RED
    path: Path = Path("/tmp/x")  # noqa: S108  a path, and no file
    host: ipaddress.IPv4Address = LOCALHOST


class Record(msgspec.Struct, Job, rename="camel", frozen=True):
    user_name: str
    tags: tuple[str, ...] = ()


class Named(NamedTuple):
    a: int
    b: str = ""

    def exec(self) -> None:
        """Not called here."""


@dataclass
class Empty(Job):
    pass


@dataclass(slots=True, frozen=True)
class Slotted:
    a: int
    _private: str = ""

    def exec(self) -> None:
        """Not called here."""


def codec(**jobs: type) -> Codec:
    return Codec(jobs, max_bytes=100_000)


@pytest.mark.parametrize(
    "job",
    [
        Everything(),
        Everything(real=-0.0, text="", number=-1),
        Record("john", ("a", "b")),
        Named(1, "b"),
        Empty(),
        Slotted(1, "kept too"),
    ],
    ids=lambda job: type(job).__name__,
)
def test_what_json_keeps_is_kept(job: Any) -> None:
    c = codec(job=type(job))
    kind, data = c.encode(job)
    back = c.decode("job", kind.version, data.decode())
    assert type(back) is type(job)
    assert back == job
    assert math.copysign(1, getattr(back, "real", 1)) == math.copysign(1, getattr(job, "real", 1))


@dataclass
class Holder(Job):
    value: Any = None


@dataclass
class Maybe(Job):
    value: float | None = None


@dataclass
class Real(Job):
    value: float = 0.0


@dataclass
class Text(Job):
    value: str = ""


@dataclass
class Corner(Job):
    value: Point = field(default_factory=lambda: Point(0))


@dataclass
class Corners(Job):
    value: dict[str, list[Point]] = field(default_factory=dict)


@dataclass
class Numbers(Job):
    value: list[int] = field(default_factory=list)


@dataclass
class NoJson(Job):
    value: complex


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


TRAPS = {
    "NaN becomes null": Maybe(math.nan),
    "infinity becomes null": Maybe(math.inf),
    "NaN under Any": Holder(math.nan),
    "NaN where null is an error": Real(-math.inf),
    "an int that no float is, where one is declared": Real(2**53 + 1),
    "a bool where a float is declared": Real(True),
    "a subclass of text": Text(Name("john")),
    "a subclass is sliced": Corner(Point3(1, 2, 3)),
    "a subclass is sliced, deep inside": Corners({"a": [Point(1), Point3(1, 2, 3)]}),
    "int keys under Any": Holder({1: "one"}),
    "a tuple under Any": Holder((1, 2)),
    "a set under Any": Holder({1, 2}),
    "bytes under Any": Holder(b"raw"),
    "a date under Any": Holder(date(2026, 1, 2)),
    "an enum under Any": Holder(Color.RED),
    "a dataclass under Any": Holder(Point(1)),
    "a big float under Any": Holder({"a": [1, {"b": Decimal(1)}]}),
    "a lone surrogate": Text("\ud800"),
    "a hundred thousand lists": Holder(deep(100_000)),
    "no JSON at all": Holder(object()),
    "a function": Holder([len]),
    "a type of no form in JSON": NoJson(1j),
    "the wrong type": Numbers("no list"),  # type: ignore[arg-type]
    "the wrong type inside": Numbers([1, "2"]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("job", TRAPS.values(), ids=TRAPS)
def test_what_json_would_change_is_refused(job: Any) -> None:
    # From Python 3.14 on, what is nested deep overflows the stack only as it is read back.
    with pytest.raises(JobRefused, match=r"(?s)'trap'.*(value|Stack overflow)"):
        codec(trap=type(job)).encode(job)


def test_a_job_that_holds_itself_is_refused() -> None:
    job = Holder([])
    job.value.append(job.value)
    with pytest.raises(JobRefused, match="'value'"):
        codec(loop=Holder).encode(job)


def test_a_post_init_that_changes_its_own_work_is_refused() -> None:
    @dataclass
    class Padded(Job):
        n: int
        text: str

        def __post_init__(self) -> None:
            self.text += "!"

    with pytest.raises(JobRefused, match="'text'"):
        codec(padded=Padded).encode(Padded(1, "a"))


@pytest.mark.parametrize(
    "options", [{"eq": False}, {"order": True}], ids=["no ==", "some fields not compared"]
)
def test_equality_is_ours_and_not_the_class_s(options: dict[str, bool]) -> None:
    """A class may say that all its instances are equal, or none."""

    @dataclass(**options)
    class Odd(Job):
        a: int
        b: Any = field(default=None, compare=False)

    c = codec(odd=Odd)
    c.encode(Odd(1, "b"))
    with pytest.raises(JobRefused, match="'b'"):
        c.encode(Odd(1, (1,)))


def test_a_field_that_is_not_given_at_birth_is_kept_or_refused() -> None:
    @dataclass
    class Late(Job):
        a: int
        b: int = field(init=False, default=0)

    c = codec(late=Late)
    job = Late(1)
    job.b = 5
    try:
        _, data = c.encode(job)
    except JobRefused as error:
        assert "'b'" in str(error)  # noqa: PT017  either will do, silence will not
    else:
        assert c.decode("late", 1, data).b == 5


def test_a_refusal_shows_no_values() -> None:
    """They end in logs, and what people save is nobody's business."""
    for job in (Text(Name("secret")), Corner(Point3(424242)), Holder(("secret",))):
        with pytest.raises(JobRefused) as caught:
            codec(job=type(job)).encode(job)
        assert "secret" not in str(caught.value)
        assert "424242" not in str(caught.value)


def test_a_job_too_large_is_refused() -> None:
    c = codec(text=Text)
    c.encode(Text("x" * 90_000))
    with pytest.raises(JobRefused, match=r"100,01\d bytes.*max_bytes=100,000"):
        c.encode(Text("x" * 100_000))


# ---- classes


def test_a_subclass_is_a_kind_of_its_own() -> None:
    @dataclass
    class Base(Job):
        a: int = 0

    @dataclass
    class Derived(Base):
        pass

    with pytest.raises(JobRefused, match=r"Derived is a subclass of .*Base"):
        codec(base=Base).encode(Derived())
    assert codec(base=Base, derived=Derived).encode(Derived())[0].name == "derived"


@dataclass
class NoExec:
    a: int


class NoFields(Job):
    pass


@dataclass
class OddVersion(Job):
    version: ClassVar[Any] = "2"


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([Text], "maps kinds to classes"),
        ({"": Text}, "names of kinds"),
        ({3: Text}, "names of kinds"),
        ({"text": Text("")}, "takes the class"),
        ({"text": NoExec}, r"exec\(\), which NoExec is not"),
        ({"text": NoFields}, "dataclass"),
        ({"text": OddVersion}, r"version.*'2'"),
        ({"a": Text, "b": Text}, "'a' and as 'b'"),
    ],
)
def test_registrations_that_cannot_be_right(jobs: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Codec(jobs, max_bytes=1)


# ---- old records


@dataclass
class User2(Job):
    version: ClassVar[int] = 2
    name: str
    age: int = 0

    @classmethod
    def upcast(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        assert version == 1
        return {"name": f"{fields['first']} {fields['last']}"}


def test_old_records_are_carried_over() -> None:
    c = codec(user=User2)
    assert c.decode("user", 1, '{"first":"John","last":"Doe"}') == User2("John Doe")
    assert c.encode(User2("x"))[0].version == 2


@pytest.mark.parametrize(
    ("version", "data", "words"),
    [
        (1, '{"first":"John"}', "KeyError: 'last'"),
        (1, "[1]", "TypeError"),
        (2, '{"name":"John","age":"7"}', r"\$.age"),
        (2, '{"name":', "truncated"),
        (3, '{"name":"John"}', "newer than"),
    ],
)
def test_records_that_cannot_be_decoded_say_why(version: int, data: str, words: str) -> None:
    with pytest.raises(Undecodable, match=words):
        codec(user=User2).decode("user", version, data)


def test_an_unknown_kind_says_so() -> None:
    with pytest.raises(Undecodable, match="'nobody' is not registered"):
        codec(user=User2).decode("nobody", 1, "{}")


def test_a_new_version_without_an_upcast_says_what_is_missing() -> None:
    @dataclass
    class Bare(Job):
        version: ClassVar[int] = 2

    with pytest.raises(Undecodable, match=r"not have an upcast\(version, fields\)"):
        codec(bare=Bare).decode("bare", 1, "{}")


def test_a_field_called_version_is_the_job_s_own() -> None:
    @dataclass
    class Release(Job):
        version: str = "1.0"

    c = codec(release=Release)
    kind, data = c.encode(Release("2.0"))
    assert kind.version == 1
    assert c.decode("release", 1, data) == Release("2.0")


def test_fields_come_and_go() -> None:
    c = codec(text=Text)
    assert c.decode("text", 1, '{"value":"a","gone":1}') == Text("a")
    assert c.decode("text", 1, "{}") == Text("")


def test_without_msgspec_the_import_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("retryexec.journal")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ImportError, match=r"pip install 'retryexec\[journal\]'"):
        import retryexec.journal  # noqa: F401


def test_fields_are_found_wherever_they_are_declared() -> None:
    from retryexec.journal._compare import field_names

    assert field_names(Everything) == tuple(f.name for f in dataclasses.fields(Everything))
    assert field_names(Record) == ("user_name", "tags")
    assert field_names(Named) == ("a", "b")
    assert field_names(Job) is None


# ---- what is the same


@dataclass
class At(Job):
    at: datetime


@dataclass
class Moments(Job):
    at: list[datetime]
    days: set[datetime] = field(default_factory=set)
    by: dict[datetime, int] = field(default_factory=dict)


BERLIN = ZoneInfo("Europe/Berlin")
ODD_TIMES = {
    "first of the repeated hour": datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    "second of the repeated hour": datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
    "in the skipped hour": datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN),
    "in the skipped hour, folded": datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN, fold=1),
    "half an hour repeated": datetime(
        2024, 4, 7, 1, 45, tzinfo=ZoneInfo("Australia/Lord_Howe"), fold=1
    ),
    "without a zone": datetime(2024, 10, 27, 2, 30, fold=1),  # noqa: DTZ001
}


@pytest.mark.parametrize("at", ODD_TIMES.values(), ids=ODD_TIMES)
def test_a_time_keeps_its_moment_and_its_offset(at: datetime) -> None:
    known = codec(at=At, moments=Moments)
    for job in (At(at), Moments([at], {at}, {at: 1})):
        kind, data = known.encode(job)
        back = known.decode(kind.name, 1, data)
        found = back.at if isinstance(back, At) else back.at[0]
        assert found.replace(tzinfo=None, fold=0) == at.replace(tzinfo=None, fold=0)
        assert found.utcoffset() == at.utcoffset()


@dataclass
class Prices(Job):
    price: float
    several: list[float] = field(default_factory=list)
    named: dict[str, float | None] = field(default_factory=dict)
    pair: tuple[float, int] = (0.0, 0)
    some: set[float] = field(default_factory=set)
    inner: Real = field(default_factory=lambda: Real(0.0))


def test_a_whole_number_is_the_float_that_is_declared() -> None:
    known = codec(prices=Prices)
    job = Prices(5, [1, 2.5, -3], {"a": 7, "b": None}, (4, 4), {1, 2.5}, Real(2**53))
    kind, data = known.encode(job)
    back = known.decode(kind.name, 1, data)
    assert back == job
    assert {type(value) for value in (back.price, *back.several, back.pair[0], *back.some)} == {
        float
    }
    assert type(back.pair[1]) is int
    with pytest.raises(JobRefused, match="'several\\[1\\]'"):
        known.encode(Prices(1.0, [1.0, 2**63 + 1]))


# ---- models of pydantic's


class Address(pydantic.BaseModel):
    city: str


class Order(pydantic.BaseModel):
    number: int
    price: Decimal
    at: datetime
    address: Address | None = None
    note: str = pydantic.Field(default="", alias="noteText")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> int:
        return self.number * 2

    def exec(self) -> None:
        """The tests run nothing."""


class Hidden(pydantic.BaseModel):
    password: pydantic.SecretStr

    def exec(self) -> None:
        """The tests run nothing."""


@dataclass
class WithModel(Job):
    address: Address


def test_a_model_comes_back_as_it_was() -> None:
    known = codec(order=Order, with_model=WithModel)
    at = datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)
    order = Order(number=3, price=Decimal("1.10"), at=at, address=Address(city="x"), noteText="n")
    kind, data = known.encode(order)
    assert b"doubled" not in data
    back = known.decode(kind.name, 1, data)
    assert isinstance(back, Order)
    assert (back.number, back.price, back.address, back.note) == (
        3,
        order.price,
        order.address,
        "n",
    )
    assert back.at.utcoffset() == at.utcoffset()
    job = WithModel(Address(city="y"))
    kind, data = known.encode(job)
    assert known.decode(kind.name, 1, data) == job
    assert known.unknown("order", ["number", "noteText"]) is None


def test_a_model_that_would_change_is_refused() -> None:
    known = codec(hidden=Hidden, order=Order)
    with pytest.raises(JobRefused, match="'password'"):
        known.encode(Hidden(password=pydantic.SecretStr("secret")))
    with pytest.raises(JobRefused, match="'order'"):
        known.encode(Order.model_construct(number="seven"))
    with pytest.raises(Undecodable, match="number"):
        known.decode("order", 1, b"{}")


def test_a_kind_has_a_name_that_can_be_written() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        codec(**{"caf\udce9": Text})
