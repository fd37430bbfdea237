"""Journals as they are found: huge, damaged, on a server; reading takes nothing from them."""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import JOBS, Save, opened
from helpers.letters import letter, write_letters
from helpers.postgres import Schema
from helpers.visitor import Visitor, rows_of, text_of

import retryexec.web
from retryexec.journal import Journal
from retryexec.journal._browse import DirectoryBrowser
from retryexec.journal._rows import LetterRow
from retryexec.web import _desk
from retryexec.web._desk import Desk
from retryexec.web._filter import Filter

Visit = Callable[..., Visitor]


# ---- damaged


def test_a_damaged_file_is_named_and_the_rest_is_shown(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1)])
    Journal(place, jobs=JOBS).put(Save("u1"))
    (place / "dead.db").write_bytes(b"not a database" * 100)
    visitor = visit()
    for path in ("/", "/dead"):
        page = text_of(visitor.get(path))
        assert "dead.db is damaged" in page
        assert "No dead letters" not in page
    assert len(rows_of(visitor.get("/jobs"))) == 1


def test_a_file_of_the_future_is_named(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(1)])
    sql = sqlite3.connect(place / "dead.db")
    sql.execute("PRAGMA user_version=4")
    sql.close()
    words = "dead.db is of version 4, and this library knows up to"
    visitor = visit()
    assert words in text_of(visitor.get("/"))
    assert words in text_of(visitor.get("/dead"))


def test_a_row_that_is_not_as_it_must_be_is_shown_with_what_is_wrong(
    place: Path, visit: Visit
) -> None:
    write_letters(place, [letter(1), letter(2, died=2e6)])
    sql = sqlite3.connect(place / "dead.db")
    sql.execute("UPDATE dead SET errors='[{',attempts=-1 WHERE id LIKE '%1'")
    sql.execute("UPDATE dead SET kind=CAST(x'ff41' AS TEXT) WHERE id LIKE '%2'")
    sql.commit()
    sql.close()
    rows = rows_of(visit().get("/dead"))
    assert len(rows) == 2
    assert "damaged: its text is not valid UTF-8" in rows[0]
    assert "damaged: column 'attempts'" in rows[1]


def test_a_directory_that_has_gone_is_said(place: Path, visit: Visit) -> None:
    visitor = visit()
    place.rmdir()
    answer = visitor.client.get("/jobs")
    assert (answer.status_code, "cannot be looked into" in answer.text) == (503, True)
    assert visitor.status("/log") == 200


# ---- huge


def test_a_page_looks_at_few_records_however_many_there_are(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_letters(place, [letter(n, died=float(n)) for n in range(5000)])
    looked: list[int] = []
    original = DirectoryBrowser.letter_page

    def letter_page(self: Any, after: Any, size: int, kind: Any = None) -> Any:
        looked.append(size)
        return original(self, after, size, kind)

    monkeypatch.setattr(DirectoryBrowser, "letter_page", letter_page)
    page = Desk(place).dead(Filter(), None)
    assert (len(page.lines), page.further) == (50, False)
    assert sum(looked) == 200


def test_where_few_match_the_page_says_how_far_it_has_looked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_letters(place, [letter(n, died=float(n)) for n in range(3000)])
    monkeypatch.setattr(_desk, "_BUDGET", 0.0)
    visitor, path, times = Visitor(retryexec.web.app(place)), "/dead?text=nowhere", 0
    page = visitor.get(path)
    assert "Looked at 200 records so far; there are more." in text_of(page)
    while 'rel="next"' in page:
        path = "/dead" + page.partition('rel="next" href="')[2].partition('"')[0]
        page, times = visitor.get(path.replace("&amp;", "&")), times + 1
    assert "No dead letter matches." in text_of(page)
    assert 10 < times < 20


def test_the_page_of_a_rare_error_begins_where_the_latest_of_it_is(place: Path) -> None:
    rows = [letter(n, died=float(n)) for n in range(3000)]
    write_letters(place, [*rows, letter(5000, died=7.0, error="RareError")])
    desk = Desk(place)
    while not desk.tally(wait=10).complete:
        """It is being counted."""
    page = desk.dead(Filter(error="RareError"), None)
    assert ([line.cause.type for line in page.lines], page.looked) == (["RareError"], 9)


# ---- in use


def test_looking_takes_over_nothing_and_changes_nothing(place: Path, visit: Visit) -> None:
    Journal(place, jobs=JOBS).put_many(Save(f"u{n}") for n in range(10))
    write_letters(place, [letter(n) for n in range(10)])
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    visitor = visit()
    for path in ("/", "/dead", "/jobs", f"/job/{1:032x}", "/confirm?verb=discard&all=1", "/log"):
        visitor.get(path)
    after = {path.name: path.read_bytes() for path in place.iterdir()}
    # To read a log, SQLite makes one that is empty, and the memory that goes with it.
    made = {name: after.pop(name) for name in set(after) - set(before)}
    assert after == before
    assert all(name.endswith("-shm") or not content for name, content in made.items())


def test_looking_keeps_no_owner_from_its_log(place: Path, visit: Visit) -> None:
    """A reader that stays in a transaction would keep a log from being given back."""
    journal, _ = opened(place)
    for n in range(50):
        journal.accept(Save(f"u{n}"))
    visitor = visit()
    visitor.get("/")
    visitor.get("/jobs")
    (path,) = place.glob("*.db")
    sql = sqlite3.connect(path)
    assert sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # nobody is in the way
    sql.close()
    journal.close()


def test_looking_keeps_no_letter_from_being_written(place: Path, visit: Visit) -> None:
    write_letters(place, [letter(n, died=float(n)) for n in range(2000)])
    visitor, stop = visit(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            visitor.client.get("/dead?text=nowhere")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for n in range(20):
            write_letters(place, [letter(10_000 + n)])
    finally:
        stop.set()
        thread.join()


# ---- on a server


def _bury(schema: Schema, rows: list[LetterRow]) -> None:
    insert = (
        "INSERT INTO {s}.dead(id,kind,ver,data,reason,attempts,crashes,accepted_at,died_at,errors,"
        "source,key,latest,stale) VALUES(%s::uuid,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
    )
    for row in rows:
        columns = [getattr(row, name) for name in row.__struct_fields__ if name != "rerun_to"]
        schema.query(insert, *columns)


def test_a_journal_on_a_server_is_shown_and_mended(schema: Schema) -> None:
    journal = schema(jobs=JOBS)
    journal.put_many(Save(f"u{n}", n) for n in range(70))
    now = time.time()
    rows = [letter(n, died=now - n, error="ValueError" if n % 3 else "OSError") for n in range(60)]
    rows.append(letter(99, died=now - 500, kind="mail", key="k", stale=True))
    _bury(schema, rows)
    app = retryexec.web.app(schema.url, schema=schema.name, jobs=JOBS)
    visitor = Visitor(app)
    page = visitor.get("/")
    while "Counting:" in page:
        page = visitor.get("/")
    assert "0 running 70 queued 0 waiting 61 dead" in text_of(page)
    assert len(rows_of(page)) >= 3
    listed = visitor.get("/dead")
    assert len(rows_of(listed)) == 50
    follow = listed.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert len(rows_of(visitor.get(f"/dead{follow}"))) == 11
    jobs = visitor.get("/jobs")
    follow = jobs.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert (len(rows_of(jobs)), len(rows_of(visitor.get(f"/jobs{follow}")))) == (50, 20)
    assert "Attempt 3 failed" in text_of(visitor.get(f"/job/{99:032x}"))
    assert "done: 20 jobs" in visitor.do("rerun", all="1", error="OSError")
    assert "done: 1 job" in visitor.do("discard", all="1", kind="mail")
    assert "done: 1 job" in visitor.do(
        "edit", id=f"{1:032x}", **{"text:email": "new", "was:email": "u1@example.com"}
    )
    assert journal.dead.get(f"{1:032x}").fields == {"email": "new", "n": 1}
    assert len(journal.dead) == 40
    app.state.desk.close()
    journal.close()


def test_a_role_that_may_only_read_sees_every_page(schema: Schema) -> None:
    journal = schema(jobs=JOBS)
    job_id = journal.put(Save("u"))
    _bury(schema, [letter(1)])
    with schema.reader() as url:
        app = retryexec.web.app(url, schema=schema.name, read_only=True)
        visitor = Visitor(app)
        for path in ("/", "/dead", "/dead?error=E", "/jobs", f"/job/{job_id}", f"/job/{1:032x}"):
            assert 'role="alert"' not in visitor.get(path)
        assert "1 queued" in text_of(visitor.get("/"))
        app.state.desk.close()
        # Without read_only, what the role may not do is said when somebody tries it.
        app = retryexec.web.app(url, schema=schema.name)
        assert "permission denied" in Visitor(app).do("discard", id=f"{1:032x}")
        app.state.desk.close()
    journal.close()
