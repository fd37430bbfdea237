"""``retryexec journal``: ``rerun`` and ``discard`` dead letters, ``check`` files, ``backup``."""

import sys
from argparse import Namespace

from retryexec.cli.options import UsageError
from retryexec.cli.output import clean, counted, format_size, say, show, show_json
from retryexec.journal import DeadLetter, Inspector
from retryexec.journal._backup import backup
from retryexec.journal._check import check as findings_of
from retryexec.journal._letters import dead_letters


def rerun(inspector: Inspector, arguments: Namespace) -> int:
    """Give letters all their attempts again; return 0, or 1 if some were gone meanwhile.

    Raises:
        UsageError: there is no such letter.
    """
    ids = _chosen(inspector, arguments)
    letters = dead_letters(inspector.path)
    done = letters.rerun_all(arguments.kind) if ids is None else letters.rerun_some(ids)
    if arguments.json:
        show_json({"rerun": done})
    else:
        owners = any(owner.alive for owner in inspector.owners())
        who = (
            "a process that has the journal open takes them up within seconds"
            if owners
            else "the next process to open the journal runs them"
        )
        show(f"{_letters(done)} to be run again" + (f": {who}" if done else ""))
    return _status(done, ids)


def discard(inspector: Inspector, arguments: Namespace) -> int:
    """Remove letters for good; return 0, or 1 if some were gone meanwhile, or were kept.

    Raises:
        UsageError: there is no such letter, or nobody to ask whether it is meant.
    """
    ids = _chosen(inspector, arguments)
    what = (
        _letters(len(ids))
        if ids is not None
        else f"all {_letters(_held(inspector, arguments.kind))}"
        + (f" of kind {arguments.kind!r}" if arguments.kind else "")
    )
    if not arguments.yes and not _is_sure(what):
        say("nothing was discarded")
        return 1
    letters = dead_letters(inspector.path)
    done = letters.discard_all(arguments.kind) if ids is None else letters.discard_some(ids)
    if arguments.json:
        show_json({"discarded": done})
    else:
        show(f"{_letters(done)} discarded")
    return _status(done, ids)


def _chosen(inspector: Inspector, arguments: Namespace) -> list[str] | None:
    """Return the ids that were asked for, all of them letters; None for all there are."""
    if arguments.all and arguments.ids:
        msg = "IDs and --all exclude each other: name some letters, or take all"
        raise UsageError(msg)
    if arguments.all:
        return None
    if not arguments.ids:
        msg = "which ones? name IDs, as `dead` lists them, or say --all"
        raise UsageError(msg)
    if arguments.kind is not None:
        msg = "--kind goes with --all: an ID says already which one is meant"
        raise UsageError(msg)
    return list(dict.fromkeys(_letter_id(inspector, name) for name in arguments.ids))


def _letter_id(inspector: Inspector, name: str) -> str:
    found = inspector.find(name)
    for job in found:
        if isinstance(job, DeadLetter):
            return job.id
    if found:
        msg = f"{name!r} is not a dead letter: it has not ended yet; nothing was changed"
        raise UsageError(msg)
    for reason in inspector.unreadable.values():
        raise UsageError(reason)
    msg = f"there is no dead letter {name!r} in {inspector.path}; nothing was changed"
    raise UsageError(msg)


def _held(inspector: Inspector, kind: str | None) -> int:
    dead = inspector.stats().dead
    return dead.total() if kind is None else dead[kind]


def _is_sure(what: str) -> bool:
    if not sys.stdin.isatty():
        msg = f"{what} would be gone for good, and there is no terminal to ask: say --yes"
        raise UsageError(msg)
    sys.stderr.write(f"discard {what} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _letters(number: int) -> str:
    return counted(number, "dead letter")


def _status(done: int, ids: list[str] | None) -> int:
    if ids is None or done == len(ids):
        return 0
    say(f"{len(ids) - done:,} of them had gone by then")
    return 1


def check(inspector: Inspector, arguments: Namespace) -> int:
    """Tell what is wrong with the files; return 1 if anything is."""
    findings = list(findings_of(inspector, full=arguments.full))
    if arguments.json:
        found = [
            {"about": finding.about, "path": str(finding.path), "text": finding.text}
            for finding in findings
        ]
        show_json({"ok": not findings, "findings": found})
        return 1 if findings else 0
    for finding in findings:
        show(clean(f"{finding.about}: {finding.path}: {finding.text}"))
    if not findings:
        show(f"{counted(len(inspector.names()), 'file')}, all is well")
    return 1 if findings else 0


def back_up(inspector: Inspector, arguments: Namespace) -> int:
    """Copy the journal; return 0."""
    copied = backup(inspector, arguments.to)
    total = sum(copy.bytes for copy in copied)
    jobs = sum(copy.records for copy in copied if copy.path.name != "dead.db")
    letters = sum(copy.records for copy in copied) - jobs
    if arguments.json:
        files = [
            {"name": copy.path.name, "records": copy.records, "bytes": copy.bytes}
            for copy in copied
        ]
        to = {"to": str(arguments.to), "unfinished": jobs, "dead": letters}
        show_json({**to, "bytes": total, "files": files})
    else:
        show(
            f"{jobs:,} unfinished jobs and {letters:,} dead letters, {format_size(total)}, are in "
            f"{clean(str(arguments.to))}"
        )
    return 0
