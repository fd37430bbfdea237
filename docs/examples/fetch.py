"""Fetch pages from a server that is busy now and then, and says when to come back."""

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.error import HTTPError
from urllib.request import urlopen

from retryexec import PermanentError, RetryAfter, RetryingExecutor, RetryPolicy


@dataclass(frozen=True)
class Fetch:
    url: str

    def exec(self) -> str:
        try:
            with urlopen(self.url, timeout=10) as response:
                return str(response.read(), "utf-8")
        except HTTPError as error:
            with error:  # an answer too, with a connection to close
                if "Retry-After" in error.headers:
                    # The server knows best how long to wait: so many seconds, or until a date.
                    header = error.headers["Retry-After"]
                    raise RetryAfter.from_header(header, error) from error
                if error.code < 500:
                    # Our own fault: asking again would get the same answer.
                    raise PermanentError(error) from error
                raise


def main() -> None:
    policy = RetryPolicy(max_attempts=5)
    with busy_server() as address, RetryingExecutor(max_workers=4, policy=policy) as executor:
        paths = ["/news", "/weather", "/missing", "/sports"]
        futures = [executor.submit(Fetch(address + path)) for path in paths]
        for path, future in zip(paths, futures, strict=True):
            error = future.exception()
            outcome = f"gave up: {error}" if error else future.result()
            print(f"{path:<9} attempts: {future.attempts}  {outcome}")


class BusyHandler(BaseHTTPRequestHandler):
    """Turns every page away once, and then serves it."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        if self.path == "/missing":
            self.answer(404, "no such page")
        elif self.asked[self.path] == 1:
            # Seconds or a date: both are legal.
            when = formatdate(usegmt=True) if self.path == "/weather" else "1"
            self.answer(503, "come back soon", {"Retry-After": when})
        else:
            self.answer(200, f"all about {self.path.strip('/')}")

    def answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Keep quiet: what the server does is told by what is fetched."""


@contextmanager
def busy_server() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    main()
