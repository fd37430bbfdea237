"""``retryexec journal ls``, ``dead`` and ``stats``: many jobs in a table."""

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from retryexec.cli._journal_json import job_as_json, letter_as_json, stats_as_json
from retryexec.cli._output import show
from retryexec.cli._table import age, due, moment, show_json, show_table, size
from retryexec.journal import DeadLetter, ErrorText, Inspector, Owner, UnfinishedJob

T = TypeVar("T")


def list_jobs(inspector: Inspector, arguments: Namespace) -> int:
    """List the unfinished jobs; return 0."""
    jobs = inspector.jobs(arguments.kind, limit=_one_more(arguments.limit))
    if arguments.json:
        for job in islice(jobs, arguments.limit):
            show_json(job_as_json(job))
        return 0
    listed, more = _listed(jobs, arguments.limit)
    if not listed:
        show(f"no unfinished jobs{_of_kind(arguments.kind)}")
        return 0
    columns = ("id", "kind", "state", "attempts", "due", "age", "owner", "remarks")
    show_table(columns, [_job_row(job) for job in listed])
    _tell_more(arguments.limit, more)
    return 0


def _job_row(job: UnfinishedJob) -> Sequence[Any]:
    remarks = last_error(job.errors) if job.parked is None else job.parked
    if job.crashes:
        remarks = f"{crashes(job.crashes)}; {remarks}" if remarks else crashes(job.crashes)
    when = "-" if job.state in {"parked", "running"} else due(job.due_at)
    return (
        job.id,
        job.kind,
        job.state,
        job.attempts,
        when,
        age(job.accepted_at),
        in_words(job.owner),
        remarks,
    )


def list_letters(inspector: Inspector, arguments: Namespace) -> int:
    """List the dead letters; return 0."""
    letters = inspector.letters(arguments.kind, limit=_one_more(arguments.limit))
    if arguments.json:
        for letter in islice(letters, arguments.limit):
            show_json(letter_as_json(letter))
        return 0
    listed, more = _listed(letters, arguments.limit)
    if not listed:
        show(f"no dead letters{_of_kind(arguments.kind)}")
        return 0
    columns = ("id", "kind", "died", "reason", "attempts", "last error")
    show_table(columns, [_letter_row(letter) for letter in listed])
    _tell_more(arguments.limit, more)
    return 0


def _letter_row(letter: DeadLetter) -> Sequence[Any]:
    error = last_error(letter.errors)
    return letter.id, letter.kind, moment(letter.died_at), letter.reason, letter.attempts, error


def tell_stats(inspector: Inspector, arguments: Namespace) -> int:
    """Tell counts and sizes; return 0."""
    stats = inspector.stats()
    if arguments.json:
        show_json(stats_as_json(stats))
        return 0
    kinds = sum((file.jobs for file in stats.files), start=type(stats.dead)())
    oldest = f", the oldest accepted {age(stats.oldest_at)} ago" if stats.oldest_at else ""
    parked = f", {stats.parked:,} of them parked" if stats.parked else ""
    jobs = "1 unfinished job" if stats.unfinished == 1 else f"{stats.unfinished:,} unfinished jobs"
    letters = stats.dead.total()
    dead = "1 dead letter" if letters == 1 else f"{letters:,} dead letters"
    show(f"{jobs}{parked}{oldest}; {dead}, {size(stats.dead_bytes)}")
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
                    in_words(file.owner),
                    file.jobs.total(),
                    file.parked,
                    size(file.bytes),
                    size(file.wal_bytes),
                )
                for file in stats.files
            ],
        )
    return 0


def in_words(owner: Owner) -> str:
    """Return whether *owner* lives: ``alive (pid 7)``, ``alive``, ``dead``."""
    if not owner.alive:
        return "dead"
    return "alive" if owner.pid is None else f"alive (pid {owner.pid})"


def crashes(count: int) -> str:
    """Return ``1 crash``, ``2 crashes``."""
    return "1 crash" if count == 1 else f"{count} crashes"


def last_error(errors: Sequence[ErrorText]) -> str:
    """Return the latest failure on one line; a traceback ends with what matters."""
    if not errors or not errors[-1].type:
        return ""
    text = errors[-1].text.strip()
    if text.startswith("Traceback "):
        text = _end_of(text, errors[-1].type)
    else:
        text = f"{errors[-1].type}: {text}" if text else errors[-1].type
    return " ".join(text.split())


def _end_of(traceback: str, name: str) -> str:
    """Return the line of *traceback* that tells the exception, and what follows of its text."""
    lines = traceback.splitlines()
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].partition(":")[0].rpartition(".")[2] == name.rpartition(".")[2]:
            return lines[place]
    return lines[-1]


def _one_more(limit: int | None) -> int | None:
    return None if limit is None else limit + 1


def _listed(found: Iterable[T], limit: int | None) -> tuple[list[T], bool]:
    listed = list(found)
    return listed[:limit], limit is not None and len(listed) > limit


def _tell_more(limit: int | None, more: bool) -> None:
    if more:
        sys.stdout.flush()
        sys.stderr.write(f"there are more than these {limit:,}: --limit none lists them all\n")


def _of_kind(kind: str | None) -> str:
    return "" if kind is None else f" of kind {kind!r}"
