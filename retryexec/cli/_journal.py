"""``retryexec journal``: which action it is, and what becomes of errors."""

import sqlite3
import sys
from argparse import Namespace

from retryexec.cli._journal_care import back_up, check
from retryexec.cli._journal_letters import discard, rerun
from retryexec.cli._journal_list import list_jobs, list_letters, tell_stats
from retryexec.cli._journal_show import show_jobs
from retryexec.cli._misuse import Misuse
from retryexec.journal import Inspector, JournalError

_ACTIONS = {
    "ls": list_jobs,
    "show": show_jobs,
    "dead": list_letters,
    "rerun": rerun,
    "discard": discard,
    "check": check,
    "backup": back_up,
    "stats": tell_stats,
}


def journal(arguments: Namespace) -> int:
    """Do what *arguments* ask for, and return the exit status.

    Raises:
        Misuse: it cannot be done, and nothing has changed.
    """
    try:
        inspector = Inspector(arguments.directory)
        status = _ACTIONS[arguments.action](inspector, arguments)
    except JournalError as error:
        raise Misuse(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        sys.stderr.write(f"retryexec: {arguments.directory}: {error}\n")
        return 1
    if arguments.action == "check":  # which has told of them in its own way
        return status
    for reason in inspector.unreadable.values():
        sys.stderr.write(f"retryexec: left out: {reason}\n")
    return 1 if inspector.unreadable else status
