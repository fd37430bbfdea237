"""Ctrl-C, SIGTERM and SIGHUP: the first asks for a stop, the second for an end."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

EXIT_INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C has ended, as shells have it."""

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # not every system has the last one


class Interrupts:
    """Counts signals that ask for an end while it is entered, instead of letting them raise.

    A handler may run between any two instructions of the main thread, with locks held. So it
    counts and does no more; whoever waits in the main thread looks at the count now and then.
    Signals that were ignored when the process began, as by nohup, stay ignored. Outside the main
    thread, where Python does not have signals, the count stays 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                if (number := getattr(signal, name, None)) is None:
                    continue
                # None: of a handler that is not Python's, and which Python could not put back.
                if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  as signal.signal has it
        self.count += 1
        if self.count > 2:  # nobody looked: the main thread is stuck
            os._exit(EXIT_INTERRUPTED)
