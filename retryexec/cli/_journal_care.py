"""``retryexec journal check`` and ``backup``."""

from argparse import Namespace

from retryexec.cli._output import show
from retryexec.cli._table import clean, show_json, size
from retryexec.journal import Inspector
from retryexec.journal._backup import backup
from retryexec.journal._check import check as findings_of


def check(inspector: Inspector, arguments: Namespace) -> int:
    """Tell what is wrong; return 1 if anything is."""
    findings = list(findings_of(inspector, full=arguments.full))
    if arguments.json:
        told = [
            {"about": finding.about, "path": str(finding.path), "text": finding.text}
            for finding in findings
        ]
        show_json({"ok": not findings, "findings": told})
        return 1 if findings else 0
    for finding in findings:
        show(clean(f"{finding.about}: {finding.path}: {finding.text}"))
    if not findings:
        files = len(inspector.names())
        show("1 file, all is well" if files == 1 else f"{files:,} files, all is well")
    return 1 if findings else 0


def back_up(inspector: Inspector, arguments: Namespace) -> int:
    """Copy the journal; return 0."""
    copied = backup(inspector, arguments.to)
    total = sum(copy.bytes for copy in copied)
    jobs = sum(copy.records for copy in copied if copy.path.name != "dead.db")
    letters = sum(copy.records for copy in copied) - jobs
    if arguments.json:
        show_json(
            {
                "to": str(arguments.to),
                "unfinished": jobs,
                "dead": letters,
                "bytes": total,
                "files": [
                    {"name": copy.path.name, "records": copy.records, "bytes": copy.bytes}
                    for copy in copied
                ],
            }
        )
    else:
        show(
            f"{jobs:,} unfinished jobs and {letters:,} dead letters, {size(total)}, are in "
            f"{clean(str(arguments.to))}"
        )
    return 0
