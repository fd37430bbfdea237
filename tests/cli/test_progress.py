"""Progress: what is told where, and when."""

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from retryexec.cli.progress import Live, Plain, Quiet, Rate, Snapshot, for_terminal

START = Snapshot(total=10_000)
LATER = Snapshot(
    seconds=10.0,
    done=2_500,
    failed=3,
    running=8,
    waiting=21,
    total=10_000,
    last_error="ConnectionError: try again",
)


def rates(*snapshots: Snapshot) -> str:
    rate = Rate(window=10.0)
    for snapshot in snapshots:
        rate.add(snapshot)
    return str(rate)


def test_rate_and_time_left() -> None:
    assert rates(START, LATER) == "250/s, ETA 30 s, 25%"
    assert rates(START, replace(LATER, done=25)) == "2.5/s, ETA 1 h 06 min, 0%"
    assert rates(START, replace(LATER, done=0)) == "0.0/s, 0%"
    assert rates(START) == "0.0/s, 0%"


def test_an_unknown_total_leaves_the_time_spent() -> None:
    assert rates(START, replace(LATER, total=None)) == "250/s, 10.0 s"
    assert rates(replace(START, total=None), LATER) == "250/s, ETA 30 s, 25%"


def test_only_the_last_seconds_count() -> None:
    slow = replace(LATER, seconds=30.0, done=2_600)
    assert rates(START, LATER, replace(slow, seconds=20.0, done=2_510), slow) == (
        "9.0/s, ETA 13 min 43 s, 26%"
    )


def test_what_earlier_processes_did_is_done_but_is_not_of_the_rate() -> None:
    """Of 3,000 records 1,518 were done; 20 more in the first second of this process."""
    begin = Snapshot(done=1_518, total=3_000)
    assert (begin.counts, begin.percent) == ("1,518 of 3,000 done", 51)
    assert rates(begin, replace(begin, seconds=1.0, done=1_538)) == "20/s, ETA 1 min 14 s, 51%"


@pytest.mark.parametrize(
    ("done", "exact", "percent"),
    [(2_999, True, 99), (3_000, True, 100), (3_000, False, 99), (2_999, False, 99)],
)
def test_100_percent_is_the_end(done: int, exact: bool, percent: int) -> None:
    assert Snapshot(done=done, total=3_000, exact=exact).percent == percent


def test_an_estimated_total_says_so() -> None:
    assert replace(LATER, exact=False).counts == "2,500 of about 10,000 done"
    assert replace(LATER, total=None).counts == "2,500 done"
    assert replace(LATER, total=2_000, exact=False).counts == "2,500 done"


def test_plain_lines_come_now_and_then_and_on_change(capsys: pytest.CaptureFixture[str]) -> None:
    with Plain(interval=5.0) as progress:
        progress.update(START)
        progress.update(replace(LATER, seconds=4.9))  # too early
        progress.update(LATER)
        progress.update(replace(LATER, seconds=14.9, done=2_600))  # too early again
        progress.update(replace(LATER, seconds=20.0))  # nothing new
        progress.update(replace(LATER, seconds=21.0, done=2_600, last_error=None))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "2,500 of 10,000 done, 8 running, 21 waiting, 3 failed, 250/s, ETA 30 s, 25%, "
        "last error: ConnectionError: try again"
    )
    assert lines[1].startswith("2,600 of 10,000 done, ")
    assert lines[1].endswith("26%")


@pytest.mark.parametrize("width", [40, 80, 132])
def test_a_terminal_gets_a_display_as_wide_as_it_is(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    with Live(console) as progress:
        progress.update(START)
        progress.say("in.jsonl:7: bad [record]: 1/2")
        progress.update(LATER)
        text = file.getvalue()
        progress.update(replace(LATER, total=None, waiting=0, failed=0))
    assert "in.jsonl:7: bad [record]: 1/2\n" in text
    bar = next(line for line in text.splitlines()[::-1] if "250/s, ETA 30 s, 25%" in line)
    assert len(bar.rpartition("\r")[2].rpartition("\x1b[2K")[2].rstrip("\n")) == width
    for part in ("2,500 of 10,000 done", "8 running"):
        assert part in text
    assert "last error: ConnectionError" in text
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back


@pytest.mark.parametrize("exact", [True, False])
def test_the_bar_is_full_at_the_end_and_not_before(exact: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system="truecolor")
    with Live(console) as progress:
        progress.update(START)
        progress.update(replace(LATER, done=10_000, exact=exact))
        bar = file.getvalue().rpartition("━")[0].splitlines()[-1]
    finished = "\x1b[38;2;114;156;31m" in bar  # the colour that rich gives a bar that is done
    assert finished == exact
    assert ("99%" in file.getvalue()) == (not exact)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_suits_where(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(for_terminal(quiet=False)) is Plain
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert type(for_terminal(quiet=False)) is Live
    assert type(for_terminal(quiet=True)) is Quiet
    monkeypatch.setenv("TERM", "dumb")
    assert type(for_terminal(quiet=False)) is Plain
