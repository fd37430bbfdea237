"""A web app of docs/examples, run by its real server, and what it saves to."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from retryexec.journal import Inspector

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class Site:
    """The app in a folder of the examples, served on a free port of this machine.

    *command* is what follows ``python -m``; in it, ``FD`` stands for the number of the socket.
    """

    def __init__(self, place: Path, folder: str, command: Sequence[str]) -> None:
        self.folder, self.command = EXAMPLES / folder, command
        self.journal, self.database = place / "journal", place / "activity.db"
        with closing(sqlite3.connect(self.database)) as database:
            database.execute("CREATE TABLE activity(id TEXT PRIMARY KEY, user_email, activity)")
        # Listens before the server does, so that nobody has to wait for that.
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.log = place / "server.log"

    @contextmanager
    def served(self, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run the server meanwhile, and kill it in the end if it has not ended by itself."""
        command = [part.replace("FD", str(self.socket.fileno())) for part in self.command]
        places = {"SAVES_JOURNAL": self.journal, "SAVES_DATABASE": self.database}
        places["HOME"] = self.log.parent  # where gunicorn puts a socket of its own
        with (
            self.log.open("ab") as log,
            subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                cwd=self.folder,
                env=os.environ | {name: str(path) for name, path in places.items()},
                pass_fds=[self.socket.fileno()],
                start_new_session=True,
                stdout=log,
                stderr=log,
            ) as server,
        ):
            try:
                yield server
            finally:
                if server.poll() is None:
                    os.killpg(server.pid, signal.SIGKILL)

    def end(self, server: "subprocess.Popen[bytes]") -> None:
        """End *server* as a deploy does, and wait until it has."""
        server.terminate()
        # uvicorn ends by the signal that it was sent, once it has done what there was to do.
        assert server.wait(30) in (0, -signal.SIGTERM), self.log.read_text()

    def ask(self, method: str, body: Any = None) -> tuple[int, Any]:
        address = self.socket.getsockname()
        headers = {} if body is None else {"Content-Type": "application/json"}
        with closing(http.client.HTTPConnection(*address, timeout=20)) as connection:
            text = body if isinstance(body, (str, type(None))) else json.dumps(body)
            connection.request(method, "/", text, headers)
            answer = connection.getresponse()
            said = answer.read()
            is_json = "json" in answer.getheader("Content-Type", "")
            return answer.status, json.loads(said) if is_json else said

    def save(self, numbers: range) -> list[str]:
        """Have an activity saved for each of *numbers*, and return the ids of the jobs."""
        bodies = [{"user_email": f"{n}@example.com", "activity": "Login"} for n in numbers]
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(self.ask, ["POST"] * len(bodies), bodies))
        assert {status for status, _ in answers} == {202}, self.log.read_text()
        return [answer["id"] for _, answer in answers]

    def saved(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return list(database.execute("SELECT id, user_email FROM activity"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While this lasts, no save succeeds."""
        with locked(self.database, "EXCLUSIVE"):
            yield

    def unfinished(self) -> int:
        return Inspector(self.journal).stats().unfinished


@contextmanager
def locked(file: Path, how: str) -> Iterator[None]:
    """Keep *file*, a database of SQLite, locked meanwhile."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(f"BEGIN {how}")
        yield


def wait_for(found: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)
    return value
