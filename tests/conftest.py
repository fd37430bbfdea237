"""For all tests: no leaks, slow tests only when asked for, a clock, and a server."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest
from helpers import leaks
from helpers.chromium import MissingBrowser, chromium
from helpers.postgres import MissingServer, Schema, Server, pooler, programs, serving
from helpers.progress import FileLines
from helpers.slow import SlowTests

from retryexec.testing import VirtualClock


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow(reason): left out unless pytest is told --slow")
    config.pluginmanager.register(leaks)
    config.pluginmanager.register(SlowTests(config))
    if config.option.verbose < 0 and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FileLines(config))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install what is missing before the first test, whose time would not be enough for that."""
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    needs = (({"server", "frail"}, programs), ({"pool"}, pooler), ({"chrome"}, chromium))
    for fixtures, install in needs:
        if fixtures & wanted:
            with suppress(MissingServer, MissingBrowser):  # the fixture says it
                install()


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that the test moves."""
    return VirtualClock()


_numbers = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server, one for all tests of this process that want one."""
    with serving() as running:
        yield running


@pytest.fixture
def schema(server: Server) -> Iterator[Schema]:
    """A schema of its own for this test."""
    made = Schema(server.url, f"test {next(_numbers)}")
    yield made
    made.drop()
