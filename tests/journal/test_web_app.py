"""The web app of docs/journal.md, under gunicorn: what it said yes to is saved, once."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from retryexec.journal import Inspector

APP = Path(__file__).parents[2] / "docs" / "examples" / "journal_web_app"


class Site:
    """The app, served by two workers, and what it saves to."""

    def __init__(self, place: Path) -> None:
        self.journal, self.database = place / "journal", place / "activity.db"
        with closing(sqlite3.connect(self.database)) as database:
            database.execute("CREATE TABLE activity(id TEXT PRIMARY KEY, user_email, activity)")
        # Listens before gunicorn does, so that nobody has to wait for that.
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.log = place / "gunicorn.log"

    @contextmanager
    def served(self, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
        command = [sys.executable, "-m", "gunicorn", "--config", "gunicorn_conf.py", *options]
        command += ["--workers", "2", "--bind", f"fd://{self.socket.fileno()}", "saves:app"]
        places = {"SAVES_JOURNAL": self.journal, "SAVES_DATABASE": self.database}
        places["HOME"] = self.log.parent  # where gunicorn puts a socket of its own
        with (
            self.log.open("ab") as log,
            subprocess.Popen(
                command,
                cwd=APP,
                env=os.environ | {name: str(path) for name, path in places.items()},
                pass_fds=[self.socket.fileno()],
                start_new_session=True,
                stdout=log,
                stderr=log,
            ) as master,
        ):
            try:
                yield master
            finally:
                if master.poll() is None:
                    os.killpg(master.pid, signal.SIGKILL)

    def ask(self, method: str, body: Any = None) -> tuple[int, Any]:
        address = self.socket.getsockname()
        with closing(http.client.HTTPConnection(*address, timeout=20)) as connection:
            connection.request(method, "/", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def save(self, numbers: range) -> list[str]:
        """Have an activity saved for each of *numbers*, and return the ids of the jobs."""
        bodies = [{"user_email": f"{n}@example.com", "activity": "Login"} for n in numbers]
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(self.ask, ["POST"] * len(bodies), bodies))
        assert {status for status, _ in answers} == {202}, self.log.read_text()
        return [answer["id"] for _, answer in answers]

    def a_worker_with_saves(self) -> int:
        def its_pid() -> int:
            _, health = self.ask("GET")
            return int(health["pid"]) if health["unfinished"] else 0

        return int(wait_for(its_pid))

    def saved(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return list(database.execute("SELECT id, user_email FROM activity"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While this lasts, no save succeeds."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            yield

    def unfinished(self) -> int:
        return Inspector(self.journal).stats().unfinished


def wait_for(found: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)
    return value


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.socket:
        yield site


@pytest.mark.parametrize("options", [[], ["--preload"], ["--threads", "4"]], ids=" ".join)
def test_saves_survive_a_killed_worker(site: Site, options: list[str]) -> None:
    with site.served(*options) as master:
        with site.locked():
            ids = site.save(range(40))
            os.kill(site.a_worker_with_saves(), signal.SIGKILL)
            ids += site.save(range(40, 60))  # by the other one, and by the one that follows
            assert site.unfinished() == 60
        wait_for(lambda: len(site.saved()) == 60 and site.unfinished() == 0)
        master.terminate()
        assert master.wait(30) == 0, site.log.read_text()
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())
    assert {email for _, email in site.saved()} == {f"{n}@example.com" for n in range(60)}
    assert list(site.journal.iterdir()) == []


def test_saves_survive_the_end_of_all_processes(site: Site) -> None:
    with site.locked(), site.served() as master:
        ids = site.save(range(20))
        os.killpg(master.pid, signal.SIGKILL)
    assert (len(ids), site.saved(), site.unfinished()) == (20, [], 20)
    with site.served() as master:
        wait_for(lambda: len(site.saved()) == 20 and site.unfinished() == 0)
        master.terminate()
        assert master.wait(30) == 0, site.log.read_text()
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())


def test_a_deploy_leaves_to_the_next_what_takes_longer(site: Site) -> None:
    with site.locked():
        with site.served() as master:
            ids = site.save(range(20))
            master.terminate()
            assert master.wait(30) == 0, site.log.read_text()
        assert site.unfinished() == 20
    with site.served():
        wait_for(lambda: len(site.saved()) == 20 and site.unfinished() == 0)
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())


def test_what_cannot_be_kept_is_not_accepted(site: Site) -> None:
    with site.served():
        status, answer = site.ask("POST", {"user_email": "john@example.com", "activity": 12})
        assert (status, "activity" in answer["error"]) == (400, True)
        assert site.ask("POST", {"surname": "Doe"})[0] == 400
        status, health = site.ask("GET")
        assert (status, health["unfinished"], health["healthy"]) == (200, 0, True)
