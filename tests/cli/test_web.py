"""``retryexec web``: who may reach it, and how it ends."""

import base64
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Result
from helpers.letters import letter, write_letters

Command = Callable[..., Result]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    write_letters(path, [letter(1)])
    return path


@contextmanager
def served(place: Path, *options: str, **settings: Any) -> Iterator[tuple[Any, str]]:
    """Run the command, and yield its process and its address."""
    command = [sys.executable, "-m", "retryexec", "web", str(place), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert " shows " in line, line
            yield process, line.split()[1]
        finally:
            process.kill()


_request = urllib.request.Request
open_url = urllib.request.build_opener(urllib.request.HTTPHandler).open


def ask(address: str, **headers: str) -> tuple[int, str]:
    try:
        with open_url(_request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_page_is_served_to_this_machine_until_ctrl_c(place: Path) -> None:
    with served(place) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert ask(f"{address}dead")[0] == 200
        assert ask(address, host="evil.example")[0] == 421
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_what_is_done_from_the_page_is_logged(place: Path) -> None:
    with served(place) as (process, address):
        with open_url(address) as answer:
            cookie = answer.headers["set-cookie"].partition(";")[0]
        word = cookie.partition("=")[2]
        form = f"token={word}&verb=discard&id={1:032x}&back=/".encode()
        request = _request(f"{address}do", form, {"cookie": cookie})
        with open_url(request) as answer:
            assert answer.status == 200
        assert process.stderr is not None
        assert "retryexec.web: discard by 127.0.0.1: 1 of 1 jobs" in process.stderr.readline()


def test_the_password_of_a_file_is_asked_for(place: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim\n")
    with served(place, "--password-file", str(secret), "--read-only") as (_, address):
        assert ask(address)[0] == 401
        basic = base64.b64encode(b"ana:geheim").decode()
        status, page = ask(address, authorization=f"Basic {basic}")
        assert (status, "read only" in page) == (200, True)


def test_others_are_not_let_in_without_a_password(place: Path, command: Command) -> None:
    for host in ("0.0.0.0", "::", "myhost.example"):  # noqa: S104
        result = command("web", place, "--host", host)
        assert result.status == 2
        assert "others can reach the page, and there is no terminal to ask" in result.err


def test_with_a_password_others_are_let_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRYEXEC_WEB_PASSWORD", "geheim")
    with served(place, "--host", "0.0.0.0") as (_, address):  # noqa: S104
        port = address.rpartition(":")[2]
        assert ask(f"http://127.0.0.1:{port}")[0] == 401


def test_a_port_that_is_in_use_is_named(place: Path, command: Command) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        result = command("web", place, "--port", port)
    assert result.status == 2
    assert f"127.0.0.1, port {port}, cannot be listened to" in result.err
    assert "--port 0 takes any that is free" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "70000"], "--port takes a number from 0 to 65535"),
        (["--class", "mail"], "--class takes KIND=TARGET"),
        (["--class", "mail=nowhere.py:Mail"], "there is no file 'nowhere.py'"),
        (["--redact", "nowhere.py:f"], "there is no file 'nowhere.py'"),
        (["--password-file", "/nowhere"], "cannot be read"),
        (["--password-file", "/dev/null"], "is empty: it has to hold the password"),
        (["--pasword-file", "x"], "did you mean '--password-file'?"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_anything_listens(
    place: Path, command: Command, options: list[str], words: str
) -> None:
    result = command("web", place, *options)
    assert (result.status, words in result.err) == (2, True), result.err


def test_a_journal_that_is_not_there_is_named(tmp_path: Path, command: Command) -> None:
    result = command("web", tmp_path / "nowhere")
    assert (result.status, "there is no directory" in result.err) == (2, True)
