"""A quick test whether JSON is sure to give a job back as it is, made once for each class.

It passes a job whose fields are exactly of the types they are declared to be: that need not be
decoded and compared when it is accepted, which takes three times as long as all the rest. It
passes nothing that it does not know all about; whether such a job comes back, `Kind.check` finds
out.
"""

import dataclasses
import inspect
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MemberDescriptorType, NoneType
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from msgspec import inspect as declared

Test: TypeAlias = Callable[[Any], bool]

_LIMIT = 2**63  # of the numbers that every version of msgspec reads back as int
_MAX_DEPTH = 16  # of what is declared as Any; deeper than that, the decoder may not follow


def exact_test(cls: type) -> Test:
    """Return a test that passes only instances of *cls* that JSON gives back for certain."""
    try:
        return _Tests().of_class(declared.type_info(cls)) or _never
    except Exception:  # whatever its annotations are, nothing is known for certain
        return _never


def _never(_: Any) -> bool:
    return False


def _is_json(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Return whether *value* consists of what JSON has types of its own for."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_LIMIT <= value < _LIMIT)
    if kind is float:
        return bool(value - value == 0.0)
    if depth == 0:
        return False
    if kind is list:
        return all(_is_json(item, depth - 1) for item in value)
    return (
        kind is dict
        and all(type(key) is str for key in value)
        and all(_is_json(item, depth - 1) for item in value.values())
    )


# For what has no parts, with the value as v. Each begins with its type, since `_Tests` puts there
# where the value comes from. Constraints make another declaration, which is not found here.
_ATOMS: tuple[tuple[declared.Type, str], ...] = (
    (declared.StrType(), "type(v) is str"),
    (declared.BoolType(), "type(v) is bool"),
    (declared.NoneType(), "type(v) is NoneType"),
    (declared.IntType(), f"type(v) is int and {-_LIMIT} <= v < {_LIMIT}"),
    (declared.FloatType(), "type(v) is float and v - v == 0.0"),  # neither NaN nor infinite
    (declared.BytesType(), "type(v) is bytes"),
    (declared.UUIDType(), "type(v) is UUID"),
    (declared.DateType(), "type(v) is date"),
    (declared.TimeDeltaType(), "type(v) is timedelta"),
    (declared.DecimalType(), "type(v) is Decimal and v.is_finite()"),
    (declared.DateTimeType(), "type(v) is datetime and (v.tzinfo is None or v.tzinfo is UTC)"),
    (declared.AnyType(), "type(v) in JSON and is_json(v)"),
)
_NAMES: dict[str, Any] = {
    "NoneType": NoneType,
    "UUID": UUID,
    "date": date,
    "datetime": datetime,
    "timedelta": timedelta,
    "Decimal": Decimal,
    "UTC": UTC,
    "JSON": frozenset({str, bool, NoneType, int, float, list, dict}),
    "is_json": _is_json,
}
_KEYS = (declared.StrType(), declared.AnyType())  # of dicts, whose keys are text in JSON
# What JSON itself tells apart, so that any of them may stand beside the others in a union.
_TOLD_APART = (
    declared.StrType,
    declared.BoolType,
    declared.NoneType,
    declared.IntType,
    declared.FloatType,
)
_COLLECTIONS: dict[type[declared.Type], str] = {
    declared.ListType: "list",
    declared.VarTupleType: "tuple",
    declared.SetType: "set",
    declared.FrozenSetType: "frozenset",
}


class _Tests:
    """Writes the test of a class as one expression, in which v is the value at hand.

    As dataclasses do with their methods: functions that call each other take twice the time.
    """

    def __init__(self) -> None:
        self._names = dict(_NAMES)  # what the expressions speak of
        self._classes: list[Any] = []  # those that are being written; one may hold itself

    def of_class(self, kind: Any) -> Test | None:
        """Return the test of a class, as `msgspec.inspect` describes it; None if there is none."""
        cls = getattr(kind, "cls", None)
        if cls in self._classes or not _is_plain(cls):
            return None
        self._classes.append(cls)
        parts = [f"type(a) is {self._name(cls)}"]
        for field in kind.fields:
            test = self._of(field.type)
            if test is None:
                return None
            parts.append("(" + test.replace("type(v)", f"type(v := a.{field.name})", 1) + ")")
        self._classes.pop()
        test_of_class: Test = self._function("lambda a: " + " and ".join(parts))
        return test_of_class

    def _of(self, kind: Any) -> str | None:
        """Return the test of a value declared as *kind*; None if nothing makes sure of it."""
        for atom, test in _ATOMS:
            if type(kind) is type(atom):
                return test if kind == atom else None
        if isinstance(kind, (declared.DataclassType, declared.StructType)):
            function = self.of_class(kind)
            return function and f"type(v) is {self._name(kind.cls)} and {self._name(function)}(v)"
        if isinstance(kind, declared.UnionType):
            return self._of_union(kind.types)
        if isinstance(kind, declared.TupleType):
            return self._of_tuple(kind.item_types)
        if isinstance(kind, declared.DictType):
            return self._of_dict(kind)
        name = _COLLECTIONS.get(type(kind))
        each = name and _is_of_any_length(kind) and self._of_each(kind.item_type, "v")
        return f"type(v) is {name} and {each}" if each else None

    def _of_union(self, kinds: tuple[Any, ...]) -> str | None:
        others = [kind for kind in kinds if not isinstance(kind, declared.NoneType)]
        if len(others) > 1 and not all(isinstance(kind, _TOLD_APART) for kind in others):
            return None
        tests = [self._of(kind) for kind in kinds]
        return None if None in tests else f"({' or '.join(map(str, tests))})"

    def _of_tuple(self, kinds: tuple[Any, ...]) -> str | None:
        parts = [f"type(v) is tuple and len(v) == {len(kinds)}"]
        for place, kind in enumerate(kinds):
            test = self._of(kind)
            if test is None:
                return None
            parts.append(f"{self._named(test)}(v[{place}])")
        return " and ".join(parts)

    def _of_dict(self, kind: declared.DictType) -> str | None:
        if kind.key_type not in _KEYS or not _is_of_any_length(kind):
            return None
        keys = self._of_each(declared.StrType(), "v")
        values = self._of_each(kind.value_type, "v.values()")
        return values and f"type(v) is dict and {keys} and {values}"

    def _of_each(self, kind: Any, items: str) -> str | None:
        test = self._of(kind)
        if test is None:
            return None
        if " and " in test or " or " in test:
            return f"all(map({self._named(test)}, {items}))"
        only = self._function(f"frozenset({{{test.removeprefix('type(v) is ')}}})")
        return f"{self._name(only.issuperset)}(map(type, {items}))"

    def _named(self, test: str) -> str:
        return self._name(self._function(f"lambda v: {test}"))

    def _function(self, source: str) -> Any:
        return eval(source, self._names)  # noqa: S307  ours, and no text of the user's is in it

    def _name(self, value: Any) -> str:
        name = f"x{len(self._names)}"
        self._names[name] = value
        return name


def _is_of_any_length(kind: Any) -> bool:
    return kind.min_length is None and kind.max_length is None


def _is_plain(cls: Any) -> bool:
    """Return whether no code of the user's runs when fields of *cls* are read, or decoded."""
    if not isinstance(cls, type) or hasattr(cls, "__post_init__") or hasattr(cls, "__getattr__"):
        return False
    if inspect.getattr_static(cls, "__getattribute__") is not object.__getattribute__:
        return False
    if issubclass(cls, msgspec.Struct):
        # One that leaves out what it takes for a default has a notion of its own of equality.
        return not cls.__struct_config__.omit_defaults
    params = vars(cls).get("__dataclass_params__")
    return (
        dataclasses.is_dataclass(cls)
        and params is not None
        and params.init
        and cls.__new__ is object.__new__  # so it is not derived from a dict, say
        and (params.frozen or cls.__setattr__ is object.__setattr__)
        and all(field.init and _is_stored(cls, field.name) for field in dataclasses.fields(cls))
    )


def _is_stored(cls: Any, name: str) -> bool:
    """Return whether attribute *name* is what an instance holds, and nothing computed."""
    found = inspect.getattr_static(cls, name, None)
    return isinstance(found, MemberDescriptorType) or not hasattr(type(found), "__get__")
