"""Entries as columns of arrays, for statements that take any number of rows."""

from collections.abc import Iterable, Sequence
from typing import Any

from retryexec.journal._entry import Entry
from retryexec.journal._rows import errors_json
from retryexec.journal.postgres._arrays import Float8s, Int4s, Int8s, Texts, UUIDs


def columns_of(entries: Sequence[Entry], *, keyed: bool) -> dict[str, Any]:
    """Return the columns of new *entries*, with their keys if some of them are *keyed*."""
    found: dict[str, Any] = {
        "seqs": Int8s.of([entry.row for entry in entries]),  # type: ignore[misc]
        "ids": UUIDs.of([entry.id for entry in entries]),
        "kinds": Texts.of([entry.kind for entry in entries]),
        "vers": Int4s.of([entry.version for entry in entries]),
        "datas": Texts.of([entry.data for entry in entries]),
        "times": Float8s.of([entry.accepted_at for entry in entries]),
    }
    if keyed:
        keys = [entry.key for entry in entries]
        found["keys"] = Texts.of([None if key is None else key.text for key in keys])
        found["latest"] = Int4s.of([1 if key is not None and key.latest else None for key in keys])
    return found


def failures_of(entries: Iterable[Entry]) -> tuple[Any, ...]:
    """Return the columns of the failed attempts of *entries*."""
    known = [(entry.row, entry.failures) for entry in entries if entry.failures is not None]
    return (
        Int8s.of([row for row, _ in known]),  # type: ignore[misc]
        Int4s.of([failures.attempts for _, failures in known]),
        Float8s.of([failures.first_at for _, failures in known]),
        Float8s.of([failures.due_at for _, failures in known]),
        Float8s.of([failures.delay for _, failures in known]),
        Texts.of([errors_json(failures.errors) for _, failures in known]),
    )
