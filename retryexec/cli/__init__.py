"""The command ``retryexec``: the library's main job from a shell.

``retryexec run`` makes a job of every record in a file, ``retryexec plan`` shows a backoff, and
``retryexec journal`` looks into what survives a crash.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from retryexec.cli._arguments import parser
from retryexec.cli._misuse import Misuse

__all__ = ["main"]

EXIT_MISUSE = 2
_EXIT_INTERRUPTED = 130  # as shells have it; before any job runs, one Ctrl-C is enough


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with *argv* (the process's own by default) and return its exit status.

    0: all succeeded. 1: some did not. 2: misuse, and nothing has run. 130: interrupted.
    """
    try:
        arguments = parser().parse_args(argv)
        if arguments.command == "run":
            return _start_run(arguments)
        if arguments.command == "journal":
            return _look_into_journal(arguments)
        return _show_plan(arguments)
    except Misuse as error:
        sys.stderr.write(f"retryexec: error: {' '.join(str(error).split())}\n")
        return EXIT_MISUSE
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


# The rooms below are entered late: they need the extras, of which `plan` and --help need none.


def _start_run(arguments: Namespace) -> int:
    try:
        from retryexec.cli._run import Options, run
    except ModuleNotFoundError as error:
        raise _lacking(error, "run", {"msgspec", "rich"}, "cli") from error
    if arguments.input is None and sys.stdin.isatty():
        msg = "INPUT is missing: name a file of records, or - to type them"
        raise Misuse(msg)
    fields = vars(arguments)
    del fields["command"]
    fields["input"] = arguments.input or "-"
    fields["retry_on"] = tuple(arguments.retry_on)
    return run(Options(**fields))


def _look_into_journal(arguments: Namespace) -> int:
    try:
        from retryexec.cli._journal import journal
    except ModuleNotFoundError as error:
        raise _lacking(error, "journal", {"msgspec", "rich"}, "cli") from error
    except ImportError as error:  # of the journal's own, which names the extra
        raise Misuse(str(error)) from error
    return journal(arguments)


def _show_plan(arguments: Namespace) -> int:
    from retryexec.cli._plan import plan

    try:
        return plan(
            arguments.backoff,
            attempts=arguments.attempts,
            max_elapsed=arguments.max_elapsed,
            seed=arguments.seed,
            file=arguments.plot,
        )
    except ModuleNotFoundError as error:
        raise _lacking(error, "plan --plot", {"matplotlib"}, "plot") from error


def _lacking(error: ModuleNotFoundError, command: str, needed: set[str], extra: str) -> Exception:
    """Return what to raise for a module that is not there: Misuse if an extra brings it."""
    if (error.name or "").partition(".")[0] not in needed:
        return error
    msg = f'{command} needs {error.name}, which is an extra: pip install "retryexec[{extra}]"'
    return Misuse(msg)
