"""The command line of ``retryexec journal``."""

import argparse
from typing import Any

from retryexec.cli._parse import count_or_none

_DIR = "the directory that Journal(...) or --journal was given"

_EXAMPLES = """\
examples:
  retryexec journal ls var/saves
  retryexec journal dead var/saves --kind user_activity
  retryexec journal show var/saves 01a2010d10d07b3c8e30276e9869d9c0 --redact myapp.jobs:redact
  retryexec journal rerun var/saves --all --kind user_activity
  retryexec journal check var/saves && retryexec journal backup var/saves /backup/saves

  All of them may be used beside processes that use the journal. With --json, lists are JSON
  Lines, and the rest is one document.

exit status:
  0 all is well, 1 something was found to be wrong or could not be done, 2 misuse (nothing has
  changed).
"""


def add_journal(commands: Any) -> None:
    """Add ``journal`` and its actions to *commands*."""
    journal = commands.add_parser(
        "journal",
        help="look into a journal, and see to its dead letters",
        description="Look into the journal in DIR, and see to its dead letters.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = journal.add_subparsers(dest="action", metavar="ACTION", required=True)

    ls = _action(actions, "ls", "list the unfinished jobs, the longest accepted first")
    _add_filter(ls)
    show = _action(actions, "show", "show all that is known of some jobs or dead letters")
    show.add_argument("ids", metavar="ID", nargs="+", help="what `ls` and `dead` call it")
    show.add_argument(
        "--redact",
        metavar="MODULE:FUNCTION",
        help="module:function or file.py:function, called with a kind and its fields: returns "
        "the fields to be shown",
    )
    dead = _action(actions, "dead", "list the dead letters, the latest first")
    _add_filter(dead)
    rerun = _action(actions, "rerun", "give dead letters all their attempts again")
    _add_choice(rerun)
    discard = _action(actions, "discard", "remove dead letters for good")
    _add_choice(discard)
    discard.add_argument("--yes", "-y", action="store_true", help="do not ask")
    check = _action(actions, "check", "see whether files, permissions and contents are sound")
    check.add_argument(
        "--full", action="store_true", help="compare indexes with their tables too; takes longer"
    )
    backup = _action(actions, "backup", "copy the journal, as it is now, into a new directory")
    backup.add_argument("to", metavar="TO", help="a directory that is empty, or not there yet")
    _action(actions, "stats", "count jobs, dead letters, files and bytes")


def _action(actions: Any, name: str, words: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(
        name, help=words, description=f"{words[:1].upper()}{words[1:]}.", allow_abbrev=False
    )
    action.add_argument("directory", metavar="DIR", help=_DIR)
    action.add_argument("--json", action="store_true", help="print JSON, for programs")
    return action


def _add_filter(action: argparse.ArgumentParser) -> None:
    action.add_argument("--kind", metavar="KIND", help="only those of this kind")
    action.add_argument(
        "--limit",
        type=count_or_none,
        default=100,
        metavar="N",
        help="at most so many; none for all of them (default: 100)",
    )


def _add_choice(action: argparse.ArgumentParser) -> None:
    action.add_argument("ids", metavar="ID", nargs="*", help="what `dead` calls it")
    action.add_argument("--all", action="store_true", help="all of them, instead of some by ID")
    action.add_argument("--kind", metavar="KIND", help="with --all: only those of this kind")
