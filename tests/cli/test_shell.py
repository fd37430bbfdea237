"""Paths and commands that people are told to type."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import Result

from retryexec.cli.shell import folded, short, with_short_paths


def test_paths_below_the_current_directory_are_told_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "a" / "jobs.py:Save") == "a/jobs.py:Save"
    assert short("/elsewhere/a") == "/elsewhere/a"
    assert short("package.jobs:Save") == "package.jobs:Save"
    assert with_short_paths(f"{tmp_path}/a.db is damaged, {tmp_path}/b, too") == (
        "a.db is damaged, b, too"
    )
    monkeypatch.chdir("/")
    assert with_short_paths("/a and /b") == "/a and /b"


def test_a_run_tells_of_its_files_from_the_current_directory(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run(
        [{"id": 1, "fails": 9}, {"id": "x"}],
        *("--attempts", "1", "--failures", tmp_path / "failed.jsonl"),
        target=f"{tmp_path}/jobs.py:Save",
    )
    assert "to try again: retryexec run jobs.py:Save failed.jsonl" in result.err
    assert str(tmp_path) not in result.err


@pytest.mark.parametrize("width", [30, 60, 80])
def test_a_command_is_folded_between_its_options(width: int) -> None:
    units = ["retryexec run a.py:B c.jsonl", "--workers 8", "--attempts none", "--backoff 1,2,3"]
    lines = folded(units, width).splitlines()
    assert "".join(line.rstrip("\\").strip() + " " for line in lines).split() == (
        " ".join(units).split()
    )
    assert max(map(len, lines)) <= max(width, 32)
    assert folded(units, None) == " ".join(units)
