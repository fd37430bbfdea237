"""What keeps strangers out: hosts, passwords, cross-site requests, and markup that is not ours.

An ASGI middleware, so that it stands before everything, static files and errors included.
"""

import hmac
import ipaddress
import re
import secrets
from base64 import b64decode
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "retryexec-csrf"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_MOST = 5_000_000  # bytes of a form

# No script, style or picture but our own, nothing inline, and no page of others around ours.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # A browser sends the Origin of a form only where it may send a referrer.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine alone: ``localhost``, ``127.0.0.1``, ``::1``."""
    name = host.strip("[]").lower()
    if name in _LOOPBACK or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guarded:
    """Lets through to *inner* what may come through.

    Args:
        password: None if nobody is asked for one.
        hosts: names that the page may be called by; None for any, but that a request which came
            in over loopback has to name loopback, since a foreign site can make a browser send it
            otherwise (DNS rebinding).
    """

    def __init__(
        self, inner: ASGIApp, *, password: str | None, hosts: Iterable[str] | None
    ) -> None:
        self._inner = inner
        self._password = None if password is None else password.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI has it."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = Headers(scope=scope)
        caching = "no-cache" if "/static/" in scope["path"] else "no-store"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    found[name] = value
                found.setdefault("cache-control", caching)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
        else:
            await self._inner(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        """Return what to answer instead of the page; None if the page may be seen."""
        host = headers.get("host", "")
        name = _name_of(host)
        if not self._is_known(name, scope):
            return PlainTextResponse(
                f"This page is not served as {name!r}. If that is its name, say so: "
                "--allow-host NAME, or allowed_hosts=[...] of retryexec.web.app().\n",
                421,
            )
        if scope["method"] not in _SAFE and (why := _cross_site(headers, host, self._hosts)):
            return PlainTextResponse(f"Refused: {why}.\n", 403)
        if self._password is not None and not self._is_right(headers):
            return PlainTextResponse(
                "The password, please; the name does not matter.\n",
                401,
                {"www-authenticate": 'Basic realm="retryexec", charset="UTF-8"'},
            )
        return None

    def _is_known(self, name: str, scope: Scope) -> bool:
        if self._hosts is not None:
            return name in self._hosts or ("localhost" in self._hosts and is_loopback(name))
        server = scope.get("server")
        over_loopback = server is not None and server[1] is not None and is_loopback(server[0])
        return not over_loopback or is_loopback(name)

    def _is_right(self, headers: Headers) -> bool:
        assert self._password is not None
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return False
        return hmac.compare_digest(given, self._password)


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _cross_site(headers: Headers, host: str, hosts: "frozenset[str] | None") -> str:
    """Return why a request that changes something is another site's; nothing if it is not."""
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return "another site has made the browser send this"
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc.lower() == host.lower():
        return ""
    # A proxy may have given the request another Host than the browser did.
    if hosts is not None and _name_of(urlsplit(origin).netloc) in hosts:
        return ""
    return f"this comes from {origin!r}, and not from a page of {host!r}"


class Forms:
    """Ties forms to the pages that they are on: what is sent back has to bring the same word.

    The word is in a cookie that other sites cannot read or send, and in each form.
    """

    @staticmethod
    def word(request: Request) -> str:
        """Return the word of this browser, a new one if it has none yet."""
        word = request.cookies.get(COOKIE, "")
        return word if len(word) >= 20 else secrets.token_urlsafe(24)

    @staticmethod
    def is_ours(request: Request, word: str) -> bool:
        """Return whether a form with this *word* is one of ours."""
        cookie = request.cookies.get(COOKIE, "")
        return len(cookie) >= 20 and hmac.compare_digest(cookie.encode(), word.encode())


async def form_of(request: Request) -> "dict[str, list[str]]":
    """Return the fields of a form that was sent.

    Raises:
        ValueError: it is too long, or not one.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST:
            msg = "the form is too long"
            raise ValueError(msg)
        parts.append(part)
    body = b"".join(parts).decode()
    return parse_qs(body, keep_blank_values=True, max_num_fields=20_000)


def safe_address(request: Request, wanted: str) -> str:
    """Return *wanted* if it is an address of this page, and else that of the overview."""
    root = str(request.scope.get("root_path", "")).rstrip("/")
    ours = re.compile(rf"{re.escape(root)}/(?![/\\])[^\s\\]*")
    return wanted if ours.fullmatch(wanted) else f"{root}/"


def user_of(request: Request) -> str | None:
    """Return the name that was given with the password, if one was; a word, and no proof."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name = b64decode(value, validate=True).partition(b":")[0].decode()[:50]
    except ValueError:
        return None
    return "".join(c if c.isprintable() else "?" for c in name) or None
