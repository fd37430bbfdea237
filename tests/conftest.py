"""For all tests: nothing outlives a test, and slow ones run only when asked for."""

import pytest
from helpers import leaks
from helpers.progress import FileLines
from helpers.slow import SlowTests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow(reason): left out unless pytest is told --slow")
    config.pluginmanager.register(leaks)
    config.pluginmanager.register(SlowTests(config))
    if config.option.verbose < 0 and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FileLines(config))
