"""INPUT: what becomes a job, and what is a bad record."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result, Stdin

from retryexec.cli import main

Run = Callable[..., Result]
Ran = Callable[[], list[Any]]

GOOD = b'{"id": 1}\n'


def bad_lines(result: Result, name: str = "in.jsonl") -> list[str]:
    start = f"{name}:"
    return [
        line.removeprefix(start) for line in result.err.splitlines() if ": bad record: " in line
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nope", "not a JSON object: invalid character (byte 4)"),
        (b"[1]", "not a JSON object: Expected object, got array"),
        (b"7", "not a JSON object: Expected object, got int"),
        (b'{"id": 1', "not a JSON object: Input data was truncated"),
        (b'{"id": 1} x', "not a JSON object: trailing characters (byte 11)"),
        (b'{"id": "1"}', 'id: expected int, got str ("1")'),
        (b'{"id": 1.5}', "id: expected int, got float (1.5)"),
        (b'{"id": ["\xff"]}', 'id: expected int, got array (["\ufffd"])'),
        (b'{"id": null}', "id: expected int, got null (null)"),
        (b'{"name": "x"}', "field 'id' is missing"),
        (b"{}", "field 'id' is missing"),
        (b'{"id": 1, "at": "noon"}', 'at: invalid RFC3339 encoded datetime ("noon")'),
        (b'{"id": 1, "name": "\xff"}', "not UTF-8 text: invalid start byte 0xff"),
        (b'{"id": 1, "\xff": 1}', "not UTF-8 text: invalid start byte 0xff"),
        (b'{"id": "%s"}' % (b"x" * 80), f'id: expected int, got str ("{"x" * 59}…)'),
        (b"\xef\xbb\xbf" + GOOD.strip(), "not a JSON object: invalid character (byte 0)"),
    ],
)
def test_a_bad_record_is_told_by_line_and_reason_and_the_others_go_on(
    line: bytes, reason: str, run: Run, ran: Ran
) -> None:
    result = run(GOOD + b"\n" + line + b"\n" + GOOD)
    assert bad_lines(result) == [f"3: bad record: {reason}"]
    assert result.status == 1
    assert result.out.startswith("3 records in ")
    assert ": 2 succeeded, 1 bad\n" in result.out
    assert len(ran()) == 2


@pytest.mark.parametrize(
    ("number", "reason"),
    [(13, "LookupError: thirteen"), (-4, "id -4 is negative")],
)
def test_the_dataclass_has_a_say(number: int, reason: str, run: Run) -> None:
    result = run([{"id": number}], target="jobs.py:Strict")
    assert bad_lines(result) == [f"1: bad record: {reason}"]
    text = b"id\n%d\n" % number
    result = run(text, target="jobs.py:Strict", name="in.csv")
    assert bad_lines(result, "in.csv") == [f"2: bad record: {reason}"]


@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf{"id": 1}\n{"id": 2}\n',
        b'{"id": 1}\r\n\r\n{"id": 2}',
        b'\n \t\n{"id": 1}\n\n\n{"id": 2}\n\n',
        b'  {"id": 1}  \n{"id": 2, "_retryexec": {"reason": "shutdown"}}\n',
    ],
    ids=["byte order mark", "windows, no last newline", "blank lines", "spaces, told before"],
)
def test_what_is_no_obstacle(text: bytes, run: Run, ran: Ran) -> None:
    result = run(text)
    assert (result.status, result.err) == (0, "")
    assert sorted(job.id for job in ran()) == [1, 2]


def test_values_have_their_types(run: Run, ran: Ran) -> None:
    run([{"id": 10**30, "name": "ü\n", "at": "2024-02-29T12:00:00Z"}])
    (job,) = ran()
    assert (job.id, job.name) == (10**30, "ü\n")
    assert job.at == datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_types_that_json_does_not_know_are_made_from_text(run: Run, ran: Ran) -> None:
    run([{"path": "a/b", "size": None}], target="jobs.py:Where")
    run(b"path,size\na/b,\n", target="jobs.py:Where", name="in.csv")
    assert [(job.path, job.size) for job in ran()] == [(Path("a/b"), None)] * 2


def test_an_unknown_field_is_left_out_and_told_of_once(run: Run) -> None:
    result = run([{"id": 1}, {"id": 2, "nmae": "x"}, {"id": 3, "nmae": "y"}])
    assert result.status == 0
    assert result.err == (
        "in.jsonl:2: note: Save does not have a field 'nmae'; it is left out from here on "
        "(--forbid-unknown refuses such records)\n"
    )


def test_an_unknown_field_can_be_forbidden(run: Run) -> None:
    result = run([{"id": 1}, {"id": 2, "nmae": "x"}], "--forbid-unknown")
    assert bad_lines(result) == [
        "2: bad record: Save does not have a field 'nmae' (it has id, name, at, fails, error)"
    ]


def test_strict_stops_at_the_first_bad_record(run: Run, ran: Ran) -> None:
    result = run(GOOD + b"nope\n" + GOOD, "--strict")
    assert result.status == 1
    assert ": 1 succeeded, 1 bad\n" in result.out
    assert "in.jsonl was read up to line 2; what follows has not been looked at\n" in result.err
    assert len(ran()) == 1


def test_a_file_of_something_else_is_told_so(run: Run) -> None:
    result = run(b"nope\n1,x\n")
    assert (
        "no record of in.jsonl was good: expected JSON Lines, one object per line; " in result.err
    )
    assert result.status == 1
    result = run(b"id\nx\n", name="in.csv")
    assert "no record of in.csv was good: expected CSV with a header; --format" in result.err


def test_nothing_is_no_failure(run: Run) -> None:
    for name in ("in.jsonl", "in.csv"):
        result = run(b"\n", name=name)
        assert result.status == 0
        assert result.err == f"{name} holds no records\n"


# CSV


def test_csv_cells_are_converted(run: Run, ran: Ran) -> None:
    text = b'\xef\xbb\xbfat, name,id\r\n2024-02-29T12:00:00Z,"x, ""y""",7\r\n\r\n,,8\r\n'
    result = run(text, name="in.CSV")
    assert (result.status, result.err) == (0, "")
    first, second = sorted(ran(), key=lambda job: job.id)
    assert first.name == 'x, "y"'
    assert first.at == datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert (second.name, second.at) == ("nobody", None)


def test_an_empty_cell_is_a_value_not_given(run: Run, ran: Ran, jobs: Path) -> None:
    more = """
@dataclass
class Cells:
    text: str
    number: int | None
    default: int = 7

    def exec(self):
        RAN.append(self)
"""
    jobs.write_text(jobs.read_text() + more)
    run(b"text,number,default,note\n,,,n\n", name="in.csv", target="jobs.py:Cells")
    (job,) = ran()
    assert (job.text, job.number, job.default) == ("", None, 7)


@pytest.mark.parametrize(
    ("row", "line", "reason"),
    [
        (b"x,n", 4, "id: expected int, got str ('x')"),
        (b"1", 4, "1 cell where the header has 2"),
        (b"1,n,2", 4, "3 cells where the header has 2"),
        (b"1,\xff", 4, "not UTF-8 text"),
        (b"1,a\rb", 4, "not CSV: new-line character seen in unquoted field"),
        (b",n", 4, "id: expected int, got str ('')"),
    ],
)
def test_a_bad_row_is_told_by_its_real_line(
    row: bytes, line: int, reason: str, run: Run, ran: Ran
) -> None:
    result = run(b'id,name\n1,"two\nlines"\n' + row + b"\n2,x\n", name="in.csv")
    (told,) = bad_lines(result, "in.csv")
    assert told.startswith(f"{line}: bad record: {reason}")
    assert [job.name for job in sorted(ran(), key=lambda job: job.id)] == ["two\nlines", "x"]


def test_a_quote_that_never_ends_is_one_bad_record(run: Run, ran: Ran) -> None:
    result = run(b'id,name\n1,x\n2,"y\n3,z\n', name="in.csv")
    assert bad_lines(result, "in.csv") == ["3: bad record: not CSV: unexpected end of data"]
    assert len(ran()) == 1


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"name,id,name", "the header of INPUT has column 'name' twice"),
        (
            b"a^id",
            "the header of INPUT does not have a column 'id', which Save requires",
        ),
        (b"id,n\xe4me", "the header of INPUT is not UTF-8 text: --encoding names another"),
        (b'"id" x', "the header of INPUT, in its line 1, is not CSV: "),
    ],
)
def test_a_header_that_cannot_be_right(header: bytes, said: str, run: Run) -> None:
    result = run(header + b"\n1,2,3\n", name="in.csv")
    assert (result.status, result.out) == (2, "")
    assert said in result.err


def test_an_unknown_column(run: Run) -> None:
    text = b"id,colour\n1,red\n2,\n"
    result = run(text, name="in.csv")
    assert result.status == 0
    assert result.err.startswith("in.csv:2: note: Save does not have a field 'colour'")
    assert result.err.count("\n") == 1
    result = run(text, "--forbid-unknown", name="in.csv")
    assert result.status == 2
    assert "the header of INPUT: Save does not have a field 'colour' (it has id, " in result.err


def test_the_format_can_be_named(run: Run, ran: Ran) -> None:
    assert run(b"id\n5\n", "--format", "csv", name="data.txt").status == 0
    assert run(b'{"id": 6}\n', "--format", "jsonl", name="data.csv").status == 0
    assert [job.id for job in ran()] == [5, 6]


# Standard input


def test_records_come_from_standard_input_piece_by_piece(
    jobs: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = [b'{"id"', b": 1}\n" + b'{"id": 2, "na', b'me": "', b'x"}', b"\n", b'{"id": 3}']
    monkeypatch.setattr(sys, "stdin", Stdin(*pieces))
    assert main(["run", "jobs.py:Save", "-"]) == 0
    assert sorted((job.id, job.name) for job in ran()) == [(1, "nobody"), (2, "x"), (3, "nobody")]


def test_input_left_out_is_standard_input(
    jobs: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(GOOD))
    assert main(["run", "jobs.py:Save"]) == 0
    assert len(ran()) == 1


def test_nobody_is_left_typing_unawares(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Stdin()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["run", "jobs.py:Save"]) == 2
    assert "INPUT is missing: name a file of records, or - to type them" in capsys.readouterr().err


def test_no_more_is_read_than_max_pending_allows(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that INPUT may be larger than memory."""
    stdin = Stdin(*(b'{"id": %d}\n' % number for number in range(50)))
    monkeypatch.setattr(sys, "stdin", stdin)
    jobs.write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Look:\n"
        "    id: int\n"
        "    def exec(self):\n"
        "        READS.append((self.id, reads()))\n"
        "READS = []\n"
    )
    monkeypatch.setattr("builtins.reads", lambda: stdin.reads, raising=False)
    arguments = ["--workers", "1", "--max-pending", "3", "-q"]
    assert main(["run", "jobs.py:Look", "-", *arguments]) == 0
    seen = sys.modules["jobs"].READS
    assert [number for number, _ in seen] == list(range(50))
    # When job n runs, the n before it are done: 3 are pending, and one more has been read.
    assert all(reads <= number + 3 + 1 for number, reads in seen)


def test_input_that_breaks_off_is_told(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(GOOD, OSError(5, "Input/output error")))
    assert main(["run", "jobs.py:Save", "-"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("1 record in ")
    assert "retryexec: stopped by OSError: [Errno 5] Input/output error\n" in err


def test_input_that_breaks_off_in_its_header_is_misuse(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(OSError(5, "Input/output error")))
    assert main(["run", "jobs.py:Save", "-", "--format", "csv"]) == 2
    assert "INPUT 'standard input' cannot be read: Input/output error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere.jsonl", "No such file or directory"), (".", "Is a directory")],
)
def test_input_that_is_no_file(
    name: str, said: str, jobs: Path, command: Callable[..., Result]
) -> None:
    result = command("run", "jobs.py:Save", name)
    assert result.status == 2
    assert result.err == f"retryexec: error: INPUT {name!r} cannot be read: {said}\n"
