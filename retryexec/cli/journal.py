"""``retryexec journal``: which action it is, and those that look without changing anything."""

import json
import sqlite3
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from retryexec.cli import journal_edit
from retryexec.cli.options import UsageError
from retryexec.cli.output import (
    clean,
    counted,
    format_age,
    format_due,
    format_size,
    format_time,
    say,
    show,
    show_json,
    show_table,
)
from retryexec.cli.shell import short, with_short_paths
from retryexec.cli.target import load_function
from retryexec.journal import (
    DeadLetter,
    DirectoryStats,
    ErrorText,
    Inspector,
    JournalError,
    Owner,
    UnfinishedJob,
)
from retryexec.journal._keys import plain
from retryexec.journal._last_error import last_error
from retryexec.journal._look import inspector_of, letters_of
from retryexec.journal._redact import Redact, shown_fields

T = TypeVar("T")
Found: TypeAlias = UnfinishedJob | DeadLetter


def journal(arguments: Namespace) -> int:
    """Do what *arguments* ask for, and return the exit status.

    Raises:
        UsageError: it cannot be done, and nothing has changed.
    """
    actions: dict[str, Callable[[Inspector, Namespace], int]] = {
        "ls": _list_jobs,
        "show": _show_jobs,
        "dead": _list_letters,
        "stats": _show_stats,
        "rerun": journal_edit.rerun,
        "edit": journal_edit.edit,
        "discard": journal_edit.discard,
        "check": journal_edit.check,
        "backup": journal_edit.back_up,
    }
    try:
        inspector = inspector_of(arguments.directory, schema=arguments.schema)
        try:
            status = actions[arguments.action](inspector, arguments)
        finally:
            inspector.close()
    except (JournalError, ImportError) as error:
        raise UsageError(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        say(f"retryexec: {arguments.directory}: {error}")
        return 1
    if arguments.action == "check":  # which has told of them in its own way
        return status
    for reason in inspector.unreadable.values():
        say(f"retryexec: left out: {with_short_paths(reason)}")
    aside = any(".corrupt-" in name for name in inspector.names())
    if aside and arguments.action in {"ls", "stats", "dead"}:
        say("retryexec: damaged files have been set aside: `retryexec journal check` names them")
    return 1 if inspector.unreadable else status


# ---- ls and dead

_KEY = 2  # where the column of keys is, which is left out if none has one


def _list_jobs(inspector: Inspector, arguments: Namespace) -> int:
    jobs = inspector.jobs(arguments.kind, limit=_one_more(arguments.limit))
    columns = ("id", "kind", "key", "state", "attempts", "due", "age", "owner", "remarks")
    return _list(jobs, arguments, "unfinished jobs", _job_as_json, columns=columns, row=_job_row)


def _list_letters(inspector: Inspector, arguments: Namespace) -> int:
    limit, by = _one_more(arguments.limit), (arguments.error, arguments.before)
    if by == (None, None):
        letters: Iterable[DeadLetter] = inspector.letters(arguments.kind, limit=limit)
    else:
        store = letters_of(inspector)
        letters = store.list(arguments.kind, limit=limit, error=by[0], before=by[1])
    columns = ("id", "kind", "key", "died", "reason", "attempts", "last error")
    return _list(
        letters, arguments, "dead letters", _letter_as_json, columns=columns, row=_letter_row
    )


def _one_more(limit: int | None) -> int | None:
    """Return *limit* and one, which tells whether there are more."""
    return None if limit is None else limit + 1


def _list(
    found: Iterable[T],
    arguments: Namespace,
    noun: str,
    as_json: Callable[[T], dict[str, Any]],
    *,
    columns: Sequence[str],
    row: Callable[[T], Sequence[Any]],
) -> int:
    limit = arguments.limit
    if arguments.json:
        for job in islice(found, limit):
            show_json(as_json(job))
        return 0
    listed = list(found)
    if not listed:
        show(f"no {noun}" + ("" if arguments.kind is None else f" of kind {arguments.kind!r}"))
        return 0
    rows = [row(job) for job in listed[:limit]]
    if "key" in columns and all(cells[_KEY] == "-" for cells in rows):
        columns = [name for name in columns if name != "key"]
        rows = [[*cells[:_KEY], *cells[_KEY + 1 :]] for cells in rows]
    show_table(columns, rows)
    if limit is not None and len(listed) > limit:
        sys.stdout.flush()
        say(f"there are more than these {limit:,}: --limit none lists them all")
    return 0


def _job_row(job: UnfinishedJob) -> Sequence[Any]:
    remarks = last_error(job.errors) if job.parked is None else job.parked
    if job.crashes:
        crashes = _crashes(job.crashes)
        remarks = f"{crashes}; {remarks}" if remarks else crashes
    due = "-" if job.state in {"parked", "running"} else format_due(job.due_at)
    age = format_age(job.accepted_at)
    owner, key = _alive(job.owner), _key(job)
    return job.id, job.kind, key, job.state, job.attempts, due, age, owner, remarks


def _letter_row(letter: DeadLetter) -> Sequence[Any]:
    died, error = format_time(letter.died_at), last_error(letter.errors)
    reason = f"{letter.reason}; stale" if letter.stale else letter.reason
    return letter.id, letter.kind, _key(letter), died, reason, letter.attempts, error


def _key(job: Found) -> str:
    """Return the key of *job* as people read it: a text as it is, and all else as Python has it."""
    if job.key is None:
        return "-"
    return job.key if isinstance(job.key, str) else repr(job.key)


def _alive(owner: Owner) -> str:
    """Return whether *owner* lives: ``alive (pid 7)``, ``alive``, ``dead``."""
    if not owner.alive:
        return {"0": "nobody", "-1": "nobody"}.get(owner.name, "dead")
    return "alive" if owner.pid is None else f"alive (pid {owner.pid})"


def _crashes(count: int) -> str:
    return "1 crash" if count == 1 else f"{count} crashes"


# ---- stats


def _show_stats(inspector: Inspector, arguments: Namespace) -> int:
    stats = inspector.stats()
    if arguments.json:
        show_json(_stats_as_json(stats))
        return 0
    kinds = sum((file.jobs for file in stats.files), start=type(stats.dead)())
    oldest = f", the oldest accepted {format_age(stats.oldest_at)} ago" if stats.oldest_at else ""
    parked = f", {stats.parked:,} of them parked" if stats.parked else ""
    dead = counted(stats.dead.total(), "dead letter")
    jobs = counted(stats.unfinished, "unfinished job")
    show(f"{jobs}{parked}{oldest}; {dead}, {format_size(stats.dead_bytes)}")
    names = sorted({*kinds, *stats.dead})
    if names:
        rows = [(name, kinds[name], stats.dead[name]) for name in names]
        show_table(("kind", "unfinished", "dead"), rows)
    if stats.files:
        show_table(
            ("file", "owner", "jobs", "parked", "bytes", "log"),
            [
                (
                    file.owner.path.name,
                    _alive(file.owner),
                    file.jobs.total(),
                    file.parked,
                    format_size(file.bytes),
                    format_size(file.wal_bytes),
                )
                for file in stats.files
            ],
        )
    return 0


# ---- show


def _show_jobs(inspector: Inspector, arguments: Namespace) -> int:
    redact = load_function(arguments.redact) if arguments.redact else None
    found = [job for name in arguments.ids for job in _found(inspector, name)]
    for number, job in enumerate(found):
        if arguments.json:
            show_json(_all_as_json(job, redact))
        else:
            show("\n".join(["", *_described(job, redact)] if number else _described(job, redact)))
    return 0


def _found(inspector: Inspector, name: str) -> list[Found]:
    found = inspector.find(name)
    if not found:
        msg = (
            f"there is no job {name!r} in {short(inspector.where)}: it has ended well, was "
            "discarded, or never was; `ls` and `dead` list what there is"
        )
        raise UsageError(msg)
    if len(ids := {job.id for job in found}) > 1:
        raise journal_edit.ambiguous(name, ids)
    return found


def _described(job: Found, redact: Redact | None) -> Iterator[str]:
    yield f"{'id':<10}{job.id}"
    yield f"{'kind':<10}{clean(job.kind)}, version {job.version}"
    yield from [f"{'key':<10}{clean(_key(job))}"] if job.key is not None else ()
    if isinstance(job, DeadLetter):
        stale = "; stale: a later job of its key has succeeded since" if job.stale else ""
        yield f"{'state':<10}dead ({clean(job.reason)}){stale}"
        yield f"{'died':<10}{format_time(job.died_at)}, {format_age(job.died_at)} ago"
    else:
        parked = f" ({clean(job.parked)})" if job.parked is not None else ""
        yield f"{'state':<10}{job.state}{parked}"
        if job.state in {"queued", "waiting"}:
            yield f"{'due':<10}{format_due(job.due_at)}"
        yield f"{'owner':<10}{_alive(job.owner)}, {job.owner.path.name}"
    yield f"{'accepted':<10}{format_time(job.accepted_at)}, {format_age(job.accepted_at)} ago"
    lost = f", {_crashes(job.crashes)}" if job.crashes else ""
    yield f"{'attempts':<10}{job.attempts} failed{lost}"
    fields, withheld = shown_fields(job, redact)
    if withheld is not None:
        yield f"{'fields':<10}not shown: {withheld}"
    elif isinstance(fields, dict):
        yield "fields"
        for name, value in fields.items():
            yield f"  {clean(str(name))}: {_as_text(value)}"
    else:
        yield f"{'fields':<10}{_as_text(fields)}"
    if job.errors:
        yield "errors"
    for error in job.errors:
        name = f": {clean(error.type)}" if error.type else ""
        yield f"  attempt {error.attempt}, {format_time(error.at)}{name}"
        for line in error.text.splitlines():
            yield f"    {clean(line)}"


def _as_text(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False, default=str))


# ---- what --json says: keys that stay as they are, and times in seconds of the wall clock

_OF_BOTH = ("id", "kind", "version", "state", "attempts", "crashes", "accepted_at")


def _picked(job: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(job, name) for name in names}


def _job_as_json(job: UnfinishedJob) -> dict[str, Any]:
    owner = {"owner": job.owner.name, "owner_alive": job.owner.alive, "owner_pid": job.owner.pid}
    names = (*_OF_BOTH, "first_at", "due_at", "parked")
    last = {"key": plain(job.key), "last_error": _last_as_json(job)}
    return {**_picked(job, *names), **owner, **last}


def _letter_as_json(letter: DeadLetter) -> dict[str, Any]:
    before, after = _picked(letter, "id", "kind", "version"), ("reason", *_OF_BOTH[4:], "died_at")
    last = {"key": plain(letter.key), "stale": letter.stale, "last_error": _last_as_json(letter)}
    return {**before, "state": "dead", **_picked(letter, *after), **last}


def _last_as_json(job: Found) -> dict[str, Any] | None:
    return _error_as_json(job.errors[-1]) if job.errors else None


def _error_as_json(error: ErrorText) -> dict[str, Any]:
    return _picked(error, "attempt", "at", "type", "text")


def _all_as_json(job: Found, redact: Redact | None) -> dict[str, Any]:
    picked = _letter_as_json(job) if isinstance(job, DeadLetter) else _job_as_json(job)
    del picked["last_error"]
    fields, withheld = shown_fields(job, redact)
    errors = [_error_as_json(error) for error in job.errors]
    return {**picked, "fields": fields, "fields_withheld": withheld, "errors": errors}


def _stats_as_json(stats: DirectoryStats) -> dict[str, Any]:
    picked = _picked(stats, "unfinished", "parked", "oldest_at", "dead_bytes")
    files = [
        {
            "owner": file.owner.name,
            "owner_alive": file.owner.alive,
            "owner_pid": file.owner.pid,
            "unfinished": file.jobs.total(),
            "unfinished_by_kind": dict(file.jobs),
            **_picked(file, "parked", "oldest_at", "bytes", "wal_bytes"),
        }
        for file in stats.files
    ]
    dead = {"dead": stats.dead.total(), "dead_by_kind": dict(stats.dead)}
    return {**picked, **dead, "files": files}
