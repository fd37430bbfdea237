"""Journals that are closed after the test, and whose files are only its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.journal_kit import FakeHost, opened

from retryexec.journal import Journal

Open = Callable[..., tuple[Journal, FakeHost]]


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
