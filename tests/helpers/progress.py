"""What `pytest -q` prints here instead of dots: a line for each file, once all its tests have run.

It works in one process and under pytest-xdist, where the tests of a file run in several.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable
from typing import Any

import pytest


class FileLines:
    """Counts tests by file, in the process that prints."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._left: Counter[str] = Counter()
        self._of: Counter[str] = Counter()
        self._failed: dict[str, set[str]] = defaultdict(set)
        self._began = time.monotonic()
        self._finished = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        del node  # each of them finds the same tests
        self._expect(ids)

    def _expect(self, tests: Iterable[str]) -> None:
        self._of = Counter(file_of(test) for test in tests)
        self._left = self._of.copy()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        category, letter, word = yield
        # While tests run, a result is only counted; the summary at the end takes its words.
        return (category, letter, word) if self._finished else (category, "", "")

    def pytest_sessionfinish(self) -> None:
        self._finished = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = file_of(report.nodeid)
        if report.failed:
            self._failed[file].add(report.nodeid)
            self._print(f"FAILED {report.nodeid}", red=True)
        if report.when == "teardown":
            self._left[file] -= 1
            if not self._left[file]:
                self._tell_of(file)

    def _tell_of(self, file: str) -> None:
        percent = 100 - 100 * self._left.total() // self._of.total()
        seconds = time.monotonic() - self._began
        failed = len(self._failed[file])
        result = f"{failed} of {self._of[file]} FAILED" if failed else f"{self._of[file]:4d} tests"
        self._print(f"{percent:3d} %  {seconds:4.0f} s  {result}  {file}", red=failed > 0)

    def _print(self, line: str, *, red: bool) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        reporter.ensure_newline()
        reporter.write_line(line, red=red)


def file_of(test: str) -> str:
    return test.partition("::")[0]
