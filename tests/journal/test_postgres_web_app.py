"""The web app and the worker of docs/postgres.md: users and their welcomes, both or neither."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from helpers.postgres import Server
from helpers.served import EXAMPLES, wait_for

FOLDER = EXAMPLES / "postgres_web_app"


class App:
    """The app, its worker and their database."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.socket = socket.create_server(("127.0.0.1", 0))

    def query(self, text: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            done = connection.execute(text.encode())
            return done.fetchall() if done.description is not None else []

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=FOLDER,
                env={**os.environ, "DATABASE_URL": self.url},
                pass_fds=[self.socket.fileno()],
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)

    def sign_up(self, email: str) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection(*self.socket.getsockname(), timeout=20)) as http_:
            body = json.dumps({"email": email})
            http_.request("POST", "/users", body, {"Content-Type": "application/json"})
            answer = http_.getresponse()
            return answer.status, json.loads(answer.read())


@pytest.fixture
def app(server: Server, tmp_path: Path) -> Iterator[App]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE example")
    made = App(server.url.replace("/postgres?", "/example?"), tmp_path / "log")
    made.query("CREATE TABLE users(email text PRIMARY KEY)")
    made.query("CREATE TABLE welcome(id text PRIMARY KEY, email text)")
    with made.socket:
        yield made
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE example WITH (FORCE)")


def test_each_user_gets_one_welcome(app: App) -> None:
    serve = ("-m", "uvicorn", "app:app", "--fd", str(app.socket.fileno()))
    with ExitStack() as stack:
        stack.enter_context(app.running(*serve))
        first = stack.enter_context(app.running("worker.py"))
        stack.enter_context(app.running("worker.py"))
        ids = set()
        for n in range(20):
            status, answer = app.sign_up(f"{n}@example.com")
            assert status == 201, app.log.read_text()
            ids.add(answer["job_id"])
            assert app.sign_up(f"{n}@example.com")[0] == 409
            if n == 10:
                first.send_signal(signal.SIGTERM)
        wait_for(lambda: len(app.query("SELECT FROM welcome")) == 20)
        assert first.wait(30) == 0, app.log.read_text()
    assert {name for (name,) in app.query("SELECT id FROM welcome")} == ids
    assert app.query("SELECT count(*) FROM users") == [(20,)]
