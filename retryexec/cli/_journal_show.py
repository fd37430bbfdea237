"""``retryexec journal show``: all that is known of a job, or of what it has become."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from retryexec.cli._journal_json import error_as_json, job_as_json, letter_as_json
from retryexec.cli._journal_list import crashes, in_words
from retryexec.cli._misuse import Misuse
from retryexec.cli._output import show
from retryexec.cli._table import age, clean, due, moment, show_json
from retryexec.cli._target import load_function
from retryexec.journal import DeadLetter, ErrorText, Inspector, UnfinishedJob

Found = UnfinishedJob | DeadLetter
Redact = Callable[[str, dict[str, Any]], Mapping[str, Any]]


def show_jobs(inspector: Inspector, arguments: Namespace) -> int:
    """Show some jobs; return 0.

    Raises:
        Misuse: there is no such job, or no such redactor.
    """
    redact = load_function(arguments.redact) if arguments.redact else None
    found = [job for name in arguments.ids for job in found_as(inspector, name)]
    for number, job in enumerate(found):
        if arguments.json:
            show_json(_as_json(job, redact))
        else:
            show("\n".join(["", *_told(job, redact)] if number else _told(job, redact)))
    return 0


def found_as(inspector: Inspector, name: str) -> list[Found]:
    """Return what *name* is the id of; raise Misuse if it is of nothing."""
    found = inspector.find(name)
    if not found:
        msg = (
            f"there is no job {name!r} in {inspector.path}: it has ended well, was discarded, or "
            "never was; `ls` and `dead` list what there is"
        )
        raise Misuse(msg)
    return found


def _as_json(job: Found, redact: Redact | None) -> dict[str, Any]:
    told = letter_as_json(job) if isinstance(job, DeadLetter) else job_as_json(job)
    del told["last_error"]
    fields, withheld = redacted(job, redact)
    return {
        **told,
        "fields": fields,
        "fields_withheld": withheld,
        "errors": [error_as_json(error) for error in job.errors],
    }


def redacted(job: Found, redact: Redact | None) -> tuple[Any, str | None]:
    """Return the fields of *job* as people may see them, and why they may not if they may not."""
    if redact is None:
        return job.fields, None
    if not isinstance(job.fields, dict):
        return None, "they have no names that a redactor could tell them by"
    try:
        shown = dict(redact(job.kind, dict(job.fields)))
        json.dumps(shown, default=str)
    except Exception as error:
        return None, f"the redactor failed: {type(error).__name__}"
    return shown, None


def _told(job: Found, redact: Redact | None) -> Iterator[str]:
    yield f"{'id':<10}{job.id}"
    yield f"{'kind':<10}{clean(job.kind)}, version {job.version}"
    if isinstance(job, DeadLetter):
        yield f"{'state':<10}dead ({clean(job.reason)})"
        yield f"{'died':<10}{moment(job.died_at)}, {age(job.died_at)} ago"
    else:
        parked = f" ({clean(job.parked)})" if job.parked is not None else ""
        yield f"{'state':<10}{job.state}{parked}"
        if job.state in {"queued", "waiting"}:
            yield f"{'due':<10}{due(job.due_at)}"
        yield f"{'owner':<10}{in_words(job.owner)}, {job.owner.path.name}"
    yield f"{'accepted':<10}{moment(job.accepted_at)}, {age(job.accepted_at)} ago"
    lost = f", {crashes(job.crashes)}" if job.crashes else ""
    yield f"{'attempts':<10}{job.attempts} failed{lost}"
    yield from _fields(*redacted(job, redact))
    if job.errors:
        yield "errors"
        for error in job.errors:
            yield from _error(error)


def _fields(fields: Any, withheld: str | None) -> Iterator[str]:
    if withheld is not None:
        yield f"{'fields':<10}not shown: {withheld}"
    elif isinstance(fields, dict):
        yield "fields"
        for name, value in fields.items():
            yield f"  {clean(str(name))}: {_value(value)}"
    else:
        yield f"{'fields':<10}{_value(fields)}"


def _value(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False, default=str))


def _error(error: ErrorText) -> Iterator[str]:
    name = f": {clean(error.type)}" if error.type else ""
    yield f"  attempt {error.attempt}, {moment(error.at)}{name}"
    for line in error.text.splitlines():
        yield f"    {clean(line)}"
