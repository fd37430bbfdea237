"""The command ``retryexec``: the library's main job from a shell.

``retryexec run`` makes a job of every record in a file, ``retryexec plan`` shows a backoff,
``retryexec journal`` looks into what survives a crash, ``retryexec watch`` keeps looking, and
``retryexec web`` serves a page of it.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from retryexec.cli.arguments import options_given, parse
from retryexec.cli.options import UsageError
from retryexec.cli.output import open_missing_streams, say

__all__ = ["main"]

_EXIT_MISUSE = 2
_EXIT_INTERRUPTED = 130  # as shells have it; before any job runs, one Ctrl-C is enough


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with *argv* (the process's own by default) and return its exit status.

    0: all succeeded. 1: some did not. 2: misuse, and nothing has run. 130: interrupted.
    """
    open_missing_streams()
    try:
        arguments = parse(argv)
        if arguments is None:
            return 0
        if arguments.command == "run":
            return _run(arguments, argv)
        if arguments.command == "journal":
            return _journal(arguments)
        if arguments.command == "watch":
            return _watch(arguments)
        if arguments.command == "web":
            return _web(arguments)
        return _plan(arguments)
    except UsageError as error:
        say(f"retryexec: error: {' '.join(str(error).split())}")
        return _EXIT_MISUSE
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


# What needs an extra is imported late: `plan` and --help do not need any.


def _run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    try:
        from retryexec.cli.run import run
        from retryexec.cli.run_options import RunOptions
    except ModuleNotFoundError as error:
        raise _lacking(error, "run", {"msgspec", "rich"}, "cli") from error
    if arguments.input is None and sys.stdin.isatty():
        msg = "INPUT is missing: name a file of records, or - to type them"
        raise UsageError(msg)
    fields = vars(arguments)
    del fields["command"]
    fields["input"] = arguments.input or "-"
    fields["retry_on"] = tuple(arguments.retry_on)
    return run(RunOptions(**fields, as_written=options_given(argv)))


def _journal(arguments: Namespace) -> int:
    try:
        from retryexec.cli.journal import journal
    except ModuleNotFoundError as error:
        raise _lacking(error, "journal", {"msgspec", "rich"}, "cli") from error
    except ImportError as error:  # of the journal's own, which names the extra
        raise UsageError(str(error)) from error
    return journal(arguments)


def _watch(arguments: Namespace) -> int:
    try:
        from retryexec.cli.watch import watch
    except ModuleNotFoundError as error:
        raise _lacking(error, "watch", {"msgspec", "rich"}, "cli") from error
    except ImportError as error:  # of the journal's own, which names the extra
        raise UsageError(str(error)) from error
    return watch(arguments)


def _web(arguments: Namespace) -> int:
    from retryexec.cli.web import web

    needed = {"jinja2", "msgspec", "starlette", "uvicorn"}
    try:
        return web(arguments)
    except ModuleNotFoundError as error:
        raise _lacking(error, "web", needed, "web") from error
    except ImportError as error:  # of the page's own, which names the extra
        raise UsageError(str(error)) from error


def _plan(arguments: Namespace) -> int:
    from retryexec.cli.plan import plan

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
    """Return what to raise for a module that is not there: UsageError if an extra brings it."""
    if (error.name or "").partition(".")[0] not in needed:
        return error
    msg = f'{command} needs {error.name}, which is an extra: pip install "retryexec[{extra}]"'
    return UsageError(msg)
