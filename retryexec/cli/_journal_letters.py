"""``retryexec journal rerun`` and ``discard``: what becomes of dead letters."""

import sys
from argparse import Namespace

from retryexec.cli._misuse import Misuse
from retryexec.cli._output import show
from retryexec.cli._table import show_json
from retryexec.journal import DeadLetter, DeadLetters, Inspector
from retryexec.journal._letters import dead_letters


def rerun(inspector: Inspector, arguments: Namespace) -> int:
    """Give letters all their attempts again; return 0, or 1 if some were gone meanwhile.

    Raises:
        Misuse: there is no such letter.
    """
    ids = _chosen(inspector, arguments)
    letters = _letters(inspector)
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
        show(f"{_count(done)} to be run again" + (f": {who}" if done else ""))
    return _status(done, ids)


def discard(inspector: Inspector, arguments: Namespace) -> int:
    """Remove letters for good; return 0, or 1 if some were gone meanwhile, or were kept.

    Raises:
        Misuse: there is no such letter, or nobody to ask whether it is meant.
    """
    ids = _chosen(inspector, arguments)
    what = (
        _count(len(ids))
        if ids is not None
        else f"all {_count(_held(inspector, arguments.kind))}"
        + (f" of kind {arguments.kind!r}" if arguments.kind else "")
    )
    if not arguments.yes and not _is_sure(what):
        sys.stderr.write("nothing was discarded\n")
        return 1
    letters = _letters(inspector)
    done = letters.discard_all(arguments.kind) if ids is None else letters.discard_some(ids)
    if arguments.json:
        show_json({"discarded": done})
    else:
        show(f"{_count(done)} discarded")
    return _status(done, ids)


def _chosen(inspector: Inspector, arguments: Namespace) -> list[str] | None:
    """Return the ids that were asked for, all of them letters; None for all there are."""
    if arguments.all and arguments.ids:
        msg = "IDs and --all exclude each other: name some letters, or take all"
        raise Misuse(msg)
    if arguments.all:
        return None
    if not arguments.ids:
        msg = "which ones? name IDs, as `dead` lists them, or say --all"
        raise Misuse(msg)
    if arguments.kind is not None:
        msg = "--kind goes with --all: an ID says already which one is meant"
        raise Misuse(msg)
    return list(dict.fromkeys(_letter_id(inspector, name) for name in arguments.ids))


def _letter_id(inspector: Inspector, name: str) -> str:
    found = inspector.find(name)
    for job in found:
        if isinstance(job, DeadLetter):
            return job.id
    if found:
        msg = f"{name!r} is no dead letter: it has not ended yet; nothing was changed"
        raise Misuse(msg)
    for reason in inspector.unreadable.values():
        raise Misuse(reason)
    msg = f"there is no dead letter {name!r} in {inspector.path}; nothing was changed"
    raise Misuse(msg)


def _letters(inspector: Inspector) -> DeadLetters:
    return dead_letters(inspector.path)


def _held(inspector: Inspector, kind: str | None) -> int:
    dead = inspector.stats().dead
    return dead.total() if kind is None else dead[kind]


def _is_sure(what: str) -> bool:
    if not sys.stdin.isatty():
        msg = f"{what} would be gone for good, and there is no terminal to ask: say --yes"
        raise Misuse(msg)
    sys.stderr.write(f"discard {what} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _count(number: int) -> str:
    return "1 dead letter" if number == 1 else f"{number:,} dead letters"


def _status(done: int, ids: list[str] | None) -> int:
    if ids is None or done == len(ids):
        return 0
    sys.stderr.write(f"{len(ids) - done:,} of them had gone by then\n")
    return 1
