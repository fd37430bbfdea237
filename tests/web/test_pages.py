"""What the pages show of a journal that is at rest."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import JOBS, Save
from helpers.letters import letter, write_letters
from helpers.visitor import Visitor, rows_of, text_of

import retryexec.web
from retryexec.journal import Journal, JournalError

Visit = Callable[..., Visitor]


def counted(visitor: Visitor) -> str:
    """Return the overview once all letters have been counted."""
    for _ in range(200):
        page = visitor.get("/")
        if "Counting:" not in page:
            return page
    raise AssertionError(page)


# ---- the overview


def test_failures_are_grouped_by_job_and_error_with_count_and_age(
    morning: Any, visit: Visit
) -> None:
    page = counted(visit())
    assert "30 dead" in text_of(page)
    assert [re.sub(r"\b\d+ (s|min)\b", "AGE", row) for row in rows_of(page)] == [
        "15 save OperationalError database is locked AGE AGE Rerun… Discard…",
        "10 notify ConnectionError GET … timed out AGE AGE Rerun… Discard…",
        "5 notify ValueError bad: … AGE AGE Rerun… Discard…",
    ]


def test_the_chart_has_the_deaths_of_the_last_hour(place: Path, visit: Visit) -> None:
    now = time.time()
    write_letters(
        place, [letter(n, died=now - 600) for n in range(7)] + [letter(8, died=now - 7200)]
    )
    page = counted(visit())
    assert "7 died in the last hour, at most 7 in one minute" in page
    assert "7 died 10 min ago" in page
    assert page.count('class="column"') == 1


def test_an_empty_journal_says_so_in_words(place: Path, visit: Visit) -> None:
    visitor = visit()
    assert "No dead letters. Every job that was accepted has ended well" in text_of(
        counted(visitor)
    )
    assert "Nothing died in the last hour." in text_of(visitor.get("/"))
    assert "No dead letters." in text_of(visitor.get("/dead"))
    assert "No unfinished jobs." in text_of(visitor.get("/jobs"))
    assert "Nothing yet." in text_of(visitor.get("/log"))


def test_there_is_no_page_of_a_journal_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no directory"):
        retryexec.web.app(tmp_path / "nowhere")


def test_the_page_shows_a_journal_an_executor_or_both() -> None:
    with pytest.raises(TypeError, match="name a directory, a URL, or executor="):
        retryexec.web.app()
    with pytest.raises(TypeError, match="executor takes a RetryingExecutor, or several"):
        retryexec.web.app(executor="pool")  # type: ignore[arg-type]


# ---- dead letters


def test_letters_are_listed_the_latest_first(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(n, died=1000.0 + n, text=f"no {n}") for n in range(3)])
    rows = rows_of(visit().get("/dead"))
    assert [re.search(r"no \d", row)[0] for row in rows] == ["no 2", "no 1", "no 0"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"kind": "save"}, 15),
        ({"error": "ConnectionError"}, 10),
        ({"kind": "notify", "error": "ValueError"}, 5),
        ({"text": "LOCKED"}, 15),
        ({"older": "75s"}, 14),
        ({"older": "2h"}, 0),
        ({"error": "Connection"}, 0),  # a type is meant as a whole
        ({"shape": "GET … timed out"}, 10),
    ],
    ids=str,
)
def test_letters_are_filtered(
    morning: Any, visit: Visit, query: dict[str, str], count: int
) -> None:
    page = visit().get("/dead", **query)
    if "older" not in query or count == 0:
        assert len(rows_of(page)) == count
    else:
        assert count <= len(rows_of(page)) < 30  # time goes on


def test_letters_are_found_by_their_key(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(n, key=f"user {n % 3}") for n in range(9)])
    assert len(rows_of(visit().get("/dead", key="user 1"))) == 3


def test_a_filter_that_is_not_a_time_is_refused_in_words(place: Path, visit: Visit) -> None:
    answer = visit().client.get("/dead?older=soon")
    assert answer.status_code == 400
    assert "'soon' is not a time: expected seconds, or 15m, 2h, 7d" in text_of(answer.text)


def test_pages_of_a_list_follow_each_other_without_gap_or_repetition(
    place: Path, visit: Visit
) -> None:
    write_letters(place, [letter(n, died=5000.0 + n // 7) for n in range(230)])
    visitor, found, path = visit(), list[str](), "/dead"
    for _ in range(10):
        page = visitor.get(path)
        found += re.findall(r'name="id" id="c(\w+)"', page)
        follow = re.search(r'rel="next" href="([^"]+)"', page)
        if follow is None:
            break
        path = "/dead" + follow[1].replace("&amp;", "&")
    assert len(found) == len(set(found)) == 230


def test_a_place_that_is_not_one_is_refused(place: Path, visit: Visit) -> None:
    assert visit().status("/dead?after=[[1],2,3]") == 400
    assert visit().status("/dead?after={") == 400


# ---- a job


def test_a_jobs_page_tells_its_story(place: Path, visit: Visit) -> None:
    write_letters(
        place, [letter(7, error="sqlite3.OperationalError", text="database is locked", key="u7")]
    )
    page = text_of(visit().get(f"/job/{7:032x}"))
    for words in (
        "save dead",
        "Key u7",
        "Attempts 3",
        "u7@example.com",
        "Accepted",
        "Attempt 1 failed: sqlite3.OperationalError: database is locked",
        "Attempt 3 failed: OperationalError: database is locked",
        'File "savers.py", line 12',
        "Given up: it had all its attempts",
    ):
        assert words in page, words


def test_a_job_is_found_by_the_first_digits_of_its_id(place: Path, visit: Visit) -> None:
    write_letters(
        place, [letter(int("abcd" + n * 28, 16)) for n in "12"] + [letter(int("ef" * 16, 16))]
    )
    visitor = visit()
    assert "ef" * 16 in visitor.get("/job/efefe")
    assert "2 jobs begin with abcd" in text_of(visitor.get("/job/abcd"))
    assert visitor.client.get("/find?id=efef-efef").headers["location"] == "/job/efefefef"
    assert visitor.status("/job/12345") == 404
    assert visitor.status("/find?id=../dead") == 404


def test_fields_are_shown_as_the_redactor_lets_them(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1)])

    def redact(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"email": "…"}

    page = visit(redact=redact).get(f"/job/{1:032x}")
    assert "u1@example.com" not in page
    assert "email … redacted" in text_of(page)


@pytest.mark.parametrize("fields", [{"a": 1}, ["no", "names"]], ids=str)
def test_what_cannot_be_redacted_is_not_shown(place: Path, visit: Visit, fields: Any) -> None:
    write_letters(place, [letter(1, fields=fields)])

    def redact(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("email")

    page = text_of(visit(redact=redact).get(f"/job/{1:032x}"))
    assert "Fields Not shown: " in page
    assert "names" not in page or "do not have names" in page


def test_a_journal_object_brings_its_redactor(place: Path) -> None:
    journal = Journal(place, jobs=JOBS, redact=lambda kind, fields: {"email": "hidden"})
    write_letters(place, [letter(1)])
    page = Visitor(retryexec.web.app(journal)).get(f"/job/{1:032x}")
    assert ("hidden" in page, "u1@example.com" in page) == (True, False)


def test_numbers_are_exact(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1, fields={"n": 2**63 + 1})])
    assert str(2**63 + 1) in visit().get(f"/job/{1:032x}")


# ---- unfinished jobs on disk


def test_jobs_that_wait_for_a_process_are_listed(place: Path, visit: Visit) -> None:
    Journal(place, jobs=JOBS).put_many(Save(f"u{n}", n) for n in range(120))
    visitor = visit()
    rows = rows_of(visitor.get("/jobs"))
    assert len(rows) == 50
    assert rows[0].startswith("queued save")
    assert "a process that has ended" in rows[0]
    assert "120 queued" in text_of(counted(visitor))
    assert rows_of(visitor.get("/jobs", state="waiting")) == []
    follow = re.search(r'rel="next" href="([^"]+)"', visitor.get("/jobs"))
    assert follow is not None
    assert len(rows_of(visitor.get("/jobs" + follow[1].replace("&amp;", "&")))) == 50


def test_a_page_of_a_job_on_disk_says_what_cannot_be_done_and_why(
    place: Path, visit: Visit
) -> None:
    (job_id,) = Journal(place, jobs=JOBS).put_many([Save("u1")])
    page = text_of(visit().get(f"/job/{job_id}"))
    assert "The next one that opens the journal takes it over and runs it." in page
    assert "u1" in page
    assert "Retry now" not in page
