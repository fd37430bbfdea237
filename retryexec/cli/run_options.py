"""What ``retryexec run`` was asked for, and the command line that asks for it again."""

import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retryexec import Backoff
from retryexec.cli.shell import folded, short, width_of_stderr

_NOT_OPTIONS = {"command", "target", "input", "retry_failed"}
_PATHS = {"failures", "checkpoint", "timeline"}
# Options that say what this INPUT is, or where this run keeps things: not for another INPUT.
_OF_INPUT = {"format", "delimiter", "encoding", "limit", "failures", "checkpoint", "timeline"}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What ``retryexec run`` was asked for; the fields are its options.

    *as_written* has those that were given, by name, as text.
    """

    target: str
    input: str
    format: str | None
    delimiter: str | None
    encoding: str | None
    workers: int | None
    attempts: int | None
    max_elapsed: float | None
    backoff: Backoff
    retry_on: tuple[str, ...]
    max_pending: int
    key: tuple[str, ...] | None
    keep: Literal["all", "latest"]
    rate: tuple[float, float] | None
    concurrency: int | None
    breaker: dict[str, Any] | None
    limit: int | None
    failures: Path | None
    checkpoint: Path | None
    timeline: Path | None
    retry_failed: bool
    dry_run: bool
    strict: bool
    forbid_unknown: bool
    quiet: bool
    as_written: dict[str, Any] = field(default_factory=dict)

    @property
    def is_csv(self) -> bool:
        """Whether INPUT is CSV."""
        return self.format == "csv" if self.format else _is_csv(self.input)

    @property
    def is_tsv(self) -> bool:
        """Whether INPUT is named as if its cells are separated by tabs."""
        return _suffix(self.input) == ".tsv"

    @property
    def described_format(self) -> str:
        """What INPUT was said to be, for a checkpoint to compare."""
        parts = ["csv" if self.is_csv else "jsonl"]
        if self.is_csv and self.delimiter:
            parts.append(f"delimiter {self.delimiter!r}")
        if self.encoding:
            parts.append(self.encoding.lower())
        return ", ".join(parts)

    def command(self, name: str, *more: str, without: Collection[str] = ()) -> str:
        """Return the command with all its options and some *more*, over the file *name*."""
        units = [f"retryexec run {shlex.quote(short(self.target))} {shlex.quote(short(name))}"]
        for option, value in self.as_written.items():
            if option in _NOT_OPTIONS or option in without:
                continue
            flag = f"--{option.replace('_', '-')}"
            for text in value if isinstance(value, list) else [value]:
                if text is True:
                    units.append(flag)
                else:
                    word = shlex.quote(short(text) if option in _PATHS else text)
                    units.append(f"{flag}={word}" if text.startswith("-") else f"{flag} {word}")
        return folded([*units, *more], width_of_stderr())

    def command_for_failures(self) -> str:
        """Return the command that runs what failed once more, on the same terms."""
        assert self.failures is not None
        again = [f"--failures {shlex.quote(short(_next_name(self.failures)))}"]
        if _is_csv(str(self.failures)):
            again.append("--format jsonl")  # which it is, whatever it is called
        return self.command(str(self.failures), *again, without=_OF_INPUT)


def _suffix(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _is_csv(name: str) -> bool:
    return _suffix(name) in {".csv", ".tsv"}


def _next_name(path: Path) -> Path:
    """Return another name for a file of failures: ``failed-2.jsonl`` after ``failed.jsonl``."""
    stem, dash, number = path.stem.rpartition("-")
    if dash and number.isdecimal():
        return path.with_name(f"{stem}-{int(number) + 1}{path.suffix}")
    return path.with_name(f"{path.stem}-2{path.suffix}")
