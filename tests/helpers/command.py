"""The command under test: its jobs, its input, and what came of it."""

import io
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOBS = '''\
"""Jobs that do as their record says."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from retryexec import PermanentError, current_attempt

RAN = []


class Odd(Exception):
    """An exception of the user's own."""


@dataclass
class Save:
    id: int
    name: str = "nobody"
    at: datetime | None = None
    fails: int = 0
    error: str = "try again"

    def exec(self):
        if current_attempt().number <= self.fails:
            raise ConnectionError(self.error)
        RAN.append(self)


@dataclass
class Fatal:
    id: int

    def exec(self):
        raise PermanentError(LookupError("never"))


@dataclass
class OddJob:
    id: int

    def exec(self):
        if current_attempt().number == 1:
            raise Odd("first")


@dataclass
class Strict:
    id: int

    def __post_init__(self):
        if self.id == 13:
            raise LookupError("thirteen")
        if self.id < 0:
            raise ValueError(f"id {self.id} is negative")

    def exec(self):
        pass


@dataclass
class Exits:
    id: int

    def exec(self):
        raise SystemExit(self.id)


@dataclass
class Where:
    path: Path
    size: int | None

    def exec(self):
        RAN.append(self)
'''


@dataclass
class Result:
    """What the command did, and what it said."""

    status: int
    out: str
    err: str


def jsonl(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class Stdin(io.RawIOBase):
    """A standard input that gives one piece per read."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.pieces = list(pieces)
        self.reads = 0

    @property
    def buffer(self) -> "Stdin":
        return self

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002  a piece may be of any size
        self.reads += 1
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        return piece


def start(*arguments: object, **options: Any) -> "subprocess.Popen[bytes]":
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "retryexec", *map(str, arguments)],
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **options,
    )


def documents(result: Result) -> list[dict[str, Any]]:
    """Return the lines of JSON that a command has printed."""
    return [json.loads(line) for line in result.out.splitlines()]


def modes(directory: Path) -> set[int]:
    """Return the permissions of the files in *directory*."""
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
