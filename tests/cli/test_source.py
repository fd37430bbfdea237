"""INPUT as it comes: packed, in other encodings, in pieces, or something else altogether."""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result, Stdin

from retryexec.cli import main

Run = Callable[..., Result]
Ran = Callable[[], list[Any]]
LINES = b'{"id": 1, "name": "\xc3\xa4"}\n{"id": 2}\n'


def names(ran: Ran) -> list[tuple[int, str]]:
    return sorted((job.id, job.name) for job in ran())


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(LINES),
        gzip.compress(LINES[:20]) + gzip.compress(LINES[20:]),
        gzip.compress(LINES) + b"\0" * 100,
        gzip.compress(LINES) + gzip.compress(b""),
    ],
    ids=["one piece", "two pieces", "padded", "an empty piece"],
)
@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_gzip_is_read_as_it_is(data: bytes, name: str, run: Run, ran: Ran) -> None:
    assert run(data, name=name).status == 0
    assert names(ran) == [(1, "ä"), (2, "nobody")]


def test_the_name_below_gz_tells_the_format(run: Run, ran: Ran) -> None:
    assert run(gzip.compress(b"id\n1\n"), name="in.csv.gz").status == 0
    assert run(gzip.compress(b"id\tname\n2\tx\n"), name="in.tsv.GZ").status == 0
    assert [job.id for job in ran()] == [1, 2]


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (gzip.compress(LINES * 50)[:-20], 1, "it ends in the middle of its gzip data"),
        (gzip.compress(LINES)[:10] + b"\xff" * 30, 2, "it is damaged gzip"),
    ],
    ids=["after some records", "before any"],
)
def test_damaged_gzip_is_told(data: bytes, status: int, said: str, run: Run) -> None:
    for options in ((), ("--dry-run",)):
        result = run(data, *options)
        assert result.status == status
        assert said in result.err


def test_damaged_gzip_in_the_header_of_csv(run: Run) -> None:
    result = run(gzip.compress(b"id\n1\n")[:11], name="in.csv")
    assert result.status == 2
    assert "cannot be read: it ends in the middle of its gzip data" in result.err


def test_gzip_comes_through_a_pipe_in_pieces(
    jobs: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = gzip.compress(LINES)
    monkeypatch.setattr(sys, "stdin", Stdin(*(data[n : n + 1] for n in range(len(data)))))
    assert main(["run", "jobs.py:Save", "-", "-q"]) == 0
    assert names(ran) == [(1, "ä"), (2, "nobody")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_decides(encoding: str, packed: bool, run: Run, ran: Ran) -> None:
    data = LINES.decode().encode(encoding)
    assert run(gzip.compress(data) if packed else data).status == 0
    assert names(ran) == [(1, "ä"), (2, "nobody")]


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32-le"])
def test_utf_16_without_a_mark_is_named(encoding: str, run: Run, ran: Ran) -> None:
    data = LINES.decode().encode(encoding)
    result = run(data)
    assert result.status == 2
    assert f"without a byte order mark: --encoding {encoding}" in result.err
    assert run(data, "--encoding", encoding).status == 0
    assert names(ran) == [(1, "ä"), (2, "nobody")]


def test_another_encoding_is_hinted_at_once_and_can_be_named(run: Run, ran: Ran) -> None:
    data = b"id,name\n1,M\xfcller\n2,x\n3,\xe9t\xe9\n"
    result = run(data, name="in.csv")
    assert result.err.count("note: --encoding names another encoding, as cp1252") == 1
    assert [job.id for job in ran()] == [2]
    assert run(data, "--encoding", "cp1252", name="in.csv").status == 0
    assert sorted(job.name for job in ran()[-3:]) == ["Müller", "x", "été"]


def test_what_an_encoding_cannot_decode_is_one_bad_record(run: Run, ran: Ran) -> None:
    lines = [b'{"id": 1}', b'{"id": 2, "name": "\x81"}', b'{"id": 3}']
    result = run(b"\n".join(lines), "--encoding", "cp1252")
    assert "in.jsonl:2: bad record: not UTF-8 text" in result.err
    assert [job.id for job in ran()] == [1, 3]
    data = "\ufeff".encode("utf-16-le") + '{"id": 4}\n'.encode("utf-16-le") + b"\x00\xd8"
    result = run(data)
    assert result.out.startswith("2 records in ")
    assert [job.id for job in ran()] == [1, 3, 4]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'[{"id": 1},\n {"id": 2}]\n', "in.jsonl is a JSON array: expected JSON Lines, one obj"),
        (b'[\n  {"id": 1}\n]\n', "in.jsonl is a JSON array"),
        (b'\n[{"id": 1}]', "in.jsonl is a JSON array"),
        (b"[]\n", "in.jsonl is a JSON array"),
        (b'{\n  "id": 1\n}\n', "in.jsonl is JSON over several lines"),
        (b"id,name\n1,x\n2,y\n", "in.jsonl looks like CSV with a header"),
        (b"id;at\n1;\n", "in.jsonl looks like CSV with a header"),
        (b"id\n1\n", "in.jsonl looks like CSV with a header"),
        (b"PK\x03\x04" + b"\xff\n" * 9, "in.jsonl is a ZIP archive or a spreadsheet (.xlsx, .o"),
        (b"SQLite format 3\0" + b"\0\n" * 9, "in.jsonl is an SQLite database"),
    ],
)
def test_something_else_is_named_in_one_message(
    data: bytes, said: str, run: Run, ran: Ran, tmp_path: Path
) -> None:
    (tmp_path / "f.jsonl").write_text("of a former run\n")
    result = run(data, "--failures", "f.jsonl")
    assert (result.status, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert ran() == []
    assert (tmp_path / "f.jsonl").read_text() == "of a former run\n"


def test_something_else_is_named_in_a_pipe_too(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b'[{"id": 1},', b'\n{"id": 2}]\n'))
    assert main(["run", "jobs.py:Save", "-"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("retryexec: error: standard input is a JSON array: ")


def test_a_first_record_that_is_bad_is_no_reason_to_refuse_the_file(run: Run, ran: Ran) -> None:
    for first in (b"[1, 2]", b"nope", b"7", b'{"id": ', b'"x"', b"[[]]"):
        assert run(first + b'\n{"id": 1}\n').status == 1
        assert ran()[-1].id == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--encoding", "klingon"], "'klingon' is not an encoding that Python knows"),
        (["--encoding", "rot13"], "'rot13' is not an encoding"),
        (["--delimiter", "ab"], "'ab' is not a delimiter: one character, or one of tab, "),
        (["--delimiter", '"'], "is not a delimiter"),
        (["--delimiter", ";"], "--delimiter is for CSV: say --format csv"),
        (["--rate", "0"], "'0' is not a rate: a number above 0, of starts per second"),
        (["--rate", "inf"], "'inf' is not a rate"),
        (["--limit", "0"], "'0' is not a whole number from 1 up"),
    ],
)
def test_values_that_cannot_be(options: list[str], said: str, run: Run) -> None:
    result = run([{"id": 1}], *options)
    assert result.status == 2
    assert said in result.err
