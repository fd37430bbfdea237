"""Programs that tests need, installed as Debian has them where that is possible."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process, of those that the tests are spread over, installs anything."""
    with (Path(tempfile.gettempdir()) / "retryexec-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(package: str, installed: Callable[[], T | None]) -> T | None:
    """Install a package of Debian, if that is possible; return what *installed* finds then."""
    if os.getuid() != 0 or not shutil.which("apt-get"):
        return None
    with alone():
        if (found := installed()) is not None:
            return found
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", package]):
            subprocess.run(
                ["apt-get", "-qq", *command],
                env=os.environ | quiet,
                check=False,
                capture_output=True,
            )
        return installed()
