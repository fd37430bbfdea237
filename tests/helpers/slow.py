"""Leaves out tests marked `slow("why")`, and counts them, unless pytest is told `--slow`."""

from __future__ import annotations

from typing import Any

import pytest


class SlowTests:
    """Leaves the slow tests out; under pytest-xdist its workers do, and tell how many."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._left_out = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        slow = [item for item in items if item.get_closest_marker("slow")]
        for item in slow:
            if not next(item.iter_markers("slow")).args:
                msg = f'{item.nodeid}: slow takes a reason: @pytest.mark.slow("why")'
                raise pytest.UsageError(msg)
        if self._config.option.slow or not slow:
            return
        items[:] = [item for item in items if item not in slow]
        self._config.hook.pytest_deselected(items=slow)
        self._left_out = len(slow)

    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["slow"] = self._left_out

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._left_out = max(self._left_out, getattr(node, "workeroutput", {}).get("slow", 0))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._left_out:
            tests = "1 slow test" if self._left_out == 1 else f"{self._left_out} slow tests"
            told = f"{tests} left out; --slow runs them, as `make test-all` does"
            terminalreporter.write_line(told, yellow=True)
