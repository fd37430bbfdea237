"""``retryexec run --timeline``: what is noted, what is drawn, and what becomes of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from helpers.command import Result
from hypothesis import given, settings
from hypothesis import strategies as st

from retryexec.cli import timeline as timelines
from retryexec.cli.svg import Drawing, tick_label, tick_step
from retryexec.cli.timeline import BINS, Timeline
from retryexec.cli.timeline_picture import kind_of, picture

Run = Callable[..., Result]


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def drawn(text: str) -> tuple[list[str], Callable[[str], list[ET.Element]]]:
    """Return the texts of a picture, and what finds its shapes of a kind."""
    root = ET.fromstring(text)  # noqa: S314  ours
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text or "" for element in root.iter(f"{name}text")]

    def shapes(kind: str) -> list[ET.Element]:
        return [e for e in root.iter() if e.get("class") == kind and e.tag != f"{name}text"]

    return texts, shapes


def tips(shapes: list[ET.Element]) -> list[str]:
    return [child.text or "" for shape in shapes for child in shape]


# ---- with the command


def test_each_attempt_is_drawn_with_what_it_failed_with(run: Run, tmp_path: Path) -> None:
    records = [{"id": 1}, {"id": 2, "fails": 2}, {"id": 3, "fails": 9, "error": "no <way> & \x07"}]
    result = run(records, "--attempts", "3", "--timeline", "run.svg")
    assert result.status == 1
    texts, shapes = drawn((tmp_path / "run.svg").read_text())
    assert texts[0].startswith("3 records in ")
    assert texts[0].endswith(": 2 succeeded, 1 failed")
    assert {"line 1", "line 2", "line 3", "succeeded", "failed for good"} <= set(texts)
    assert len(tips(shapes("ok"))) == 2
    assert len(tips(shapes("failed"))) == 4
    (last,) = tips(shapes("final"))
    assert last.startswith("line 3, attempt 3, after ")
    assert last.endswith(r"ConnectionError: no <way> & \x07")


def test_waits_and_holds_are_drawn(run: Run, tmp_path: Path) -> None:
    records = [{"id": 1, "name": "a", "fails": 1}, {"id": 2, "name": "a"}, {"id": 3, "name": "b"}]
    run(records, "--timeline", "run.svg", "--key", "name", "--backoff", "500ms")
    texts, shapes = drawn((tmp_path / "run.svg").read_text())
    assert "held by its key or a guard" in texts
    assert len([shape for shape in shapes("held") if shape.get("width") != "18"]) == 1
    assert len(shapes("wait")) == 2  # one of them in the legend
    run(records[1:], "--timeline", "run.svg", "--rate", "1")
    texts, shapes = drawn((tmp_path / "run.svg").read_text())
    assert "held by its key or a guard" in texts
    assert len([shape for shape in shapes("held") if shape.get("width") != "18"]) == 1


def test_many_records_are_drawn_by_worker(run: Run, tmp_path: Path) -> None:
    records = [{"id": n, "fails": n % 2} for n in range(60)]
    run(records, "--timeline", "run.svg", "--workers", "2", "--backoff", "20ms")
    texts, shapes = drawn((tmp_path / "run.svg").read_text())
    assert {"worker 1", "worker 2"} >= {text for text in texts if text.startswith("worker")}
    assert (len(tips(shapes("ok"))), len(tips(shapes("failed")))) == (60, 30)
    assert "records that wait for their next attempt; they hold no worker" in texts


def test_very_many_attempts_are_drawn_as_sums_and_the_picture_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "MOST_ATTEMPTS", 50)
    run([{"id": n} for n in range(60)], "--timeline", "run.svg", "--workers", "2")
    text = (tmp_path / "run.svg").read_text()
    texts, shapes = drawn(text)
    assert any(words.startswith("Sums: 60 attempts are more than") for words in texts)
    assert tips(shapes("ok")) == []
    assert len(text) < 20_000


def test_nothing_that_ran_is_a_picture_too(run: Run, tmp_path: Path) -> None:
    run(b"", "--timeline", "run.svg")
    texts, _ = drawn((tmp_path / "run.svg").read_text())
    assert "No attempt was made." in texts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.png", "--timeline 'run.png' is not a picture: its name ends in .svg"),
        ("no/run.svg", "--timeline 'no/run.svg' cannot be written: No such file or directory"),
        ("folder.svg", "--timeline 'folder.svg' cannot be written: Is a directory"),
        ("in.svg", "--timeline 'in.svg' is INPUT itself: name another file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_anything_runs(
    name: str, words: str, run: Run, ran: Callable[[], list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "folder.svg").mkdir()
    result = run([{"id": 1}], "--timeline", name, name="in.svg")
    assert (result.status, ran()) == (2, [])
    assert words in result.err


def test_files_are_kept_apart_and_what_one_held_stays_until_the_end(
    run: Run, tmp_path: Path
) -> None:
    same = run([{"id": 1}], "--timeline", "x.svg", "--failures", "x.svg")
    assert same.status == 2
    assert "--failures and --timeline are the same file" in same.err
    assert not (tmp_path / "x.svg").exists()
    (tmp_path / "old.svg").write_text("old")
    refused = run(b"[1]", "--timeline", "old.svg", "--failures", "old.svg")
    assert refused.status == 2
    assert (tmp_path / "old.svg").read_text() == "old"
    run([{"id": 1}], "--timeline", "old.svg")
    assert (tmp_path / "old.svg").read_text().startswith("<svg")


def test_the_command_to_try_again_leaves_the_picture_alone(run: Run) -> None:
    result = run(
        [{"id": 1, "fails": 9}],
        *("--attempts", "1", "--timeline", "run.svg", "--failures", "failed.jsonl"),
    )
    assert "to try again" in result.err
    assert "--timeline" not in result.err


# ---- what is noted


def test_a_record_is_held_from_when_it_asks_or_comes_behind_another_of_its_key() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    timeline.submitted(1, "a")
    timeline.submitted(2, "a")
    timeline.asked(1)
    clock.at = 2.0
    timeline.begun(1, 1)
    clock.at = 3.0
    timeline.finished(1, None)
    timeline.ended(1, "a")
    timeline.asked(2)
    clock.at = 4.0
    timeline.begun(2, 1)
    first, second = timeline.attempts
    assert (first.ready, first.held, first.start, first.end) == (0.0, 0.0, 2.0, 3.0)
    assert (second.held, second.start, second.end) == (0.0, 4.0, None)
    assert (kind_of(first), kind_of(second)) == ("ok", "unknown")
    timeline.submitted(3, "a")
    timeline.ended(2, "a")
    timeline.ended(3, "a")
    timeline.submitted(4, "a")
    timeline.begun(4, 1)
    assert timeline.attempts[-1].held is None


def test_an_attempt_that_runs_at_the_end_is_drawn_as_unknown() -> None:
    timeline = Timeline(clock := Clock())
    timeline.submitted(7, None)
    timeline.begun(7, 1)
    clock.at = 1.0
    texts, shapes = drawn(picture(timeline, "quit"))
    assert "was running at the end" in texts
    assert tips(shapes("unknown")) == ["line 7, attempt 1, after 0 ms, for 1.0 s"]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.001, 300.0), st.floats(0.0, 50.0), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_sums_lose_no_second_however_long_the_run(
    steps: list[tuple[float, float, bool]],
) -> None:
    """Whatever is added when, all of it is found in the bins, of which there are few."""
    timeline = Timeline(clock := Clock())
    spent = {True: 0.0, False: 0.0}
    for number, (pause, seconds, ok) in enumerate(steps):
        clock.at += pause
        timeline.begun(number, 1)
        clock.at += seconds
        timeline.finished(number, None if ok else "E")
        spent[ok] += seconds
    assert len(timeline.bins) <= BINS
    sums = {
        True: sum(sum(b.ok.values()) for b in timeline.bins),
        False: sum(sum(b.failed.values()) for b in timeline.bins),
    }
    assert sums == pytest.approx(spent, abs=1e-6)


# ---- the axis


@settings(deadline=None)
@given(st.floats(1e-5, 1e7))
def test_an_axis_has_a_few_round_marks(seconds: float) -> None:
    step = tick_step(seconds)
    assert 1 <= seconds / step <= 120
    labels = [tick_label(number * step, step) for number in range(int(seconds / step) + 1)]
    assert len(set(labels)) == len(labels)


def test_labels_of_an_axis_have_units() -> None:
    assert [tick_step(s) for s in (0.5, 10.0, 90.0, 600.0, 86400.0)] == [0.05, 1, 10, 60, 21600]
    assert tick_label(0.15, 0.05) == "150 ms"
    assert tick_label(20, 10) == "20 s"
    assert tick_label(180, 60) == "3 min"
    assert tick_label(43200, 21600) == "12 h"


def test_a_picture_has_light_and_dark_colours_and_a_background() -> None:
    drawing = Drawing(200, 'a "title"')
    drawing.text(0, 10, "<&>")
    text = drawing.done()
    assert "prefers-color-scheme: dark" in text
    assert '<rect class="back" width="200" height="24"/>' in text
    assert "&lt;&amp;&gt;" in text
    assert "aria-label='a \"title\"'" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_picture_that_cannot_be_written_at_the_end_is_said_and_costs_no_record(
    run: Run, ran: Callable[[], list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "full.svg").symlink_to("/dev/full")
    result = run([{"id": 1}], "--timeline", "full.svg")
    assert (result.status, len(ran())) == (1, 1)
    assert "retryexec: full.svg: " in result.err
    assert "1 record in" in result.out


def test_a_file_that_a_refused_run_would_have_made_is_not_left_behind(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "failed.jsonl").mkdir()
    result = run([{"id": 1}], "--timeline", "new.svg", "--failures", "failed.jsonl")
    assert result.status == 2
    assert not (tmp_path / "new.svg").exists()


def test_a_legend_goes_on_in_a_new_line() -> None:
    drawing = Drawing(200, "narrow")
    assert drawing.legend(0, 10, [("ok", "succeeded"), ("wait", "waits for the next")]) == 36
