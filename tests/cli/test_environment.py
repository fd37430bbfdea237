"""What cron, daemons and supervisors start the command with: streams, signals, packages."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result, read_jsonl

from retryexec.cli import arguments as parsing
from retryexec.cli.output import open_missing_streams

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

STAGED = """\
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Staged:
    id: int

    def exec(self):
        if self.id == 1:
            raise LookupError("no such")
        Path("began").write_text("began")
        Path("gate").read_text()
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "staged.py").write_text(STAGED)
    (tmp_path / "in.jsonl").write_bytes(b'{"id": 1}\n{"id": 2}\n{"id": 3}\n')
    os.mkfifo(tmp_path / "began")
    os.mkfifo(tmp_path / "gate")
    return tmp_path


@pytest.fixture
def shell(stage: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start the command as a shell does, with redirections and all."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(rest: str, before: str = "") -> "subprocess.Popen[bytes]":
        command = f"{before} exec {sys.executable} -m retryexec run staged.py:Staged {rest}"
        processes.append(subprocess.Popen(["/bin/sh", "-c", command]))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


OPTIONS = "in.jsonl --workers 1 --attempts 1 --failures f.jsonl"


@pytest.mark.parametrize(
    "redirections",
    ["<&- >&- 2>&-", "<&- >&-", "2>&-", ">&-", "<&-", ">/dev/full 2>/dev/full", ">&- 2>/dev/full"],
)
def test_closed_and_full_streams_cost_no_record_its_end(
    redirections: str, stage: Path, shell: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    (stage / "staged.py").write_text(STAGED.partition("        Path(")[0])
    process = shell(f"{OPTIONS} {redirections}")
    assert process.wait(timeout=30) == 1
    (failed,) = read_jsonl(stage / "f.jsonl")  # and nothing that was meant for another stream
    assert failed["id"] == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_each_signal_ends_a_run_as_ctrl_c_does(
    number: signal.Signals, stage: Path, shell: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process = shell(f"{OPTIONS} 2>err")
    (stage / "began").read_text()
    process.send_signal(number)
    while "stopping: " not in (stage / "err").read_text():
        assert process.poll() is None
    (stage / "gate").write_text("go")
    assert process.wait(timeout=30) == 1
    assert [record["id"] for record in read_jsonl(stage / "f.jsonl")] == [1, 3]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signals_that_were_ignored_stay_ignored(
    number: signal.Signals, stage: Path, shell: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process = shell(f"{OPTIONS} 2>err", before=f"trap '' {number.name.removeprefix('SIG')};")
    (stage / "began").read_text()
    process.send_signal(number)
    (stage / "gate").write_text("go")
    (stage / "began").read_text()  # of the next record: the signal has been delivered by now
    (stage / "gate").write_text("go")
    assert process.wait(timeout=30) == 1
    assert "stopping" not in (stage / "err").read_text()
    assert [record["id"] for record in read_jsonl(stage / "f.jsonl")] == [1]


def test_streams_that_are_none_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    open_missing_streams()
    sys.stdout.write("nobody reads this")
    sys.stderr.write("nor this")
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_without_metadata_the_version_is_unknown_and_all_else_works(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Callable[..., Result],
) -> None:
    def version(name: str) -> Any:
        raise parsing.PackageNotFoundError(name)

    monkeypatch.setattr(parsing, "version", version)
    assert command("plan", "zero").status == 0
    with pytest.raises(SystemExit):
        parsing.parse(["--version"])
    assert capsys.readouterr().out.startswith("retryexec (version unknown")


def test_a_current_directory_that_is_gone(
    stage: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Result]
) -> None:
    (stage / "gone").mkdir()
    monkeypatch.chdir(stage / "gone")
    (stage / "gone").rmdir()
    result = command("run", f"{stage}/staged.py:Staged", f"{stage}/in.jsonl", "--dry-run")
    assert result.out == "3 records good, 0 bad; nothing was run (--dry-run)\n"
    assert "there is no module 'nowhere'" in command("run", "nowhere:Staged", "in.jsonl").err
