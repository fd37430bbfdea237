"""Journals that are closed after the test, and whose files and schemas are only its own."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import FakeHost, opened
from helpers.postgres import Schema, Server, serving

from retryexec.journal import Journal

Open = Callable[..., tuple[Journal, FakeHost]]


_numbers = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server, one for all tests of this process that want one."""
    with serving() as running:
        yield running


@pytest.fixture
def schema(server: Server) -> Iterator[Schema]:
    """A schema of its own for this test."""
    made = Schema(server.url, f"test {next(_numbers)}")
    yield made
    made.drop()


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
