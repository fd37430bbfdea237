"""What can be done to dead letters from the page."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from helpers.letters import letter, write_letters
from helpers.visitor import Visitor, rows_of, text_of

from retryexec.journal import Inspector, JournalError
from retryexec.journal._rows import LetterRow
from retryexec.web import _doing
from retryexec.web._desk import Desk
from retryexec.web._filter import Filter
from retryexec.web._lines import Line

Visit = Callable[..., Visitor]


@dataclass
class Mail:
    email: str
    n: int
    tags: list[str] | None = None

    def exec(self) -> None:
        """The tests run nothing."""


def dead(place: Path) -> set[str]:
    return {found.id for found in Inspector(place).letters()}


def revived(place: Path) -> set[str]:
    return {job.id for job in Inspector(place).jobs()}


def test_all_of_a_group_are_rerun_and_nothing_else(
    place: Path, morning: list[LetterRow], visit: Visit
) -> None:
    visitor = visit()
    asked = text_of(
        visitor.get("/confirm", verb="rerun", all="1", kind="notify", error="ConnectionError")
    )
    assert "Rerun 10 dead letters?" in asked
    assert "All that match notify, ConnectionError" in asked
    told = visitor.do("rerun", all="1", kind="notify", error="ConnectionError", expected="10")
    assert "done: 10 jobs" in told
    meant = {row.id for row in morning if "timed out" in (row.errors or "")}
    assert (revived(place), dead(place)) == (meant, {row.id for row in morning} - meant)


def test_an_error_in_the_traceback_of_another_one_is_not_meant(place: Path, visit: Visit) -> None:
    row = letter(1, error="SaveError", text="not saved")
    assert row.errors is not None
    row.errors = row.errors.replace("Traceback", "ConnectionError: x\\n\\nTraceback", 1)
    write_letters(place, [row, letter(2)])
    visit().do("rerun", all="1", error="ConnectionError")
    assert dead(place) == {row.id}


def test_what_dies_after_the_count_was_shown_is_left(place: Path, visit: Visit) -> None:
    now = time.time()
    write_letters(place, [letter(1, died=now - 9)])
    visitor = visit()
    page = visitor.get("/confirm", verb="discard", all="1")
    until = page.partition('name="until" value="')[2].partition('"')[0]
    late = letter(2, died=float(until) + 5)
    write_letters(place, [late])
    assert "done: 1 job" in visitor.do("discard", all="1", until=until)
    assert dead(place) == {late.id}


def test_the_chosen_ones_are_counted_before_they_are_discarded(
    place: Path, morning: list[LetterRow], visit: Visit
) -> None:
    visitor = visit()
    ids = [row.id for row in morning[:3]]
    asked = visitor.post("/confirm", {"token": visitor.token(), "verb": "discard", "id": ids})
    assert "Discard 3 dead letters?" in text_of(asked.text)
    assert "done: 3 jobs" in visitor.do("discard", id=ids)
    assert dead(place) == {row.id for row in morning[3:]}


def test_none_chosen_is_said(place: Path, morning: Any, visit: Visit) -> None:
    visitor = visit()
    asked = visitor.post("/confirm", {"token": visitor.token(), "verb": "discard"})
    assert (asked.status_code, "None is chosen" in asked.text) == (400, True)


def test_stale_letters_are_left_unless_it_is_said(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1, key="a", stale=True), letter(2, key="b")])
    visitor = visit()
    asked = text_of(visitor.get("/confirm", verb="rerun", all="1"))
    assert "also stale ones (1 of these)" in asked
    assert "done: 1 job; 1 left as they were" in visitor.do("rerun", all="1")
    assert "done: 0 jobs; 1 left as they were" in visitor.do("rerun", id=f"{1:032x}")
    assert dead(place) == {f"{1:032x}"}
    assert "done: 1 job" in visitor.do("rerun", all="1", force="1")
    assert dead(place) == set()


def test_a_letter_that_has_gone_is_not_counted_as_done(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1)])
    assert "done: 1 job; 1 left" in visit().do("rerun", id=[f"{1:032x}", f"{2:032x}"])


def test_the_log_tells_who_did_what(
    place: Path, morning: Any, visit: Visit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "retryexec.web")
    visitor = visit()
    visitor.do("discard", all="1", kind="save")
    (row,) = rows_of(visitor.get("/log"))
    assert "testclient Discard all that match save 15" in row
    assert "discard by testclient: 15 of 0 jobs (all that match save)" in caplog.text


# ---- edit


def test_fields_are_edited_and_the_job_is_rerun(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1, kind="mail")])
    visitor = visit(jobs={"mail": Mail})
    page = visitor.get(f"/job/{1:032x}")
    assert 'name="text:email" value="u1@example.com"' in page
    told = visitor.do(
        "edit",
        id=f"{1:032x}",
        then="rerun",
        **{
            "text:email": "ana@example.com",
            "was:email": "u1@example.com",
            "json:n": "1",
            "was:n": "1",
            "json:tags": '["new"]',
            "was:tags": "null",
        },
    )
    assert "Rerun" in told
    (job,) = Inspector(place).jobs()
    assert job.fields == {"email": "ana@example.com", "n": 1, "tags": ["new"]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"json:n": "one", "was:n": "1"}, "What stands in 'n' is not JSON"),
        ({"json:n": '"one"', "was:n": "1"}, "Expected `int`, got `str`"),
        ({"json:x": "1", "was:x": ""}, "does not have a field 'x'"),
        ({"json:n": "1", "was:n": "1"}, "No field is another one than before"),
    ],
    ids=["not json", "not an int", "not a field", "no change"],
)
def test_an_edit_that_would_not_make_a_job_changes_nothing(
    place: Path, visit: Visit, fields: dict[str, str], words: str
) -> None:
    write_letters(place, [letter(1, kind="mail")])
    visitor = visit(jobs={"mail": Mail})
    answer = visitor.post(
        "/do", {"token": visitor.token(), "verb": "edit", "id": f"{1:032x}", **fields}
    )
    assert (answer.status_code, words in text_of(answer.text)) == (400, True), answer.text
    (found,) = Inspector(place).letters()
    assert found.fields == {"email": "u1@example.com", "n": 1}


def test_a_redacted_field_is_neither_shown_nor_overwritten(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1, kind="mail")])
    visitor = visit(jobs={"mail": Mail}, redact=lambda kind, fields: fields | {"email": "(hidden)"})
    page = visitor.get(f"/job/{1:032x}")
    assert "u1@example.com" not in page
    visitor.do(
        "edit",
        id=f"{1:032x}",
        **{"text:email": "", "was:email": "", "json:n": "5", "was:n": "1"},
    )
    (found,) = Inspector(place).letters()
    assert found.fields == {"email": "u1@example.com", "n": 5}


def test_without_the_class_the_page_says_how_to_edit(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1, kind="mail")])
    page = text_of(visit().get(f"/job/{1:032x}"))
    assert "Its fields cannot be edited here: the class of 'mail' is not known" in page
    assert "--class mail=file.py:Class" in page


# ---- parked


def test_a_parked_record_of_a_dead_process_is_discarded(place: Path, visit: Visit) -> None:
    from retryexec import RetryingExecutor
    from retryexec.journal import Journal

    (job_id,) = Journal(place, jobs={"mail": Mail}).put_many([Mail("a", 1)])
    with RetryingExecutor(journal=Journal(place, jobs={})):
        pass  # nobody here knows the kind
    visitor = visit()
    page = text_of(visitor.get(f"/job/{job_id}"))
    assert "parked" in page
    assert json.dumps("a") in page or " a " in page
    assert "done: 1 job" in visitor.do("discard-parked", id=job_id)
    assert revived(place) == set()


def test_what_takes_long_to_count_is_counted_aside_before_it_can_be_done(
    place: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_letters(place, [letter(n, text=f"no {n % 2}", died=float(n)) for n in range(1000)])
    monkeypatch.setattr(_doing, "_WAIT", 0.0)
    go_on = threading.Event()
    chosen = Desk.chosen

    def chosen_slowly(self: Desk, filter_: Filter) -> Iterator[list[Line]]:
        for lines in chosen(self, filter_):
            yield lines
            go_on.wait()

    monkeypatch.setattr(Desk, "chosen", chosen_slowly)
    visitor = visit()
    page = visitor.get("/confirm", verb="rerun", all="1", text="no 1")
    while "250 so far" not in page:
        page = visitor.get(again(page))
    assert "Rerun all that match?" in text_of(page)
    assert re.search(r"<button[^>]* disabled>", page)
    go_on.set()
    while "so far" in page:
        page = visitor.get(again(page))
    assert "Rerun 500 dead letters?" in text_of(page)
    assert "disabled" not in page.partition("<main")[2]


def again(page: str) -> str:
    """Return the address by which a page that counts is brought up to date."""
    found = re.search(r'hx-get="([^"]*)"', page)
    assert found is not None
    return unescape(found[1])


def test_a_count_that_cannot_be_made_says_so(
    place: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_letters(place, [letter(1)])

    def chosen(self: Desk, filter_: Filter) -> Iterator[list[Line]]:
        raise JournalError("the disk is gone")

    monkeypatch.setattr(Desk, "chosen", chosen)
    page = visit().get("/confirm", verb="discard", all="1", text="no")
    assert "They cannot be counted: the disk is gone" in text_of(page)
    assert "disabled" in page.partition("<main")[2]
