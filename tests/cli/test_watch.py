"""``retryexec watch``: what a frame shows, at which size, and how the view ends."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result
from helpers.journal_kit import JOBS, Call, FakeHost, Save, opened
from helpers.postgres import Schema
from helpers.terminal import Terminal
from rich.console import Console

from retryexec.cli.watch import look_at
from retryexec.cli.watch_view import Frame, Look, Rates, Sizes, telling_text
from retryexec.journal import ErrorText, Journal, Owner, UnfinishedJob, _sqlite
from retryexec.journal._look import inspector_of
from retryexec.journal._overview import ErrorGroup, Errors, OwnerJobs

Command = Callable[..., Result]
NOW = 1_000_000.0


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "journal"


def die(journal: Journal, *errors: Exception) -> None:
    for error in errors:
        journal.died(journal.accept(Call("/")), "max_attempts", 3, error)
    assert journal.flush(10)


def owner_jobs(name: str, *, alive: bool = True, accepted: int | None = None, **counts: int) -> Any:
    owner = Owner(name, Path(f"/{name}.db"), alive, int(name) if alive else None)
    states = {state: counts.get(state, 0) for state in ("queued", "running", "waiting")}
    return OwnerJobs(owner, **states, held=0, parked=0, oldest_at=NOW - 90, accepted=accepted)


def group(text: str, *, dead: int = 1, alike: bool = True, name: str = "OSError") -> ErrorGroup:
    return ErrorGroup("save", name, text, alike, dead, 0, NOW - 50, NOW - 5, "01a2")


def job(number: int, **fields: Any) -> UnfinishedJob:
    owner = Owner("1", Path("/1.db"), True, 1)
    errors = (ErrorText(2, NOW, "OSError", "busy"),)
    job_id = f"{number:032x}"
    due = NOW + number
    args = (job_id, "save", 1, {}, "waiting", 2, 0, NOW - 90, NOW - 80, due, 1.0, None, errors)
    return UnfinishedJob(*args, owner, **fields)


def look(**fields: Any) -> Look:
    defaults: dict[str, Any] = {
        "at": NOW,
        "owners": (),
        "oldest": None,
        "due": (),
        "dead": Counter(),
        "died": (0, 0),
        "errors": Errors((), 0, 0),
        "unreadable": (),
        "seconds": 0.01,
    }
    return Look(**{**defaults, **fields})


def text_of(what: Look, columns: int = 80, lines: int | None = 24, **more: Any) -> list[str]:
    console = Console(width=columns, height=lines, highlight=False)
    rates = more.pop("rates", None)
    with console.capture() as captured:
        console.print(Frame("saves", "retryexec", 1.0).drawn(what, rates, Sizes(columns, lines)))
    return [line.rstrip() for line in captured.get().splitlines()]


FULL = look(
    owners=tuple(owner_jobs(str(n), queued=1_000_000 + n, running=n) for n in range(1, 30)),
    oldest=job(1),
    due=tuple(job(n) for n in range(1, 30)),
    dead=Counter(save=10_000),
    died=(34, 340),
    errors=Errors(tuple(group(f"{'x' * n} no", dead=100 - n) for n in range(30)), 10_000, 0),
    unreadable=("a.db is damaged: the next process to open the journal saves what it can",),
)


# ---- a frame


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("lines", [16, 24, 60])
def test_a_frame_fits_its_terminal(columns: int, lines: int) -> None:
    drawn = text_of(FULL, columns, lines)
    assert len(drawn) <= max(lines, 20) or columns < 80
    assert max(map(len, drawn)) <= columns


def test_a_frame_of_80_columns_says_all_there_is_to_say() -> None:
    drawn = "\n".join(text_of(FULL, 80, 24))
    assert "29,000,435      435" in drawn  # of all owners
    assert "10,000 dead letters: 34 in the last minute, 340 in the last hour" in drawn
    assert "oldest: save 0000000000000, 1 min 30 s old, waiting, 2 failed attempts" in drawn
    assert "OSError: xx no" in drawn
    assert "OSError: busy" in drawn
    assert "left out: a.db is damaged" in drawn
    assert "retryexec journal dead saves --kind save --error" in drawn
    assert "more, 2" in drawn  # owners
    assert "other errors" in drawn


def test_more_lines_show_more() -> None:
    few, many = ("\n".join(text_of(FULL, 120, lines)) for lines in (24, 80))
    assert many.count("pid ") > few.count("pid ") >= 1
    assert many.count("OSError: x") > few.count("OSError: x") >= 3
    assert many.count("busy") > few.count("busy") >= 2


def test_owners_of_one_process_are_one_and_so_are_the_stopped() -> None:
    owners = (
        owner_jobs("7", queued=2),
        owner_jobs("7", queued=3, waiting=1),
        owner_jobs("8", alive=False, queued=1),
        owner_jobs("9", alive=False, queued=4),
    )
    drawn = text_of(look(owners=owners))
    rows = {line[:12].strip(): line[12:].split()[:3] for line in drawn[2:5]}
    assert rows["all jobs"] == ["10", "0", "1"]
    assert rows["pid 7"] == ["5", "0", "1"]
    assert rows["stopped (2)"] == ["5", "0", "0"]


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    evil = group("\x1b[31m[bold]red[/bold]\n\x07", dead=3)
    drawn = "\n".join(text_of(look(dead=Counter(save=3), errors=Errors((evil,), 3, 0))))
    assert "\x1b" not in drawn
    assert r"\x1b[31m[bold]red[/bold]" in drawn


def test_an_empty_journal_says_so() -> None:
    assert "Nothing is unfinished, and there are no dead letters." in text_of(look())


def test_errors_that_differ_in_names_show_what_they_have_in_common() -> None:
    errors = Errors((group("no route to 10.0.0.7", dead=2, alike=False),), 2, 0)
    drawn = text_of(look(dead=Counter(save=2), errors=errors))
    assert any("OSError: no route to …" in line for line in drawn)


def test_the_filter_that_is_proposed_tells_one_cause_from_the_others() -> None:
    one, two = group("no route to 10.0.0.7: timed out"), group("the disk of db-3 is full")
    assert telling_text(one, [one]) == "OSError"
    assert telling_text(one, [one, two]) == "no route to"
    assert telling_text(two, [one, two]) == "the disk of"
    assert telling_text(one, [one, group("", name="ValueError")]) == "OSError"
    assert telling_text(group("7"), [one, group("7")]) == "OSError"


# ---- rates


def test_rates_are_of_what_was_accepted_and_is_not_there_any_more() -> None:
    rates = Rates(window=10.0)
    rates.add(look(at=0.0, owners=(owner_jobs("1", queued=5, accepted=100),)))
    assert rates.per_second() is None
    rates.add(look(at=5.0, owners=(owner_jobs("1", queued=10, accepted=200),)))
    assert rates.per_second() == (20.0, 19.0)
    # An owner without rows has no number; its jobs have ended all the same.
    rates.add(look(at=10.0, owners=(owner_jobs("1"),)))
    assert rates.per_second() == (10.0, 10.5)
    # A new one brings what it has accepted since it came.
    rates.add(look(at=12.0, owners=(owner_jobs("1"), owner_jobs("2", queued=4, accepted=14))))
    assert rates.per_second() == (114 / 12, (114 - (4 - 5)) / 12)


# ---- once


def test_once_prints_a_frame_for_a_pipe(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, _ = owner
    die(journal, *(ConnectionError(f"no route to 10.0.0.{n}") for n in range(30)))
    die(journal, ValueError("refused"))
    waiting = journal.accept(Save("a@b"))
    journal.retrying(waiting, 2, 3600, ConnectionError("try again"))
    assert journal.flush(10)
    shown = command("watch", directory, "--once")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith("journal  ")
    assert f"pid {os.getpid()}" in shown.out
    assert "31 dead letters: 31 in the last minute, 31 in the last hour" in shown.out
    assert "ConnectionError: no route to …" in shown.out
    assert "retryexec journal dead journal --kind call --error ConnectionError" in shown.out
    assert "retryexec journal rerun journal --kind call --error ConnectionError" in shown.out
    assert waiting.id[:13] in shown.out
    assert "all jobs" in command("watch", directory).out  # a pipe gets one frame, too
    # What is proposed does what it says.
    dead = command("journal", "dead", directory, "--kind", "call", "--error", "ConnectionError")
    assert len(dead.out.splitlines()) == 31


def test_once_on_a_server(command: Command, schema: Schema) -> None:
    journal = schema(jobs=JOBS)
    journal.put(Call("/"))
    shown = command("watch", schema.url, "--schema", schema.name, "--once")
    assert (shown.status, shown.err) == (0, "")
    assert "not taken yet" in shown.out
    journal.close()
    missing = command("watch", schema.url, "--schema", "none", "--once")
    assert missing.status == 2
    assert 'there is no journal in schema "none"' in missing.err


def test_a_role_that_may_only_read_is_enough(command: Command, schema: Schema) -> None:
    journal = schema(jobs=JOBS)
    job_id = journal.put(Call("/"))
    with schema.reader() as url:
        where = (url, "--schema", schema.name)
        shown = command("watch", *where, "--once")
        assert (shown.status, shown.err) == (0, "")
        assert "not taken yet" in shown.out
        for action in ("ls", "dead", "stats", "check"):
            assert command("journal", action, *where).err == ""
        assert job_id in command("journal", "show", *where, job_id).out
        schema.query("ALTER TABLE {s}.job RENAME TO hidden")
        schema.query("CREATE TABLE {s}.job()")
        refused = command("watch", *where, "--once")
        assert refused.status == 2
        assert "lacks SELECT on job" in refused.err
        assert "GRANT SELECT ON ALL TABLES" in refused.err
        assert "INSERT" not in refused.err
    journal.close()


def test_a_journal_that_is_not_there_is_misuse(command: Command, tmp_path: Path) -> None:
    missing = command("watch", tmp_path / "none")
    assert missing.status == 2
    assert "there is no directory" in missing.err
    assert "not a time between two looks" in command("watch", tmp_path, "--interval", "0").err


def test_an_empty_directory_is_an_empty_journal(command: Command, tmp_path: Path) -> None:
    shown = command("watch", tmp_path)
    assert shown.status == 0
    assert "Nothing is unfinished" in shown.out


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(
    command: Command, directory: Path, owner: tuple[Journal, FakeHost]
) -> None:
    journal, _ = owner
    journal.accept(Save("a@b"))
    (directory / "dead.db").write_bytes(b"no database at all" * 100)
    shown = command("watch", directory, "--once")
    assert shown.status == 1
    assert "left out: " in shown.out
    assert "is damaged" in " ".join(shown.out.split())
    assert f"pid {os.getpid()}" in shown.out
    (directory / "dead.db").unlink()


def test_files_of_a_newer_library_are_named(command: Command, directory: Path) -> None:
    journal, _ = opened(directory)
    die(journal, ValueError("no"))
    journal.close()
    with sqlite3.connect(directory / "dead.db") as sql:
        sql.execute("PRAGMA user_version=6")
    sql.close()
    shown = command("watch", directory, "--once")
    assert shown.status == 1
    assert "is of version 6" in " ".join(shown.out.split())


def test_a_locked_file_is_waited_for_once_and_named(
    directory: Path, owner: tuple[Journal, FakeHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, _ = owner
    die(journal, ValueError("no"))
    monkeypatch.setattr(_sqlite, "BUSY_MS", 50)
    reader = inspector_of(directory)
    sql = sqlite3.connect(directory / "dead.db", isolation_level=None)
    sql.execute("BEGIN EXCLUSIVE")
    locked = look_at(reader)
    sql.execute("COMMIT")
    sql.close()
    assert len(locked.unreadable) == 1
    assert "database is locked" in locked.unreadable[0]
    free = look_at(reader)
    assert (free.unreadable, free.dead.total(), free.errors.dead) == ((), 1, 1)


# ---- live


@pytest.mark.timeout(120)
def test_ctrl_c_ends_the_view(directory: Path, owner: tuple[Journal, FakeHost]) -> None:
    journal, _ = owner
    journal.accept(Save("a@b"))
    with Terminal("watch", directory, "--interval", "50ms") as terminal:
        terminal.wait_for("all jobs")
        die(journal, ValueError("came while it was watched"))
        terminal.wait_for("came while it was watched")
        terminal.seen = ""
        terminal.resize(100, 30)
        terminal.wait_for("all jobs")
        terminal.interrupt()
        assert terminal.end() == 0
        assert "Traceback" not in terminal.seen


@pytest.mark.timeout(120)
def test_a_journal_that_disappears_ends_the_view(tmp_path: Path) -> None:
    place = tmp_path / "journal"
    place.mkdir()
    with Terminal("watch", place, "--interval", "50ms") as terminal:
        terminal.wait_for("Nothing is unfinished")
        shutil.rmtree(place)
        assert terminal.end() == 1
    assert "cannot be looked into: No such file or directory" in " ".join(terminal.seen.split())
    assert "Traceback" not in terminal.seen


@pytest.mark.timeout(120)
def test_a_server_that_goes_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last frame stays, with the reason; what is fatal ends the view."""
    from retryexec.cli import watch
    from retryexec.journal import JournalError
    from retryexec.journal.postgres._connection import Away

    answers: list[Any] = [Away("no answer"), look(at=NOW + 1), JournalError("dropped")]

    def answer(_: object) -> Look:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(watch, "look_at", answer)
    looks = watch.Looks(inspector_of(tmp_path), look(), interval=0.01)
    seen = set()
    while not looks.ended:
        looks.wait(1.0)
        seen.add(looks.latest()[1])
    looks.close()
    assert looks.latest() == (look(at=NOW + 1), "dropped")
    assert seen <= {None, "no answer", "dropped"}


@pytest.mark.timeout(120)
def test_a_terminal_that_is_closed_ends_the_view(tmp_path: Path) -> None:
    with Terminal("watch", tmp_path, "--interval", "50ms") as terminal:
        terminal.wait_for("Nothing is unfinished")
        assert terminal.close() == 0


def test_a_look_that_is_drawn_again_counts_once() -> None:
    rates = Rates()
    for _ in range(2):
        rates.add(look(at=1.0, owners=(owner_jobs("1", accepted=5),)))
    assert rates.per_second() is None
