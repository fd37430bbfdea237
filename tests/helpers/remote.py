"""Jobs for engines: functions and classes that other processes can import."""

import os
import signal
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.jobs import Boom
from retryexec import PermanentError, RetryAfter, current_attempt

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


def double(number: int) -> int:
    return 2 * number


def echo(text: str) -> str:
    return text


def pid() -> int:
    return os.getpid()


def raises(error: BaseException) -> None:
    raise error


def boom(text: str = "boom") -> None:
    raise Boom(text)


def saves(cause: str, marker: str) -> None:
    """Fail in one of the ways in which an exception says what to do, in its chain of causes."""
    error = OSError(cause)
    if marker == "permanent":
        raise PermanentError(error)
    if marker == "permanent cause":
        raise Boom("saving") from PermanentError(error)
    if marker == "retry after":
        raise RetryAfter(60, error)
    if marker == "retry after from":
        raise RetryAfter(60) from error
    raise RetryAfter(60)


def fails_until(attempt: int) -> int:
    """Fail until so many attempts have been made; return the number of the one that succeeds."""
    number = current_attempt().number
    if number < attempt:
        raise Boom(number)
    return number


def told() -> tuple[int, str, float | None, str, bool]:
    attempt = current_attempt()
    return (
        attempt.number,
        attempt.job_id,
        attempt.remaining(),
        repr(attempt.previous),
        attempt.cancelled,
    )


def outlasts_its_time() -> float | None:
    while (left := current_attempt().remaining()) != 0.0:
        time.sleep(left or 0)
    return left


def accepted() -> Any:
    return current_attempt().accepted


def tells_previous() -> str:
    """Fail once, and then say what the first attempt raised."""
    previous = current_attempt().previous
    if previous is None:
        raise Boom("the first")
    return repr(previous)


def swap_variable(value: str) -> str:
    before = VARIABLE.get()
    VARIABLE.set(value)
    return before


def nothing_to_pickle() -> dict[str, Any]:
    return {"rows": [1, 2], "lock": threading.Lock()}


async def coroutine() -> None:
    pass


def returns_coroutine() -> Any:
    return coroutine()


def kills_itself(count: str | None = None, by: int = signal.SIGKILL) -> None:
    """End the process that runs this; add a line to a file before, so that it can be counted."""
    if count is not None:
        with Path(count).open("a") as file:
            file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), by)
    time.sleep(10)


def kills_unless(path: str) -> str:
    """End the process that runs this if there is no such file yet, and make it before."""
    if Path(path).exists():
        return "survived"
    Path(path).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fails_then_kills_then_succeeds(directory: str) -> int:
    number = current_attempt().number
    if number == 1:
        raise Boom(number)
    kills_unless(str(Path(directory, "killed")))
    return number


def exits(code: int) -> None:
    os._exit(code)


class Session:
    """Something that has a connection, as exceptions of HTTP libraries do."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Picky(Exception):
    """An exception whose constructor takes something else than its `args`."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Holding(ConnectionError):
    """An exception that holds on to what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Session())
        self.session = Session()
        self.status = 503


def raises_picky() -> None:
    raise Picky(503, reason="busy")


def raises_holding() -> None:
    raise Holding("refused")


def raises_local() -> None:
    class Local(Exception):
        pass

    raise Local("of nowhere")


class Gate:
    """A job in another process that says when it has begun, and ends when it is let."""

    def __init__(self, directory: Path, result: Any = "through") -> None:
        self.begun = str(directory / f"begun-{id(self)}")
        self.opened = str(directory / f"opened-{id(self)}")
        self.result = result
        for path in (self.begun, self.opened):
            os.mkfifo(path)

    def exec(self) -> Any:
        # Opening a FIFO waits until somebody opens its other end.
        Path(self.begun).write_text(str(os.getpid()))
        Path(self.opened).read_text()
        return self.result

    def reached(self) -> int:
        """Wait until the attempt stands at the gate; return the id of its process."""
        return int(Path(self.begun).read_text())

    def open(self) -> None:
        Path(self.opened).write_text("go on")


def begins_process(path: str) -> None:
    """Be an initializer that leaves a trace."""
    Path(path, str(os.getpid())).touch()


def fails_to_begin() -> None:
    raise Boom("cannot begin")


# ---- jobs for journals


@dataclass
class Save:
    n: int

    def exec(self) -> tuple[int, str]:
        return self.n, current_attempt().job_id


@dataclass
class Kill:
    count: str

    def exec(self) -> None:
        kills_itself(self.count)


@dataclass
class Meet:
    """A save that waits, in the first process that runs it, until that is killed."""

    directory: str

    def exec(self) -> int:
        first = Path(self.directory, "first")
        if not first.exists():
            first.write_text(str(os.getpid()))
            os.write(1, b"there\n")
            signal.pause()
        return current_attempt().number
