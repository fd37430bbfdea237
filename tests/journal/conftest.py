"""Journals that are closed after the test, and whose files and tables are only its own."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_faults import Faulty
from helpers.journal_kit import JOBS, FakeHost, opened
from helpers.postgres import Schema

from retryexec.journal import Journal, _sqlite

Open = Callable[..., tuple[Journal, FakeHost]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    """Makes all connections faulty ones; they fail once their class is told how."""

    def connect(path: Path, **options: Any) -> sqlite3.Connection:
        Faulty.paths.append(path)
        return sqlite3.connect(path, factory=Faulty, **options)

    monkeypatch.setattr(_sqlite, "connect", connect)
    yield Faulty
    Faulty.before = Faulty.after = None
    Faulty.paths.clear()


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Open]:
    """Opens journals, in ``tmp_path / "journal"`` unless told otherwise."""
    journals = []

    def open_one(directory: Path | None = None, **options: Any) -> tuple[Journal, FakeHost]:
        made = opened(directory or tmp_path / "journal", **options)
        journals.append(made[0])
        return made

    yield open_one
    for journal in journals:
        journal.close()


@pytest.fixture
def on_server(schema: Schema) -> Iterator[Open]:
    """Opens journals on a server that look for the dead only when they are asked to."""
    journals = []

    def open_one(**options: Any) -> tuple[Journal, FakeHost]:
        host = FakeHost()
        journal = host.journal = schema(**{"jobs": JOBS, "poll": 3600, **options})
        journals.append(journal)
        journal.open(host)
        return journal, host

    yield open_one
    for journal in journals:
        journal.close()
