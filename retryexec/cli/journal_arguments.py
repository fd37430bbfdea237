"""The command line of ``retryexec journal``."""

from typing import Any

from retryexec.cli.options import Parser, count_or_none, past_time

_EXAMPLES = """\
examples:
  retryexec journal ls var/saves
  retryexec journal dead var/saves --kind user_activity
  retryexec journal show var/saves 01a2010d --redact myapp.jobs:redact
  retryexec journal edit var/saves 01a2010d user_email=ana@example.net --class jobs.py:Saver
  retryexec journal rerun var/saves --error ConnectionError --before 1h
  retryexec journal ls postgresql://app@db.example.net/app --limit 10
  retryexec journal check var/saves && retryexec journal backup var/saves /backup/saves

  All of them may be used beside processes that use the journal. With --json, lists are JSON
  Lines, and the rest is one document.

exit status:
  0 all is well, 1 something is wrong or could not be done, 2 misuse (nothing has changed)
"""

DESCRIBED: dict[str, Any] = {
    "help": "look into a journal, and see to its dead letters",
    "description": "Look into the journal in WHERE, and see to its dead letters.",
    "epilog": _EXAMPLES,
}
"""How the command is described in its help."""


def add_actions(journal: Parser) -> dict[str, Parser]:
    """Add the actions of ``retryexec journal``; return their parsers by command."""
    actions = journal.add_subparsers(dest="action", metavar="ACTION", required=True)
    parsers: dict[str, Parser] = {}

    def action(name: str, words: str) -> Parser:
        made = actions.add_parser(name, help=words, description=f"{words[:1].upper()}{words[1:]}.")
        add_where(made)
        made.add_argument("--json", action="store_true", help="print JSON, for programs")
        parsers[f"journal {name}"] = made
        return made

    ls = action("ls", "list the unfinished jobs, the longest accepted first")
    _add_filter(ls)
    show = action("show", "show all that is known of some jobs or dead letters")
    show.add_argument("ids", metavar="ID", nargs="+", help="what `ls` and `dead` call it")
    show.add_argument(
        "--redact",
        metavar="MODULE:FUNCTION",
        help="module:function or file.py:function, called with a kind and its fields: returns "
        "the fields to be shown",
    )
    dead = action("dead", "list the dead letters, the latest first")
    _add_filter(dead)
    _add_letter_filter(dead)
    for name, words in (
        ("rerun", "give dead letters all their attempts again"),
        ("discard", "remove dead letters for good"),
    ):
        choice = action(name, words)
        choice.add_argument(
            "ids", metavar="ID", nargs="*", help="what `dead` calls it, or the first digits of that"
        )
        choice.add_argument("--all", action="store_true", help="all of them")
        choice.add_argument("--kind", metavar="KIND", help="all of this kind")
        _add_letter_filter(choice)
        choice.add_argument("--yes", "-y", action="store_true", help="do not ask")
        if name == "rerun":
            choice.add_argument(
                "--force",
                action="store_true",
                help="rerun even stale ones: those of which a later job of the same key has "
                "succeeded since, so that they would put back what that one has replaced",
            )
    edit = action("edit", "change fields of a dead letter, for it to be rerun")
    edit.add_argument("id", metavar="ID", help="what `dead` calls it, or the first digits of that")
    edit.add_argument(
        "changes",
        metavar="FIELD=VALUE",
        nargs="+",
        help="a value in JSON, or the text itself where the field is a text",
    )
    edit.add_argument(
        "--class",
        dest="target",
        metavar="TARGET",
        required=True,
        help="file.py:Class or package.module:Class of the job, to check the fields by",
    )
    check = action("check", "see whether files, permissions and contents are sound")
    check.add_argument(
        "--full", action="store_true", help="compare indexes with their tables too; takes longer"
    )
    check.add_argument(
        "--repair",
        action="store_true",
        help="first set aside what is damaged, and save what can be read, as opening it does",
    )
    backup = action("backup", "copy the journal, as it is now, into a new directory")
    backup.add_argument("to", metavar="TO", help="a directory that is empty, or not there yet")
    action("stats", "count jobs, dead letters, files and bytes")
    return parsers


def add_where(parser: Parser) -> None:
    """Add what says which journal is meant."""
    parser.add_argument(
        "directory", metavar="WHERE", help="the directory, or the URL, of a Journal(...)"
    )
    parser.add_argument(
        "--schema",
        metavar="NAME",
        default="retryexec",
        help="of a journal on PostgreSQL (default: retryexec)",
    )


def _add_filter(action: Parser) -> None:
    action.add_argument("--kind", metavar="KIND", help="only those of this kind")
    action.add_argument(
        "--limit",
        type=count_or_none,
        default=100,
        metavar="N",
        help="at most so many; none for all of them (default: 100)",
    )


def _add_letter_filter(action: Parser) -> None:
    action.add_argument(
        "--error", metavar="TEXT", help="only those whose last error is of this type or says TEXT"
    )
    action.add_argument(
        "--before",
        type=past_time,
        metavar="TIME",
        help="only those that died before: 2026-11-22, or how long ago, as 7d",
    )
