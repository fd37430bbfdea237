"""Dead letters by the thousand, written at once as processes write them one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from retryexec.journal import ErrorText
from retryexec.journal._directory import Directory
from retryexec.journal._letter_file import LetterFile
from retryexec.journal._rows import LetterRow, errors_json


def letter(
    number: int,
    *,
    kind: str = "save",
    fields: dict[str, Any] | None = None,
    error: str = "ConnectionError",
    text: str = "the server has gone away",
    traceback: bool = True,
    died: float = 1_000_000.0,
    key: str | None = None,
    stale: bool = False,
    attempts: int = 3,
) -> LetterRow:
    """Return a letter whose id ends with *number*."""
    earlier = [ErrorText(n, died - 10 * (attempts - n), error, text) for n in range(1, attempts)]
    whole = (
        "Traceback (most recent call last):\n"
        '  File "savers.py", line 12, in exec\n    database.save(self)\n'
        f"{error}: {text}\n"
    )
    last = ErrorText(attempts, died, error.rpartition(".")[2], whole if traceback else text)
    return LetterRow(
        f"{number:032x}",
        kind,
        1,
        json.dumps({"email": f"u{number}@example.com", "n": number} if fields is None else fields),
        "max_attempts",
        attempts,
        0,
        died - 60.0,
        died,
        errors_json([*earlier, last]),
        "0" * 32,
        key=None if key is None else json.dumps(key),
        stale=1 if stale else None,
    )


def write_letters(path: Path, letters: Iterable[LetterRow]) -> None:
    """Write *letters* into the journal in *path*, made if need be."""
    file = LetterFile(Directory(path))
    source = iter(letters)
    while batch := list(islice(source, 20_000)):
        file.insert(batch)


def ids(letters: Sequence[LetterRow]) -> list[str]:
    return [row.id for row in letters]
