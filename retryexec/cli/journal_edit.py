"""``retryexec journal``: ``rerun``, ``edit``, ``discard``, ``check`` and ``backup``."""

import json
import sys
import typing
from argparse import Namespace
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from retryexec.cli.options import UsageError
from retryexec.cli.output import (
    clean,
    counted,
    format_size,
    format_time,
    say,
    show,
    show_json,
)
from retryexec.cli.shell import short, with_short_paths
from retryexec.cli.target import load
from retryexec.journal import DeadLetter, Inspector, JobRefused
from retryexec.journal._look import (
    backup,
    discard_parked,
    letters_of,
    repair,
)
from retryexec.journal._look import check as findings_of


def rerun(inspector: Inspector, arguments: Namespace) -> int:
    """Give letters all their attempts again; return 0, or 1 if some were gone or were kept.

    Raises:
        UsageError: there is no such letter.
    """
    chosen = _chosen(inspector, arguments)
    if not _is_sure("rerun", chosen, yes=arguments.yes):
        return 1
    letters, force = letters_of(inspector), arguments.force
    if chosen.ids is None:
        stale = 0 if force else sum(letter.stale for letter in letters.list(**chosen.by))
        done = letters.rerun_all(**chosen.by, force=force)
    else:
        stale, done = 0, letters.rerun_some(chosen.ids, force=force)
    if stale:
        say(
            f"{_letters(stale)} stale, and left: a later job of the same key has succeeded since. "
            "--force reruns these, too"
        )
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
    return _status(done, chosen.ids)


def discard(inspector: Inspector, arguments: Namespace) -> int:
    """Remove letters for good; return 0, or 1 if some were gone meanwhile, or were kept.

    Parked records, too, if all IDs are those of such.

    Raises:
        UsageError: there is no such letter, or nobody to ask whether it is meant.
    """
    if parked := _parked(inspector, arguments.ids):
        return _discard_parked(inspector, parked, arguments)
    chosen = _chosen(inspector, arguments)
    if not _is_sure("discard", chosen, yes=arguments.yes):
        return 1
    letters = letters_of(inspector)
    by, ids = chosen.by, chosen.ids
    done = letters.discard_all(**by) if ids is None else letters.discard_some(ids)
    if arguments.json:
        show_json({"discarded": done})
    else:
        show(f"{_letters(done)} discarded")
    return _status(done, ids)


def edit(inspector: Inspector, arguments: Namespace) -> int:
    """Change fields of a letter; return 0.

    Raises:
        UsageError: there is no such letter, or it would not make a job any more.
    """
    letter = _letter(inspector, arguments.id)
    cls = load(arguments.target)
    hints = typing.get_type_hints(cls)
    changes = {}
    for change in arguments.changes:
        name, equals, text = change.partition("=")
        if not equals or not name:
            msg = f"{change!r} is not a change: expected FIELD=VALUE"
            raise UsageError(msg)
        changes[name] = _value(text, hints.get(name, Any))
    try:
        mended = letters_of(inspector, {letter.kind: cls}).edit(letter.id, **changes)
    except (LookupError, JobRefused) as error:
        msg = f"{letter.id} cannot be changed so: {error}; nothing was changed"
        raise UsageError(msg) from error
    if arguments.json:
        show_json({"id": mended.id, "fields": mended.fields})
    else:
        show(f"{mended.id} is changed; `rerun` gives it all its attempts again")
    return 0


def _value(text: str, hint: Any) -> Any:
    """Return *text* as JSON; as it is, if it is not JSON, or if that is what the field takes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for candidate in (value, text):
        with suppress(Exception):
            msgspec.convert(candidate, hint)
            return candidate
    return value


def _parked(inspector: Inspector, names: list[str]) -> list[str]:
    """Return the ids that *names* stand for, if all of them are those of parked records."""
    ids = []
    for name in names:
        # An id that is damaged is found by what is shown of it.
        found = inspector.find(name) or [j for j in inspector.jobs() if clean(j.id) == name][:1]
        if len(found) != 1 or isinstance(found[0], DeadLetter) or found[0].state != "parked":
            return []
        ids.append(found[0].id)
    return ids


def _discard_parked(inspector: Inspector, ids: list[str], arguments: Namespace) -> int:
    chosen = _Chosen(ids, {}, counted(len(ids), "parked record"))
    if not _is_sure("discard", chosen, yes=arguments.yes):
        return 1
    done = discard_parked(inspector, ids)
    if arguments.json:
        show_json({"discarded": done})
    else:
        show(f"{counted(done, 'parked record')} discarded")
    if done < len(ids):
        say(f"{len(ids) - done:,} of them are in files of living processes: end those first")
    return int(done < len(ids))


class _Chosen(NamedTuple):
    """Letters to be rerun or discarded: by their ids, or if *ids* is None by what they are like."""

    ids: list[str] | None
    by: dict[str, Any]
    what: str


def _chosen(inspector: Inspector, arguments: Namespace) -> _Chosen:
    by = {"kind": arguments.kind, "error": arguments.error, "before": arguments.before}
    filtered = any(value is not None for value in by.values())
    if arguments.ids:
        if arguments.all or filtered:
            msg = "IDs exclude --all, --kind, --error and --before: name some, or choose by these"
            raise UsageError(msg)
        ids = list(dict.fromkeys(_letter(inspector, name).id for name in arguments.ids))
        return _Chosen(ids, {}, _letters(len(ids)))
    if not arguments.all and not filtered:
        msg = (
            "which ones? name IDs, as `dead` lists them, or say --kind, --error, --before or --all"
        )
        raise UsageError(msg)
    some = arguments.error is not None or arguments.before is not None
    what = ("" if some else "all ") + _letters(letters_of(inspector).count(**by))
    if arguments.kind is not None:
        what += f" of kind {arguments.kind!r}"
    if arguments.error is not None:
        what += f" with error {arguments.error!r}"
    if arguments.before is not None:
        what += f" from before {format_time(arguments.before)}"
    return _Chosen(None, by, what)


def _letter(inspector: Inspector, name: str) -> DeadLetter:
    """Return the letter that *name* is the id of, or the beginning of its id."""
    found = inspector.find(name)
    letters = {job.id: job for job in found if isinstance(job, DeadLetter)}
    if len(letters) > 1:
        raise ambiguous(name, letters)
    for letter in letters.values():
        return letter
    if found:
        msg = f"{name!r} is not a dead letter: it has not ended yet; nothing was changed"
        raise UsageError(msg)
    for reason in inspector.unreadable.values():
        raise UsageError(with_short_paths(reason))
    msg = f"there is no dead letter {name!r} in {short(inspector.where)}; nothing was changed"
    raise UsageError(msg)


def ambiguous(name: str, ids: Collection[str]) -> UsageError:
    """Return the error for the beginning of several ids."""
    shown = ", ".join(sorted(ids)[:3]) + (", …" if len(ids) > 3 else "")
    return UsageError(f"{name!r} is the beginning of {len(ids)} ids ({shown}): give more of it")


def _is_sure(action: str, chosen: _Chosen, *, yes: bool) -> bool:
    """Tell what was chosen, and ask on a terminal whether it is meant."""
    final = " for good" if action == "discard" else ""
    if yes or not sys.stdin.isatty():
        if final and not yes:
            msg = (
                f"{chosen.what} would be gone for good, and there is no terminal to ask: say --yes"
            )
            raise UsageError(msg)
        if chosen.ids is None:
            say(f"{action}: {chosen.what}")
        return True
    sys.stderr.write(f"{action} {chosen.what}{final}? [y/N] ")
    sys.stderr.flush()
    sure = sys.stdin.readline().strip().lower() in {"y", "yes"}
    if not sure:
        say("nothing was changed")
    return sure


def _letters(number: int) -> str:
    return counted(number, "dead letter")


def _status(done: int, ids: list[str] | None) -> int:
    if ids is None or done == len(ids):
        return 0
    say(f"{len(ids) - done:,} of them had gone by then")
    return 1


def check(inspector: Inspector, arguments: Namespace) -> int:
    """Tell what is wrong with the files; return 1 if anything is."""
    repaired = repair(inspector) if arguments.repair else []
    findings = list(findings_of(inspector, full=arguments.full))
    if arguments.json:
        found = [
            {"about": finding.about, "path": str(finding.path), "text": finding.text}
            for finding in findings
        ]
        more = {"repaired": repaired} if arguments.repair else {}
        show_json({"ok": not findings, "findings": found, **more})
        return 1 if findings else 0
    for done in repaired:
        show(clean(with_short_paths(f"repaired: {done}")))
    for finding in findings:
        show(clean(with_short_paths(f"{finding.about}: {finding.path}: {finding.text}")))
    if not findings:
        files = "" if inspector.on_server else f"{counted(len(inspector.names()), 'file')}, "
        show(f"{files}all is well")
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
