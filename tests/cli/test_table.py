"""Tables of the command: what is too long for a line ends with an ellipsis."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from helpers.command import Result
from helpers.journal_kit import Save, opened

from retryexec.cli.output import show_table

Command = Callable[..., Result]


def test_a_long_cell_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("id", "state", "remarks"), [("x" * 3000, "queued", "y" * 9000), ("a", "b", "c")])
    header, long, short = capsys.readouterr().out.splitlines()
    assert len(long) < 300
    assert long.split() == ["x" * 63 + "…", "queued", "y" * 199 + "…"]
    assert short.split() == ["a", "b", "c"]
    assert header.split() == ["id", "state", "remarks"]


def test_what_is_of_any_length_meant_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("id", "remarks"), [("0" * 32, "z" * 200)])
    assert capsys.readouterr().out.splitlines()[1].split() == ["0" * 32, "z" * 200]


def test_ls_cuts_what_show_tells_whole(command: Command, tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journal, _ = opened(directory)
    entry = journal.accept(Save(""))
    journal.retrying(entry, 1, 3600.0, OSError("why " * 100))
    journal.close()
    (path,) = directory.glob("*.db")
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("UPDATE job SET kind=?", ("k" * 5000,))
    assert max(map(len, command("journal", "ls", directory).out.splitlines())) < 500
    assert max(map(len, command("journal", "stats", directory).out.splitlines())) < 500
    shown = command("journal", "show", directory, entry.id).out
    assert "k" * 5000 in shown
    assert "why " * 100 in shown.replace("\n", "") + " "
