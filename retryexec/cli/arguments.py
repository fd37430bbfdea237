"""The command line: what it takes, and what its help says."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from retryexec.cli.backoff_option import backoff, described_backoffs
from retryexec.cli.journal_arguments import DESCRIBED, add_actions, add_where
from retryexec.cli.options import (
    Parser,
    breaker,
    count,
    count_or_none,
    delimiter,
    did_you_mean,
    duration_or_none,
    encoding,
    field_names,
    interval,
    rate,
)
from retryexec.cli.web import add_web

_MAX_PENDING = 10_000  # jobs in memory at a time: plenty for the workers, little for the memory

_BACKOFFS = "\n".join(f"  {name:<13} {fields}".rstrip() for name, fields in described_backoffs())

_BACKOFF_HELP = f"""\
backoffs:
{_BACKOFFS}
  0.1,1,10      these delays, and then no more

  Values follow a colon, in this order or by name, and the beginning of a name will do:
  constant:0.5   linear:1,2   exponential:initial=100ms,mult=2,max=30s   full-jitter:max=1m
  Times are seconds, or have a unit: 500ms, 30s, 2m, 1h. With jitter=0.2, any backoff (as in
  0.1,1,10,jitter=0.2) has its delays drawn from 20 % less to 20 % more.
"""

_TOP_EXAMPLES = """\
examples:
  retryexec run savers.py:UserActivitySaver activity.jsonl
  retryexec plan exponential --attempts 10
  retryexec watch var/saves
"""

_RUN_EXAMPLES = """\
examples:
  retryexec run savers.py:UserActivitySaver activity.jsonl --dry-run
  retryexec run savers.py:UserActivitySaver activity.csv --workers 8 --attempts 5 \\
      --backoff exponential:initial=0.1,max=10 --retry-on sqlite3.OperationalError
  retryexec run savers.py:UserActivitySaver activity.jsonl --failures failed.jsonl
  retryexec run savers.py:UserActivitySaver failed.jsonl      # and those once more
  retryexec run savers.py:UserActivitySaver activity.jsonl --checkpoint run.db
                                                              # goes on after kill -9
  tail -f activity.jsonl | retryexec run package.savers:UserActivitySaver -

exit status:
  0 all succeeded, 1 some did not, 2 misuse (nothing has run), 130 ended by a second Ctrl-C.
  The first Ctrl-C (or SIGTERM, or SIGHUP) starts nothing new, lets running attempts end, and
  writes the rest into the failures file; with --checkpoint, the rest is for the next time.
"""

_PLAN_EXAMPLES = """\
examples:
  retryexec plan exponential --attempts 10
  retryexec plan full-jitter:base=1,max=30 --attempts 8 --max-elapsed 2m
  retryexec plan 0.1,1,10 --plot schedule.svg
"""

_WATCH_EXAMPLES = """\
examples:
  retryexec watch var/saves
  retryexec watch postgresql://app@db.example.net/app --interval 5
  retryexec watch var/saves --once      # one frame, as into a mail

  Ctrl-C ends it. It only reads, and may be used beside processes at full load. `queued` are jobs
  that may start, also those that a guard holds back; `held` are those behind another of their key.

exit status:
  0 ended by Ctrl-C, or all could be read once; 1 the journal has gone, or some of it could not be
  read; 2 misuse
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace | None:
    """Return what *argv* asks for; None if that was help for a command without its arguments.

    Raises:
        UsageError: something is missing or wrong.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    top, commands = _parsers()
    if not words:
        top.print_help()
        return None
    if words == ["journal"]:
        commands["journal"].print_help()
        return None
    found, unknown = top.parse_known_args(words)
    if unknown:
        parser = commands[" ".join([found.command, *vars(found).get("action", "").split()])]
        hint = did_you_mean(unknown[0].partition("=")[0], parser.options)
        if found.command == "run" and unknown[0].startswith("--journal"):
            hint = "; run keeps what it has done with --checkpoint FILE, in place of a journal"
        msg = f"unrecognized arguments: {' '.join(unknown)}{hint}"
        parser.error(msg)
    return found


def options_given(argv: Sequence[str] | None) -> dict[str, Any]:
    """Return the options of ``run`` in *argv* as they were written, by name without dashes."""
    top, _ = _parsers(as_written=True)
    return vars(top.parse_args(argv))


def _parsers(*, as_written: bool = False) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the whole command line, and those of the commands.

    Args:
        as_written: leave values the text that they are, and leave out what was not given.
    """
    top = Parser(
        prog="retryexec",
        description="Run jobs that are tried again until they succeed or finally fail.",
        epilog=_TOP_EXAMPLES,
    )
    top.add_argument("--version", action="version", version=f"retryexec {_version()}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="run a job for every record of a file",
        description="Make a job of every record in INPUT, and run each until it succeeds or "
        "finally fails.",
        epilog=f"{_BACKOFF_HELP}\n{_RUN_EXAMPLES}",
    )
    _add_run(run, as_written=as_written)
    plan = commands.add_parser(
        "plan",
        help="show when a backoff would try again",
        description="Show when BACKOFF makes its attempts, as if each failed at once.",
        epilog=f"{_BACKOFF_HELP}\n{_PLAN_EXAMPLES}",
    )
    _add_plan(plan)
    journal = commands.add_parser("journal", **DESCRIBED)
    actions = add_actions(journal)
    watch = commands.add_parser(
        "watch",
        help="show live what a journal is at",
        description="Show live what the journal in WHERE is at: its owners, jobs, errors, and what "
        "is due next.",
        epilog=_WATCH_EXAMPLES,
    )
    _add_watch(watch)
    web = add_web(commands)
    named = {"run": run, "plan": plan, "journal": journal, "watch": watch, "web": web}
    return top, named | actions


def _version() -> str:
    try:
        return version("retryexec")
    except PackageNotFoundError:  # a source tree, or an app that was frozen without it
        return "(version unknown: its package metadata is not installed)"


def _add_run(run: Parser, *, as_written: bool) -> None:
    def add(*names: str, **settings: Any) -> None:
        if as_written:
            settings.pop("type", None)
            settings["default"] = argparse.SUPPRESS
        run.add_argument(*names, **settings)

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
        help="JSON Lines, or CSV with a header, as they are or packed with gzip; - or nothing for "
        "standard input",
    )
    add(
        "--format",
        choices=["jsonl", "csv"],
        help="what INPUT is (default: csv for a name in .csv or .tsv, else jsonl)",
    )
    add(
        "--delimiter",
        type=delimiter,
        metavar="C",
        help="what separates the cells of CSV: a character, or tab (default: tab for a name in "
        ".tsv, else judged by the header)",
    )
    add(
        "--encoding",
        type=encoding,
        metavar="NAME",
        help="of INPUT's text, as cp1252 (default: utf-8, or what a byte order mark says)",
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
        default=_MAX_PENDING,
        metavar="N",
        help="records in memory at a time, the waiting ones included; reading pauses when there "
        f"are more (default: {_MAX_PENDING})",
    )
    add(
        "--key",
        type=field_names,
        metavar="FIELD[,FIELD]",
        help="of the records that have the same values there, run one at a time, in their order; "
        "a record with empty ones has no key",
    )
    add(
        "--keep",
        choices=["all", "latest"],
        default="all",
        help="with --key: latest lets a record replace an earlier one of its key that waits, which "
        "then counts as superseded (default: all)",
    )
    add(
        "--rate",
        type=rate,
        metavar="N[/UNIT]",
        help="start at most so many attempts per second, as 100/s, or per min, h or d, as 5/min; "
        "retries included",
    )
    add(
        "--concurrency",
        type=count,
        metavar="N",
        help="run at most so many attempts at a time (default: as many as there are workers)",
    )
    add(
        "--breaker",
        type=breaker,
        nargs="?",
        const="default" if as_written else {},
        metavar="TERMS",
        help="start no attempts for a while once most of the latest ones have failed. TERMS are "
        "the share of failures, and by name: failure_rate=0.5, minimum_attempts=20, window=60s, "
        "open_for=30s, probes=1 are the defaults; as in --breaker 0.8,open_for=10s",
    )
    add("--limit", type=count, metavar="N", help="run at most so many records, and leave the rest")
    add(
        "--failures",
        type=Path,
        metavar="FILE",
        help="write each record that did not succeed to FILE, as JSON Lines that can be INPUT "
        "again; what FILE held is overwritten",
    )
    add(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="keep in FILE which records are done: after a crash, the same command goes on",
    )
    add(
        "--timeline",
        type=Path,
        metavar="FILE.svg",
        help="draw into FILE.svg what ran when, what failed, waited and was held; also of a run "
        "that is interrupted",
    )
    add(
        "--retry-failed",
        action="store_true",
        help="with --checkpoint: run records again that have failed for good before",
    )
    add("--dry-run", action="store_true", help="check TARGET and all records, and run nothing")
    add("--strict", action="store_true", help="stop reading at the first bad record")
    add(
        "--forbid-unknown",
        action="store_true",
        help="a record with a field that the class does not have is bad (default: the field is "
        "left out, and that is said once)",
    )
    add("--quiet", "-q", action="store_true", help="no progress and no summary; errors only")


def _add_plan(plan: Parser) -> None:
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


def _add_watch(watch: Parser) -> None:
    add_where(watch)
    watch.add_argument(
        "--interval",
        type=interval,
        default=1.0,
        metavar="TIME",
        help="time from one look to the next (default: 1s); longer where a look takes long",
    )
    watch.add_argument(
        "--once",
        action="store_true",
        help="print one frame and end (default: if standard output is not a terminal)",
    )
