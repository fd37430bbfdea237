"""The command in a terminal of its own: what it draws, and how it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """Runs the command in a pseudo terminal of a given size."""

    def __init__(
        self, *arguments: object, columns: int = 80, lines: int = 24, cwd: Path | None = None
    ) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, lines)
        environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "retryexec", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._master >= 0:
            os.close(self._master)

    def resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _read(self, seconds: float) -> bool:
        """Read what comes within *seconds*; return whether more may come."""
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            data = b""
        self.seen += _CONTROLS.sub("", data.decode(errors="replace"))
        return bool(data)

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        """Read until *text* has been drawn."""
        due = time.monotonic() + seconds
        while text not in self.seen:
            if time.monotonic() > due or not self._read(0.1):
                raise AssertionError(f"{text!r} was never drawn:\n{self.seen}")

    def close(self, seconds: float = 30.0) -> int:
        """Close the window, and return the exit status."""
        master, self._master = self._master, -1
        os.close(master)
        self._process.send_signal(signal.SIGHUP)  # as the shell that started it does
        return self._process.wait(seconds)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self, seconds: float = 30.0) -> int:
        """Return the exit status; all that was drawn until then is in `seen`."""
        due = time.monotonic() + seconds
        while self._read(0.1):
            if time.monotonic() > due:
                raise AssertionError(f"it does not end:\n{self.seen}")
        return self._process.wait(seconds)
