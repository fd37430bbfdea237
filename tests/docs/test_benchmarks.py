"""Every benchmark runs, and prints its rows. What the figures are is no matter of tests."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "benchmarks"
NO_BENCHMARKS = {"harness", "peers", "plots", "report"}
BENCHMARKS = sorted({path.stem for path in HERE.glob("*.py")} - NO_BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_alone_and_prints_its_rows(name: str) -> None:
    if name == "memory" and not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    command = [sys.executable, str(HERE / f"{name}.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout.partition("\n\n")[0]  # a benchmark answers a question
    rows = [line for line in done.stdout.splitlines() if line.startswith("| retryexec")]
    assert rows
    assert all(4 <= line.count("|") <= 7 for line in rows)  # no column is empty
    assert "\n\n" in done.stdout.rpartition(".\n")[0]  # and it ends with an answer


def test_the_report_runs_them_all() -> None:
    report = (HERE / "report.py").read_text(encoding="utf-8")
    assert BENCHMARKS
    assert [name for name in BENCHMARKS if f'"{name}",' not in report] == []
