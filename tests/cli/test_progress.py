"""Progress: what is told where, and when."""

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from retryexec.cli._progress import LiveDisplay, Pace, Plain, Quiet, Snapshot, for_terminal

START = Snapshot(0.0, 0, 0, 0, 0, 0.0, None)
LATER = Snapshot(
    seconds=10.0,
    done=2_500,
    failed=3,
    running=8,
    waiting=21,
    fraction=0.25,
    last_error="ConnectionError: try again",
)


def paces(*snapshots: Snapshot) -> str:
    pace = Pace(window=10.0)
    for snapshot in snapshots:
        pace.add(snapshot)
    return str(pace)


def test_rate_and_time_left() -> None:
    assert paces(LATER) == "250/s, ETA 30 s, 25%"
    assert paces(replace(LATER, done=25)) == "2.5/s, ETA 30 s, 25%"
    assert paces(replace(LATER, fraction=0.01)) == "250/s, ETA 16 min 30 s, 1%"
    assert paces(replace(LATER, fraction=0.0)) == "250/s, 0%"
    assert paces(START) == "0.0/s, 0%"


def test_an_unknown_size_leaves_the_time_spent() -> None:
    assert paces(replace(LATER, fraction=None)) == "250/s, 10.0 s"
    assert paces(replace(START, fraction=None), LATER) == "250/s, ETA 30 s, 25%"


def test_only_the_last_seconds_count() -> None:
    slow = replace(LATER, seconds=30.0, done=2_600, fraction=0.26)
    assert paces(LATER, replace(slow, seconds=20.0, done=2_510, fraction=0.251), slow) == (
        "9.0/s, ETA 13 min 43 s, 26%"
    )


def test_plain_lines_come_now_and_then_and_on_change(capsys: pytest.CaptureFixture[str]) -> None:
    with Plain(interval=5.0) as progress:
        progress.update(replace(LATER, seconds=4.9))  # too early
        progress.update(LATER)
        progress.update(replace(LATER, seconds=14.9, done=2_600))  # too early again
        progress.update(replace(LATER, seconds=20.0))  # nothing new
        progress.update(replace(LATER, seconds=21.0, done=2_600, last_error=None))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "2,500 done, 8 running, 21 waiting, 3 failed, 250/s, ETA 30 s, 25%, "
        "last error: ConnectionError: try again"
    )
    assert lines[1].startswith("2,600 done, ")
    assert lines[1].endswith("25%")


def test_a_terminal_gets_a_live_display() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    with LiveDisplay(console) as progress:
        progress.update(START)
        progress.say("in.jsonl:7: bad [record]: 1/2")
        progress.update(LATER)
        progress.update(replace(LATER, fraction=None, waiting=0, failed=0))
    text = file.getvalue()
    assert "in.jsonl:7: bad [record]: 1/2\n" in text
    for part in ("2,500 done", "8 running", "21 waiting", "3 failed", "250/s, ETA 30 s, 25%"):
        assert part in text
    assert "last error: ConnectionError: try again" in text
    assert "\x1b[?25h" in text  # the cursor is back


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_suits_where(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(for_terminal(quiet=False)) is Plain
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert type(for_terminal(quiet=False)) is LiveDisplay
    assert type(for_terminal(quiet=True)) is Quiet
    monkeypatch.setenv("TERM", "dumb")
    assert type(for_terminal(quiet=False)) is Plain
