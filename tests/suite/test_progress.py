"""What `pytest -q` prints here: a line a file, each failure at once, and the number left out."""

from pathlib import Path

import pytest
from helpers import TESTS

FIRST = """
import pytest

@pytest.fixture
def broken():
    yield
    raise LookupError

def test_passes(): pass

@pytest.mark.slow("sleeps")
def test_slow(): pass

def test_fails(broken): assert False

@pytest.mark.skip(reason="not here")
def test_skipped(): pass
"""
SECOND = """
import pytest

@pytest.fixture
def broken():
    yield
    raise LookupError

@pytest.mark.parametrize("n", range(3))
def test_passes(n): pass

def test_ends_badly(broken): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Two files of tests, below our own conftest."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    pytester.makeconftest(Path(TESTS, "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_first=FIRST, test_second=SECOND)
    return pytester


FILES = [
    "FAILED test_first.py::test_fails",
    "FAILED test_first.py::test_fails",
    "1 of 3 FAILED  test_first.py",
    "FAILED test_second.py::test_ends_badly",
    "1 of 4 FAILED  test_second.py",
]
LEFT_OUT = "1 slow test left out; --slow runs them, as `make test-all` does"


def run(suite: pytest.Pytester, *options: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-q", "-p", "no:cacheprovider", *options)


def file_lines(result: pytest.RunResult) -> list[str]:
    """Return what was printed before the report of failures, without shares and times."""
    printed = result.outlines[: result.outlines.index("")]
    return [line.split(" s  ")[-1].strip() for line in printed]


def test_a_line_for_each_file_and_each_failure(suite: pytest.Pytester) -> None:
    result = run(suite)
    assert file_lines(result) == FILES
    assert LEFT_OUT in result.outlines
    assert "FAILED test_first.py::test_fails - assert False" in result.outlines


def test_the_same_lines_come_from_two_processes(suite: pytest.Pytester) -> None:
    result = run(suite, "-n", "2")
    assert set(FILES) <= {line.split(" s  ")[-1] for line in result.outlines}
    assert LEFT_OUT in result.outlines


def test_slow_tests_run_when_asked_for(suite: pytest.Pytester) -> None:
    result = run(suite, "--slow")
    assert "1 of 4 FAILED  test_first.py" in file_lines(result)
    assert LEFT_OUT not in result.outlines


def test_slow_takes_a_reason(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_third="import pytest\n@pytest.mark.slow\ndef test_why(): pass\n")
    result = run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_third.py::test_why: slow takes a reason*"])
