"""The main job: save 2,000 records into a database that is locked again and again.

A nightly report, a process of its own, keeps taking exclusive locks on the database into which
`retryexec run` saves the records. Nothing is simulated: the errors are SQLite's own.

python main_job.py [INPUT [DATABASE]]
"""

import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from retryexec.cli import main as retryexec

HERE = Path(__file__).parent


def main(records: Path, database: Path) -> int:
    create_table(database)
    os.environ["ACTIVITY_DB"] = str(database)
    parts = [
        f"run {short(HERE / 'activity.py')}:UserActivitySaver",
        f"{short(records)} --workers 8",
        "--retry-on sqlite3.OperationalError --attempts none",
        "--backoff exponential:initial=0.05,max=0.5",
    ]
    with nightly_report(database):
        print("$ retryexec", " \\\n      ".join(parts), flush=True)
        retryexec(shlex.split(" ".join(parts)))
    # Read back from the database: what counts is what is really there.
    with closing(sqlite3.connect(database)) as connection:
        (saved,) = connection.execute("SELECT count(*) FROM activity").fetchone()
    with records.open(encoding="utf-8") as lines:
        expected = sum(1 for _ in lines)
    print(f"saved {saved} of {expected} records to {short(database)}")
    return 0 if saved == expected else 1


def short(path: Path) -> str:
    """Return *path* from the current directory, if it is below that, as a shell takes it."""
    below = path.resolve().is_relative_to(Path.cwd())
    return shlex.quote(os.path.relpath(path) if below else str(path))


def create_table(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE IF EXISTS activity")
        connection.execute(
            "CREATE TABLE activity (id INTEGER PRIMARY KEY, user_email, activity, at, ip)"
        )


@contextmanager
def nightly_report(database: Path) -> Generator[None]:
    command = [sys.executable, str(HERE / "nightly_report.py"), str(database)]
    # In a session of its own, Ctrl-C is for this process alone.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as report:
        try:
            if report.stdout:  # its first line: it holds its first lock
                print(report.stdout.readline().decode(), end="")
            yield
        finally:
            report.terminate()


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    defaults = [HERE / "activity.jsonl", HERE / "activity.db"]
    sys.exit(main(*arguments, *defaults[len(arguments) :]))
