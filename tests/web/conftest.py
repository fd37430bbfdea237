"""A journal with dead letters, and somebody who looks at its page."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.letters import letter, write_letters
from helpers.visitor import Visitor

import retryexec.web
from retryexec.journal._rows import LetterRow


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the journal is: empty so far."""
    path = tmp_path / "journal"
    path.mkdir()
    return path


@pytest.fixture
def morning(place: Path) -> list[LetterRow]:
    """Thirty dead letters of three causes, the latest of them a minute old."""
    now = time.time() - 60
    made = [
        letter(n, error="sqlite3.OperationalError", text="database is locked", died=now - n)
        if n % 2
        else letter(n, kind="notify", text=f"GET /users/{n}: timed out", died=now - n)
        if n % 3
        else letter(n, kind="notify", error="ValueError", text=f"bad: {n!r}", died=now - n)
        for n in range(30)
    ]
    write_letters(place, made)
    return made


@pytest.fixture
def visit(place: Path) -> Callable[..., Visitor]:
    """Open the page."""

    def visit(where: Any = place, **options: Any) -> Visitor:
        return Visitor(retryexec.web.app(where, **options))

    return visit
