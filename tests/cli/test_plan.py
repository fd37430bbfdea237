"""``retryexec plan``: a backoff to look at."""

import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from helpers.command import Result

from retryexec.cli.plan import Plan, simulate

Command = Callable[..., Result]
PNG = b"\x89PNG\r\n\x1a\n"


def rows(result: Result) -> list[list[str]]:
    """Return the cells of the table, attempt by attempt."""
    lines = [line.split() for line in result.out.splitlines()]
    return [line for line in lines if line and line[0].isdigit()]


def test_a_plan_without_chance_is_exact(command: Command) -> None:
    result = command("plan", "0.1,1,10")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("0.1,1,10: exact, nothing in it is left to chance")
    assert rows(result) == [
        ["1", "0.000", "0.000"],
        ["2", "0.100", "0.100"],
        ["3", "1.000", "1.100"],
        ["4", "10.000", "11.100"],
    ]
    assert result.out.endswith("\nThe backoff ends here: attempt 4 is the last.\n")


def test_attempts_are_as_many_as_asked_for(command: Command) -> None:
    assert len(rows(command("plan", "constant:0.5", "--attempts", 4))) == 4
    assert len(rows(command("plan", "zero"))) == 10
    assert rows(command("plan", "exponential", "--attempts", 1)) == [["1", "0.000", "0.000"]]


def test_chance_is_simulated_with_a_seed_and_told(command: Command) -> None:
    result = command("plan", "full-jitter:base=1,multiplier=1", "--attempts", 3, "--seed", 7)
    assert "10,000 simulated runs (seed 7)" in result.out
    first, second, third = rows(result)
    assert first[-1] == second[-1] == "100%"
    median, low, high = (float(cell) for cell in second[1:4])
    assert (median, low, high) == pytest.approx((0.5, 0.05, 0.95), abs=0.03)
    # The sum of two uniform draws: its percentiles are where a triangle has them.
    median, low, high = (float(cell) for cell in third[4:7])
    assert (median, low, high) == pytest.approx((1.0, 0.316, 1.684), abs=0.03)
    assert command("plan", "full-jitter:base=1,multiplier=1", "--attempts", 3, "--seed", 7) == (
        result
    )
    assert command("plan", "full-jitter:base=1,multiplier=1", "--attempts", 3).out != result.out


def test_the_documentation_shows_what_is_printed(command: Command) -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    result = command("plan", "exponential", "--attempts", 4, "--max-elapsed", 5)
    assert f"--attempts 4 --max-elapsed 5\n{result.out}```" in page.read_text(encoding="utf-8")


def test_no_attempt_is_later_than_max_elapsed(command: Command) -> None:
    result = command("plan", "constant:0.1", "--max-elapsed", "300ms")
    assert [row[0] for row in rows(result)] == ["1", "2", "3", "4"]  # exactly at the limit counts
    assert result.out.endswith("\nNo attempt starts later than 0.3 s after the first.\n")
    result = command("plan", "exponential", "--max-elapsed", 2)
    last = rows(result)[-1]
    assert float(last[6]) <= 2.0  # the 95th percentile of its start
    assert int(last[-1].removesuffix("%")) < 100  # not all runs get there


def test_runs_get_fewer_where_attempts_get_many() -> None:
    assert simulate("equal-jitter", attempts=1000).runs == 1000
    assert simulate("exponential:rand=0", attempts=1000).exact


def test_more_attempts_than_anybody_looks_at(command: Command) -> None:
    result = command("plan", "zero", "--attempts", 1001)
    assert result.status == 2
    assert result.err == (
        "retryexec: error: --attempts 1001 is too much to look at: 1000 at most\n"
    )


@pytest.mark.parametrize("name", ["plan.svg", "plan.PNG"])
@pytest.mark.parametrize("options", [(), ("--max-elapsed", "2"), ("--max-elapsed", "1h")])
def test_a_plan_is_drawn(
    name: str, options: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    result = command("plan", "exponential", "--attempts", 6, "--plot", tmp_path / name, *options)
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith(f"drawn into {tmp_path / name}\n")
    data = (tmp_path / name).read_bytes()
    if name.endswith(".PNG"):
        assert data.startswith(PNG)
        return
    texts = [node.text for node in ET.fromstring(data).iter() if node.text]  # noqa: S314  our own
    assert "retryexec plan exponential" in texts
    assert "attempt" in texts
    assert ("--max-elapsed 2 s" in texts) == (options == ("--max-elapsed", "2"))


@pytest.mark.parametrize(
    ("spec", "attempts"), [("constant:1", 1), ("constant:1", 100), ("none", 5), ("zero", 3)]
)
def test_odd_plans_are_drawn_too(
    spec: str, attempts: int, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "plan.svg"
    assert command("plan", spec, "--attempts", attempts, "--plot", file).err == ""
    again = file.read_bytes()
    command("plan", spec, "--attempts", attempts, "--plot", file)
    assert file.read_bytes() == again  # fit for version control


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plan.gif", "--plot 'plan.gif' is not a picture: its name ends in .svg or .png"),
        ("plan", "--plot 'plan' is not a picture"),
        ("no/where.svg", "--plot 'no/where.svg' cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_into(
    name: str, said: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("plan", "zero", "--plot", name)
    assert (result.status, result.out) == (2, "")
    assert said in result.err


def test_without_the_extra_a_plot_says_what_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = command("plan", "zero", "--plot", "plan.svg")
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "retryexec: error: plan --plot needs matplotlib, which is an extra: "
        'pip install "retryexec[plot]"\n'
    )


def test_percentiles_of_what_is_known() -> None:
    plan = simulate("linear:1,1", attempts=4)
    assert isinstance(plan, Plan)
    assert [step.start.median for step in plan.steps] == [0, 1, 3, 6]
    assert [step.delay.high for step in plan.steps] == [0, 1, 2, 3]
