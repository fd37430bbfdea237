"""An interrupt at each moment in turn, at which Python may raise one in the main thread.

Python looks for signals as a function begins, as a call returns, and as a loop goes back, and
nowhere else; so there are only so many moments in a piece of code, and a test can try them all.
"""

from __future__ import annotations

import dis
import gc
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import retryexec

CHECKED = {
    code
    for name, code in dis.opmap.items()
    if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and "INTERRUPT" not in name
}
OURS = str(Path(retryexec.__file__).parent)
FILES = (OURS, threading.__file__)


@cache
def is_moment(code: CodeType, latest: int, now: int) -> bool:
    """Return whether Python looks for signals between these two instructions.

    It does so at the end of the first, and what is raised there is handled as that one's; where
    that makes a difference, at the end of a block, it cannot be played by the second.
    """
    if latest and code.co_code[latest] not in CHECKED:
        return False
    handlers = [
        [
            entry.target
            for entry in dis._parse_exception_table(code)  # type: ignore[attr-defined]
            if entry.start <= at < entry.end
        ]
        for at in (latest, now)
    ]
    return not latest or handlers[0] == handlers[1]


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the log meanwhile, and tidy up after the strikes."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    # A start that is struck leaves its thread on a list of those that are about to start.
    threading._limbo.clear()  # type: ignore[attr-defined]


class Strike:
    """Raises KeyboardInterrupt at the *at*-th such moment in our code or in threading's.

    *twice*: and again at the next one, while the first interrupt is on its way out.
    """

    def __init__(self, at: int, *, twice: bool = False) -> None:
        self.left = at
        self.twice = twice
        self.where: str | None = None  # once it has struck
        self._latest: dict[FrameType, int | None] = {}  # where each frame is

    def __call__(self, fn: Callable[[], object]) -> bool:
        """Call *fn*; return whether it was struck."""
        before = sys.gettrace()
        gc.disable()  # a finalizer of somebody else's would swallow the interrupt
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._enter)
        try:
            fn()
        except (KeyboardInterrupt, RuntimeError) as error:
            # A Condition that is struck at one moment of its wait forgets that it let go.
            if isinstance(error, RuntimeError) and " lock" not in str(error):
                raise
        finally:
            sys.settrace(before)
            sys.setprofile(None)
            gc.enable()
            self._latest.clear()
        return self.where is not None

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG002  as settrace has it
        if not frame.f_code.co_filename.startswith(FILES):
            return None
        frame.f_trace = self._step  # some Pythons heed what follows only then
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG002  as settrace has it
        if event == "exception":
            self._latest[frame] = None
        elif event == "opcode":
            latest, self._latest[frame] = self._latest.get(frame, 0), frame.f_lasti
            # What has no line is Python's own, as for a generator that is closed: it swallows it.
            lined = frame.f_lineno is not None
            if lined and latest is not None and is_moment(frame.f_code, latest, frame.f_lasti):
                self.left -= 1
                if self.left < 0 and self.where is None:
                    if self.twice:
                        sys.setprofile(self._again)  # for what raises here is traced no more
                    self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                    raise KeyboardInterrupt
        return self._step

    def _again(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG002  as setprofile has it
        code = frame.f_code
        # One that is closed swallows what it meets.
        generates = code.co_flags & inspect.CO_GENERATOR
        if event in {"call", "c_return"} and code.co_filename.startswith(FILES) and not generates:
            raise KeyboardInterrupt
