"""The examples do what they say."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def python(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_the_records_are_varied() -> None:
    lines = (EXAMPLES / "activity.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["id"] for record in records}) == 2000
    assert len({record["user_email"] for record in records}) > 100
    assert len({record["activity"] for record in records}) > 100


def test_the_main_job_saves_every_record_of_a_locked_database(tmp_path: Path) -> None:
    with (EXAMPLES / "activity.jsonl").open("rb") as lines:
        head = [next(lines) for _ in range(300)]
    (tmp_path / "in.jsonl").write_bytes(b"".join(head))
    database = tmp_path / "activity.db"
    for _ in range(2):  # what an earlier run has left is in nobody's way
        done = python(EXAMPLES / "main_job.py", tmp_path / "in.jsonl", database)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"saved 300 of 300 records to {database}"
        assert "sqlite3.OperationalError: database is locked" in done.stdout
    with closing(sqlite3.connect(database)) as connection:
        saved = connection.execute("SELECT id, user_email, activity, at, ip FROM activity")
        ids = {row[0]: row[1:] for row in saved}
    first = json.loads(head[0])
    assert ids[first["id"]][:2] == (first["user_email"], first["activity"])


def test_the_main_job_fails_if_a_record_is_not_saved(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n')
    done = python(EXAMPLES / "main_job.py", tmp_path / "in.jsonl", tmp_path / "activity.db")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("saved 0 of 1 records to ")


def test_fetch_waits_as_long_as_the_server_says() -> None:
    done = python(EXAMPLES / "fetch.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "/news     attempts: 2  all about news",
        "/weather  attempts: 2  all about weather",
        "/missing  attempts: 1  gave up: HTTP Error 404: Not Found",
        "/sports   attempts: 2  all about sports",
    ]
