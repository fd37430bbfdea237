"""A real browser for tests: Debian's Chromium, which root installs if there is none."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from helpers.debian import install


class MissingBrowser(RuntimeError):
    """There is no browser to be driven."""


@cache
def chromium() -> str:
    """Return the path of Chromium, which is installed if need be and possible.

    Raises:
        MissingBrowser: it is missing.
    """
    found = _installed() or install("chromium", _installed)
    if found is None:
        msg = (
            "the tests of the web page in a browser need Chromium: apt-get install chromium, or "
            "name its program in RETRYEXEC_CHROMIUM"
        )
        raise MissingBrowser(msg)
    return found


def _installed() -> str | None:
    named = os.environ.get("RETRYEXEC_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browsing() -> Iterator[Any]:
    """Run Chromium, driven by playwright; the thread has a running event loop meanwhile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # In a container, root has no user namespaces for a sandbox, and /dev/shm is small.
        browser = driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve *app* on this machine alone, and yield its address."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
