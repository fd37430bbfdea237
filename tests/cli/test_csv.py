"""CSV as people have it, and what is never run as a record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from helpers.command import Result
from hypothesis import given
from hypothesis import strategies as st

from retryexec.cli.csv_records import csv_records
from retryexec.cli.options import UsageError
from retryexec.cli.records import BadRecord, Record, RecordType
from retryexec.cli.source import Source

Run = Callable[..., Result]
Ran = Callable[[], list[Any]]


@dataclass
class Mail:
    email: str
    text: str

    def exec(self) -> None:
        """Do nothing."""


def read(data: str, **options: Any) -> tuple[list[tuple[str, str]], list[BadRecord], list[str]]:
    """Return the records in *data*, the bad ones, and what was noted."""
    chunks = iter([data.encode()])
    source = Source("in.csv", lambda _: next(chunks, b""), None, lambda: None)
    notes: list[str] = []
    kind = RecordType(Mail)
    items = list(csv_records(source, kind, delimiter=options.get("delimiter"), note=notes.append))
    good = [(item.job.email, item.job.text) for item in items if isinstance(item, Record)]
    return good, [item for item in items if isinstance(item, BadRecord)], notes


# ---- what people have


@pytest.mark.parametrize(
    "text",
    [
        "email,text,,\r\na,b,,\r\n",
        "email,text\r\na,b,,,\r\n",
        "email,text,,,\r\na,b\r\n",
        "email,,text\na,,b\n",
        "email,text\n,\na,b\n,,,\n \t,\n",
        "email, text\na, b\n",
        'email, text\na, "b"\n',
        "email;text\na;b\n",
        "email\ttext\na\tb\n",
        "email|text\na|b\n",
        '"email";"text"\n"a";"b"\n',
        "sep=;\nemail;text\na;b\n",
        "\ufeffemail,text\na,b\n",
        "\n\nemail,text\n\na,b\n\n",
        "text,email\nb,a",
        "email,text,note;x\na,b,c\n",
        "email,text\ra,b\r",
        '"email","text"\r"a","b"',
        "email,text\r\r\na,b\r\r\n",
    ],
)
def test_what_spreadsheets_and_people_write(text: str) -> None:
    assert read(text)[:2] == ([("a", "b")], [])


def test_a_carriage_return_ends_records_only_where_it_ends_the_header() -> None:
    good, bad, _ = read('email,text\ra,"b\rc,d"\r\re,f\r\n')
    assert (good, bad) == ([("a", "b\rc,d"), ("e", "f")], [])
    good, bad, _ = read('email,text\na,b\rc,d\ne,"f\rg,h"\n')
    assert good == [("e", "f\rg,h")]
    assert [item.line for item in bad] == [2]


def test_a_guess_is_told_and_can_be_overruled() -> None:
    assert read("email,text\na,b\n")[2] == []
    (note,) = read("email;text\na;b\n")[2]
    assert note == (
        "in.csv: note: its columns are taken to be separated by ';' (--delimiter says otherwise)"
    )
    assert read("email text\na b\n", delimiter=" ")[:2] == ([("a", "b")], [])
    with pytest.raises(UsageError, match=r"does not have a column 'email'.* --delimiter says what"):
        read("email;text\na;b\n", delimiter=",")


def test_a_name_in_tsv_is_a_hint_and_told(run: Run, ran: Ran) -> None:
    result = run(b"id\tname\n1\ta, b\n", name="in.tsv")
    assert result.err.startswith("in.tsv: note: its columns are taken to be separated by tabs")
    assert run(b"id,name\n2,b\n", name="in.tsv").err == ""
    assert run(b"id\n3\n", "--quiet", name="in.tsv").err == ""
    assert ran()[-1].id == 3


def test_rows_of_nothing_are_counted(run: Run, ran: Ran) -> None:
    result = run(b"id,name\n1,x\n,\n2,y\n,,,\n", name="in.csv")
    assert result.status == 0
    assert ": 2 succeeded (2 blank rows skipped)\n" in result.out
    assert len(ran()) == 2


def test_options_name_the_delimiter(run: Run, ran: Ran) -> None:
    assert run(b"id^name\n1^x\n", "--delimiter", "^", name="in.csv").status == 0
    assert run(b"id\tname\n2\ty\n", "--delimiter", "tab", "--format", "csv").status == 0
    assert run(b"id\tname\n3\tz, with comma\n", name="in.tsv").status == 0
    assert ran()[-1].name == "z, with comma"


# ---- what is never a record

LONG = "Dear all, see below\n" * 8000


@pytest.mark.parametrize(
    ("cell", "bad"),
    [
        (LONG, 0),
        ("x" * 140_000, 0),
        ("x" * 3_000_000, 0),
        ('He said "hi" to me\nevil@x,evil\n', 1),
        ('5" pipe\nevil@x,evil\nevil@x,evil', 1),
        (r"\"quoted\" by backslash" + "\nevil@x,evil\n", 1),
        (r"\"a\", \"b\" and \"c\"" + "\nevil@x,evil\n", 1),
        ('a "b", c\nevil@x,evil\n"d" e', 1),
    ],
)
def test_text_of_a_cell_is_never_run(cell: str, bad: int) -> None:
    first = "ann@example.com,before\n"
    last = "bob@example.com,after\n" * 3
    good, wrong, _ = read(f'email,text\n{first}carl@example.com,"{cell}"\n{last}')
    assert {email for email, _ in good} <= {
        "ann@example.com",
        "bob@example.com",
        "carl@example.com",
    }
    assert good[0] == ("ann@example.com", "before")
    assert len(wrong) == bad
    if not bad:
        assert good[1] == ("carl@example.com", cell)
        assert len(good) == 5


word = st.sampled_from(["hello", " ", ", ", "\nevil@x,evil\n", "\nevil@x,evil", "''", "\\"])
stray = st.sampled_from(['"hi', '"hi" there', '\\"hi\\" there', ' "x" y'])


@given(st.lists(st.one_of(word, stray), max_size=8), stray, st.lists(word, max_size=4))
def test_no_stray_quote_makes_text_a_record(
    before: list[str], quote: str, after: list[str]
) -> None:
    """Quotes that are followed by text cannot be read as the end of a cell, nor begin one."""
    cell = "x" + "".join(before) + quote + "".join(after) + "x"
    data = f'email,text\nann,"{cell}"\nbob,"after"\ncarl,after\n'
    good, bad, _ = read(data)
    assert {email for email, _ in good} <= {"ann", "bob", "carl"}
    assert bad
    assert bad[0].line == 2


def test_reading_goes_on_where_a_record_surely_begins() -> None:
    good, bad, _ = read('email,text\na,"b "c" d"\nx,"y"\nz,"w"\n')
    assert good[-1] == ("z", "w")
    assert len(bad) == 1
    good, (bad_one,), _ = read('email,text\na,"b" c\nx,y\n')
    assert good == []
    assert "not CSV: ',' expected after '\"'" in bad_one.reason
    assert "where it ends is not certain, so the rest of INPUT is not run" in bad_one.reason
    good, (bad_one,), _ = read('email,text\na,"b "c"\nd,e"\nx,"y"\n')
    assert good == [("x", "y")]
    assert "it may go on to line 3, and what is there is not run" in bad_one.reason
