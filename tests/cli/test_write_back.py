"""The failures file: each record as it was read, so that the next run reads the same one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result, read_jsonl

Run = Callable[..., Result]

HEAD = """\
from __future__ import annotations
import decimal, enum, datetime, ipaddress, pathlib, uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, Optional
import msgspec

Id = NewType("Id", Optional[int])

class Colour(enum.Enum):
    RED = "red"

class Money:
    def __init__(self, text):
        self.text = text
    def __repr__(self):
        return f"Money({self.text})"

@dataclass
class Job:
    %s

    def exec(self):
        with open("tried", "a") as log:
            log.write(repr(self) + "\\n")
        raise OSError("down")
"""


@pytest.fixture
def tried(jobs: Path, run: Run, tmp_path: Path) -> Callable[..., tuple[list[str], dict[str, Any]]]:
    """Run a record of CSV or JSON, and what is written of it twice more; return what was tried."""

    def tried(fields: str, data: bytes, name: str = "in.csv") -> tuple[list[str], dict[str, Any]]:
        jobs.write_text(HEAD % fields)
        options = ("--attempts", "1", "--workers", "1", "-q", "--failures")
        run(data, *options, "f1.jsonl", target="jobs.py:Job", name=name)
        written = (tmp_path / "f1.jsonl").read_bytes()
        run(written, *options, "f2.jsonl", target="jobs.py:Job", name="again1.jsonl")
        written = (tmp_path / "f2.jsonl").read_bytes()
        run(written, *options, "f3.jsonl", target="jobs.py:Job", name="again2.jsonl")
        assert (tmp_path / "f3.jsonl").read_bytes() == written
        tried = (tmp_path / "tried").read_text().splitlines()
        (tmp_path / "tried").unlink()
        return tried, read_jsonl(tmp_path / "f1.jsonl")[0]

    return tried


Tried = Callable[..., tuple[list[str], dict[str, Any]]]


@pytest.mark.parametrize(
    ("annotation", "cell"),
    [
        ("int", "5"),
        ("int", "1000000000000000000000000000000"),
        ("float", "1.5"),
        ("float", "nan"),
        ("float", "inf"),
        ("float", "-inf"),
        ("float", "-0.0"),
        ("float", "1e308"),
        ("float", "1"),
        ("bool", "true"),
        ("bool", "1"),
        ("str", "null"),
        ("str", "7"),
        ("str", '"a ""b"" \n, c"'),
        ("str", "\u2028 \x7f ü 😀"),
        ("int | float | None", "nan"),
        ("Optional[float]", "Infinity"),
        ("Id", "7"),
        ('Literal["x", None]', "x"),
        ("Literal[1, 2]", "2"),
        ("Colour", "red"),
        ("decimal.Decimal", "1.10"),
        ("decimal.Decimal", "NaN"),
        ("datetime.datetime", "2024-10-27T02:30:00+02:00"),
        ("datetime.datetime", "2024-10-27T02:30:00.123456Z"),
        ("datetime.date", "2024-02-29"),
        ("datetime.timedelta", "P1DT2S"),
        ("uuid.UUID", "12345678-1234-5678-1234-567812345678"),
        ("bytes", "AAEC"),
        ("pathlib.Path", "a/b"),
        ("ipaddress.IPv4Address", "10.0.0.1"),
        ("Money", "5 EUR"),
        ("Any", "7"),
        ("Annotated[int, msgspec.Meta(ge=1)]", "5"),
    ],
)
def test_a_cell_is_read_again_as_the_same_value(annotation: str, cell: str, tried: Tried) -> None:
    attempts, _ = tried(f"x: {annotation}", f"x\n{cell}\n".encode())
    assert len(attempts) == 3
    assert set(attempts) == {attempts[0]}


def test_values_that_post_init_changes_are_written_as_they_were(tried: Tried) -> None:
    fields = "who: str\n    amount: int\n    def __post_init__(self): self.amount *= 100"
    attempts, written = tried(fields, b"who,amount\nbob,5\n")
    assert attempts == ["Job(who='bob', amount=500)"] * 3
    assert written["amount"] == 5
    attempts, written = tried(fields, b'{"who": "bob", "amount": 5}\n', "in.jsonl")
    assert set(attempts) == {"Job(who='bob', amount=500)"}
    assert written["amount"] == 5


def test_values_that_exec_changes_are_written_as_they_were(tried: Tried, jobs: Path) -> None:
    fields = "tags: list[str] = field(default_factory=list)\n    n: int = 0"
    attempts, written = tried(fields, b'{"tags": ["a"], "n": 1, "n": 2, "more": [1.0, 1e2]}', "i")
    assert attempts == ["Job(tags=['a'], n=2)"] * 3
    assert (written["tags"], written["n"], written["more"]) == (["a"], 2, [1.0, 100.0])


def test_an_empty_cell_stays_what_it_stood_for(tried: Tried) -> None:
    fields = 'a: Id\n    b: str\n    c: Literal["x", None]\n    e: str\n    d: int = 3'
    attempts, written = tried(fields, b"a,b,c,d,e,_retryexec\n,,,,x,y\n")
    assert attempts == ["Job(a=None, b='', c=None, e='x', d=3)"] * 3
    assert written.keys() == {"a", "b", "c", "e", "_retryexec"}


def test_what_json_does_not_have_stays_text_and_is_named(tried: Tried) -> None:
    attempts, written = tried("x: float\n    y: float", b"x,y\nnan,1.5\n")
    assert attempts == ["Job(x=nan, y=1.5)"] * 3
    story = written.pop("_retryexec")
    assert written == {"x": "nan", "y": 1.5}
    assert story["text"] == ["x"]


@pytest.mark.parametrize(
    "text",
    [
        "os.fsdecode(b'caf\\xe9.txt')",
        "'\\ud800'",
        "'\\udfff' * 600",
        "'\\x00\\x1b[31m\\u202e'",
        "'x' * 10**6",
    ],
)
def test_an_error_of_any_text_is_written(text: str, run: Run, jobs: Path, tmp_path: Path) -> None:
    jobs.write_text(
        "import os\nfrom dataclasses import dataclass\n@dataclass\nclass Job:\n    id: int\n"
        f"    def exec(self):\n        raise type('E' + ({text})[:9].replace('\\0', ''), "
        f"(ValueError,), {{}})({text})\n"
    )
    result = run(b'{"id": 1}\n{"id": 2}\n', "--failures", "f.jsonl", target="jobs.py:Job")
    assert result.status == 1
    assert ": 0 succeeded, 2 failed" in result.out
    failed = read_jsonl(tmp_path / "f.jsonl")
    assert [record["id"] for record in sorted(failed, key=lambda record: record["id"])] == [1, 2]
    for record in failed:
        story = json.dumps(record["_retryexec"], ensure_ascii=False)
        assert story.isprintable()
        assert len(story) < 4000


def test_an_error_that_cannot_say_what_it_is(run: Run, jobs: Path, tmp_path: Path) -> None:
    jobs.write_text(
        "from dataclasses import dataclass\n"
        "class Mute(Exception):\n    def __str__(self): raise SystemExit(3)\n"
        "@dataclass\nclass Job:\n    id: int\n    def exec(self): raise Mute()\n"
    )
    assert run([{"id": 1}], "--failures", "f.jsonl", target="jobs.py:Job").status == 1
    (record,) = read_jsonl(tmp_path / "f.jsonl")
    assert record["_retryexec"]["error"].endswith("Mute: <str() raised SystemExit>")


@pytest.mark.parametrize(
    "body",
    [
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "raise RecursionError",
        "self.__post_init__()",
    ],
)
def test_whatever_a_dataclass_raises_is_one_bad_record(
    body: str, run: Run, jobs: Path, tmp_path: Path
) -> None:
    jobs.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Job:\n    id: int\n"
        f"    def __post_init__(self):\n        if self.id == 2: {body}\n"
        "    def exec(self): pass\n"
    )
    for data, name in ((b"id\n1\n2\n3\n", "in.csv"), (b'{"id":1}\n{"id":2}\n{"id":3}\n', "in")):
        result = run(data, target="jobs.py:Job", name=name)
        assert ": 2 succeeded, 1 bad\n" in result.out


def test_a_record_that_is_nested_too_deep_is_one_bad_record(run: Run) -> None:
    deep = b"[" * 1_000_000 + b"]" * 1_000_000  # too deep for any stack
    result = run(b'{"id": 1}\n{"id": 2, "x": ' + deep + b'}\n{"id": 3}\n' + deep + b"\n")
    assert "in.jsonl:2: bad record: nested too deep\n" in result.err
    assert "in.jsonl:4: bad record: not a JSON object: Expected object, got array" in result.err
    assert ": 2 succeeded, 2 bad\n" in result.out
