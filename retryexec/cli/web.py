"""``retryexec web``: serve the page of a journal, to this machine unless it is told otherwise."""

import errno
import getpass
import ipaddress
import logging
import os
import socket
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from retryexec.cli.options import Parser, UsageError
from retryexec.cli.output import clean, say

_PORT = 8642
_PASSWORD = "RETRYEXEC_WEB_PASSWORD"  # noqa: S105  the name of a variable
_EXAMPLES = f"""\
examples:
  retryexec web var/saves
  retryexec web var/saves --read-only --redact myapp.jobs:redact
  retryexec web postgresql://app@db.example.net/app --class user_saved=jobs.py:SaveUser
  retryexec web var/saves --host 0.0.0.0 --password-file /run/secrets/web

  Dead letters can be rerun, edited and discarded while the journal is in use. The password is
  asked for on the terminal, or read from {_PASSWORD} or a file.
"""


def add_web(commands: Any) -> Parser:
    """Add ``retryexec web`` to *commands*, and return its parser."""
    made: Parser = commands.add_parser(
        "web",
        help="serve a page of what runs, waits and died",
        description="Serve a page of the journal in WHERE: what runs, waits and died.",
        epilog=_EXAMPLES,
    )
    add = made.add_argument
    add("directory", metavar="WHERE", help="the directory, or the URL, of a Journal(...)")
    add(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="where to listen; for anything but this machine, a password is needed "
        "(default: 127.0.0.1)",
    )
    add(
        "--port",
        type=_port,
        metavar="N",
        default=_PORT,
        help=f"0 for any that is free (default: {_PORT})",
    )
    add("--read-only", action="store_true", help="let nothing be changed from the page")
    add(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"ask for the password that is in FILE (or in {_PASSWORD})",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer also to this name, as a proxy passes it on; can be given several times",
    )
    add(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="KIND=TARGET",
        help="the class of a kind, as user_saved=file.py:Class, so that fields can be edited; can "
        "be given several times",
    )
    add(
        "--redact",
        metavar="MODULE:FUNCTION",
        help="module:function or file.py:function, called with a kind and its fields: returns "
        "the fields to be shown",
    )
    add("--schema", metavar="NAME", default="retryexec", help="of a journal on PostgreSQL")
    return made


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        msg = f"--port takes a number from 0 to 65535 (got {text!r})"
        raise UsageError(msg)
    return int(text)


def web(arguments: Namespace) -> int:
    """Serve the page until it is interrupted; return the exit status.

    Raises:
        UsageError: it cannot be served so, and nothing listens.
    """
    import uvicorn

    from retryexec.cli.target import load_function
    from retryexec.journal import JournalError
    from retryexec.web import app

    local = _is_loopback(arguments.host)
    password = _password(arguments.password_file)
    if password is None and not local:
        password = _asked(arguments.host)
    allowed = list(arguments.allow_host)
    if local:
        allowed.append("localhost")
    try:
        page = app(
            arguments.directory,
            jobs=_classes(arguments.classes),
            redact=load_function(arguments.redact) if arguments.redact else None,
            read_only=arguments.read_only,
            password=password,
            allowed_hosts=allowed or None,
            schema=arguments.schema,
        )
    except (JournalError, ImportError) as error:
        raise UsageError(str(error)) from error
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("retryexec.web").setLevel(logging.INFO)
    config = uvicorn.Config(
        page, log_level="warning", server_header=False, timeout_graceful_shutdown=3
    )
    with _listening(arguments.host, arguments.port) as listening:
        say(f"retryexec: {_address(listening)} shows {clean(_shown(arguments.directory))}")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            return 0  # the way to end it
    return 0


def _shown(where: str) -> str:
    """Return *where*, a URL without its password."""
    scheme, separator, rest = where.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}@{place}" if separator and at else where


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name may be any address


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(_PASSWORD) or None
    try:
        found = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--password-file {clean(str(file))!r} cannot be read: {error}"
        raise UsageError(msg) from error
    if not found:
        msg = f"--password-file {clean(str(file))!r} is empty: it has to hold the password"
        raise UsageError(msg)
    return found


def _asked(host: str) -> str:
    if not sys.stdin.isatty():
        msg = (
            f"on {host!r} others can reach the page, and there is no terminal to ask for a "
            f"password: set {_PASSWORD}, name a --password-file, or leave --host at 127.0.0.1"
        )
        raise UsageError(msg)
    found = getpass.getpass(f"A password for the page, which others can reach on {host}: ")
    if not found:
        msg = f"on {host!r} others can reach the page: it needs a password"
        raise UsageError(msg)
    return found


def _classes(words: "list[str]") -> "dict[str, type]":
    from retryexec.cli.target import load

    found: dict[str, type] = {}
    for word in words:
        kind, equals, target = word.partition("=")
        if not equals or not kind or not target:
            msg = f"--class takes KIND=TARGET, as user_saved=file.py:Class (got {word!r})"
            raise UsageError(msg)
        found[kind] = load(target)
    return found


def _listening(host: str, port: int) -> socket.socket:
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        return socket.create_server((name, port), family=family, backlog=128)
    except OSError as error:
        hint = "; --port 0 takes any that is free" if error.errno == errno.EADDRINUSE else ""
        msg = f"{host}, port {port}, cannot be listened to: {error.strerror or error}{hint}"
        raise UsageError(msg) from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
