"""What looks into a journal from outside, and mends it: in a directory, or on a server."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from retryexec.journal import _backup, _check, _letters, _repair
from retryexec.journal._errors import JournalError
from retryexec.journal._inspect import Inspector
from retryexec.journal._open import is_url
from retryexec.journal._overview import DirectoryOverview

if TYPE_CHECKING:
    from retryexec.journal.postgres._inspect import PostgresInspector
    from retryexec.journal.postgres._overview import PostgresOverview

Overview: TypeAlias = "DirectoryOverview | PostgresOverview"
"""Looks at a journal: as a whole, page by page, and job by job."""


def inspector_of(where: "str | os.PathLike[str]", *, schema: str = "retryexec") -> Overview:
    """Return what reads the journal in *where*, a directory or a URL.

    Raises:
        JournalError: there is none, or it cannot be looked into.
    """
    if is_url(where):
        from retryexec.journal.postgres._overview import PostgresOverview

        try:
            return PostgresOverview(str(where), schema=schema)
        except ValueError as error:
            raise JournalError(str(error)) from error
    return DirectoryOverview(where)


def letters_of(
    inspector: Inspector, jobs: Mapping[str, type] | None = None
) -> _letters.DeadLetters:
    """Return the dead letters, to be edited as far as *jobs* knows them."""
    server = _on_server(inspector)
    if server is not None:
        return server.dead_letters(jobs)
    return _letters.letters_of(inspector.path, jobs or {})


def check(inspector: Inspector, *, full: bool) -> Iterator[_check.Finding]:
    """Yield what is wrong with the journal."""
    server = _on_server(inspector)
    return _check.check(inspector, full=full) if server is None else server.check()


def repair(inspector: Inspector) -> list[str]:
    """Set aside what is damaged, save what can be read, and say what."""
    return _repair.repair(inspector.path) if _on_server(inspector) is None else []


def discard_parked(inspector: Inspector, job_ids: Sequence[str]) -> int:
    """Remove those of *job_ids* that are parked records, for good; return how many were."""
    server = _on_server(inspector)
    if server is not None:
        return server.discard_parked(job_ids)
    return _repair.discard_parked(inspector.path, job_ids)


def backup(inspector: Inspector, to: "str | os.PathLike[str]") -> list[_backup.Copied]:
    """Copy the journal into the directory *to*."""
    if _on_server(inspector) is not None:
        msg = (
            f"{inspector.where} is backed up as the database that it is in: pg_dump --schema=NAME "
            "copies it while it is in use"
        )
        raise JournalError(msg)
    return _backup.backup(inspector, to)


def _on_server(inspector: Inspector) -> "PostgresInspector | None":
    if not inspector.on_server:
        return None
    from retryexec.journal.postgres._inspect import PostgresInspector

    assert isinstance(inspector, PostgresInspector)
    return inspector
