"""The command line: what it takes, and what its help says."""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from retryexec.cli._journal_arguments import add_journal
from retryexec.cli._misuse import Misuse
from retryexec.cli._parse import count, count_or_none, duration_or_none
from retryexec.cli._spec import backoff, described

DEFAULT_MAX_PENDING = 10_000
"""Jobs in memory at a time: plenty for the workers, little for the memory."""

_BACKOFFS = "\n".join(f"  {name:<13} {fields}".rstrip() for name, fields in described())

_BACKOFF_HELP = f"""\
backoffs:
{_BACKOFFS}
  0.1,1,10      these delays, and then no more

  Values follow a colon, in this order or by name, and the beginning of a name will do:
  constant:0.5   linear:1,2   exponential:initial=100ms,mult=2,max=30s   full-jitter:max=1m
  Times are seconds, or have a unit: 500ms, 30s, 2m, 1h. With jitter=0.2, any backoff (as in
  0.1,1,10,jitter=0.2) has its delays drawn from 20 % less to 20 % more.
"""

_RUN_EXAMPLES = """\
examples:
  retryexec run savers.py:UserActivitySaver activity.jsonl
  retryexec run savers.py:UserActivitySaver activity.csv --workers 8 --attempts 5 \\
      --backoff exponential:initial=0.1,max=10 --retry-on sqlite3.OperationalError
  retryexec run savers.py:UserActivitySaver activity.jsonl --failures failed.jsonl
  retryexec run savers.py:UserActivitySaver failed.jsonl      # and those once more
  retryexec run savers.py:UserActivitySaver activity.jsonl --journal var/run   # survives kill -9
  tail -f activity.jsonl | retryexec run package.savers:UserActivitySaver -

exit status:
  0 all succeeded, 1 some did not, 2 misuse (nothing has run), 130 ended by a second Ctrl-C.
  The first Ctrl-C (or SIGTERM) starts nothing new, lets running attempts end, and writes the
  rest into the failures file; with --journal, the rest stays there for the next time.
"""

_PLAN_EXAMPLES = """\
examples:
  retryexec plan exponential --attempts 10
  retryexec plan full-jitter:base=1,max=30 --attempts 8 --max-elapsed 2m
  retryexec plan 0.1,1,10 --plot schedule.svg
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        msg = f"{message} (see {self.prog} --help)"
        raise Misuse(msg)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; it raises Misuse rather than exiting."""
    top = _Parser(
        prog="retryexec",
        description="Run jobs that are tried again until they succeed or finally fail.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"retryexec {version('retryexec')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_plan(commands)
    add_journal(commands)
    return top


def _add_run(commands: "argparse._SubParsersAction[_Parser]") -> None:
    run = commands.add_parser(
        "run",
        help="run a job for every record of a file",
        description="Make a job of every record in INPUT, and run each until it succeeds or "
        "finally fails.",
        epilog=f"{_BACKOFF_HELP}\n{_RUN_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = run.add_argument
    add(
        "target",
        metavar="TARGET",
        help="file.py:Class or package.module:Class, a dataclass with exec(): its fields are "
        "the record's, its exec() does the work",
    )
    add(
        "input",
        metavar="INPUT",
        nargs="?",
        help="JSON Lines, or CSV with a header; - or nothing for standard input",
    )
    add(
        "--format",
        choices=["jsonl", "csv"],
        help="what INPUT is (default: csv for a name ending in .csv, else jsonl)",
    )
    add(
        "--workers",
        type=count,
        metavar="N",
        help="threads that run jobs (default: as many as ThreadPoolExecutor has)",
    )
    add(
        "--attempts",
        "--max-attempts",
        type=count_or_none,
        default=10,
        metavar="N",
        help="attempts at each job, the first included; none for no limit (default: 10)",
    )
    add(
        "--max-elapsed",
        type=duration_or_none,
        default=900.0,
        metavar="TIME",
        help="start no retry later than this after a job's first attempt; none for no limit "
        "(default: 15m)",
    )
    add(
        "--backoff",
        type=backoff,
        default="exponential",
        metavar="BACKOFF",
        help="how long to wait between attempts, see below (default: exponential)",
    )
    add(
        "--retry-on",
        action="append",
        default=[],
        metavar="TYPE",
        help="an exception worth another attempt, as TimeoutError or sqlite3.OperationalError; "
        "can be given several times (default: every Exception)",
    )
    add(
        "--max-pending",
        type=count,
        default=DEFAULT_MAX_PENDING,
        metavar="N",
        help="records in memory at a time, the waiting ones included; reading pauses when there "
        f"are more (default: {DEFAULT_MAX_PENDING})",
    )
    add(
        "--failures",
        type=Path,
        metavar="FILE",
        help="write every record that did not succeed to FILE, with the reason, as JSON Lines "
        "that can be INPUT again; what FILE held is overwritten",
    )
    add(
        "--journal",
        type=Path,
        metavar="DIR",
        help="keep in DIR what has been accepted and what is done: after a crash, the same command "
        "goes on where it was",
    )
    add("--strict", action="store_true", help="stop reading at the first bad record")
    add(
        "--forbid-unknown",
        action="store_true",
        help="a record with a field that the class does not have is bad (default: the field is "
        "left out, and that is said once)",
    )
    add("--quiet", "-q", action="store_true", help="no progress and no summary; errors only")


def _add_plan(commands: "argparse._SubParsersAction[_Parser]") -> None:
    plan = commands.add_parser(
        "plan",
        help="show when a backoff would try again",
        description="Show when BACKOFF makes its attempts, as if each failed at once.",
        epilog=f"{_BACKOFF_HELP}\n{_PLAN_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = plan.add_argument
    add("backoff", metavar="BACKOFF", help="see below")
    add(
        "--attempts",
        "--max-attempts",
        type=count,
        default=10,
        metavar="N",
        help="how many to show, the first included (default: 10)",
    )
    add(
        "--max-elapsed",
        type=duration_or_none,
        default=None,
        metavar="TIME",
        help="start no retry later than this (default: none; `run` has 15m)",
    )
    add("--seed", type=int, default=0, metavar="N", help="what the draws begin with (default: 0)")
    add("--plot", type=Path, metavar="FILE", help="draw it into FILE, an .svg or .png")
