"""``retryexec watch``: looks at a journal again and again, and shows what it sees."""

import sys
import threading
import time
from argparse import Namespace
from contextlib import suppress

from rich.console import Console
from rich.live import Live

from retryexec.cli.options import UsageError
from retryexec.cli.output import say, show
from retryexec.cli.shell import with_short_paths
from retryexec.cli.signals import Interrupts
from retryexec.cli.watch_view import Frame, Look, Rates, Sizes
from retryexec.journal import JournalError
from retryexec.journal._look import Overview, inspector_of

_TICK = 0.1  # seconds between two looks at the keyboard and at the size of the terminal
_SHARE = 4  # times as long as a look has taken, nobody looks again
_DUE = 50  # jobs that are due next, at most
_FAREWELL = 1.0  # seconds that a look under way has to end


def watch(arguments: Namespace) -> int:
    """Show the journal until somebody interrupts, or once; return the exit status.

    Raises:
        UsageError: there is no such journal, or it cannot be looked into.
    """
    try:
        reader = inspector_of(arguments.directory, schema=arguments.schema)
        first = look_at(reader)
    except (JournalError, ImportError) as error:
        raise UsageError(str(error)) from error
    console = Console()
    frame = Frame(reader.where, arguments.schema, arguments.interval)
    if arguments.once or not sys.stdout.isatty() or console.is_dumb_terminal:
        try:
            return _once(frame, first, console)
        finally:
            reader.close()
    looks = Looks(reader, first, arguments.interval)
    with Interrupts() as interrupts:
        status = _live(frame, looks, console, interrupts)
    looks.close()
    return status


def look_at(reader: Overview) -> Look:
    """Return what there is to see of a journal now.

    Raises:
        JournalError: there is nothing to be seen.
    """
    reader.unreadable.clear()  # what could not be read last time may be sound by now
    began = time.monotonic()
    now = time.time()
    return Look(
        at=now,
        owners=tuple(reader.owner_jobs()),
        oldest=reader.oldest(),
        due=tuple(reader.due_next(_DUE)),
        dead=reader.dead_by_kind(),
        died=(reader.died_since(now - 60), reader.died_since(now - 3600)),
        errors=reader.errors(),
        unreadable=tuple(reader.unreadable.values()),
        seconds=time.monotonic() - began,
    )


def _once(frame: Frame, look: Look, console: Console) -> int:
    """Print one frame; return 1 if something could not be read."""
    terminal = sys.stdout.isatty()
    width = console.width if terminal else max(console.width, 100)
    out = Console(width=width, force_terminal=terminal or None, highlight=False)
    with out.capture() as captured:
        out.print(frame.drawn(look, None, Sizes(width, None)))
    show("\n".join(line.rstrip() for line in captured.get().splitlines()))
    return 1 if look.unreadable else 0


def _live(frame: Frame, looks: "Looks", console: Console, interrupts: Interrupts) -> int:
    rates, drawn = Rates(), None
    # The terminal may go at any time: a signal says so, and writing to it fails.
    gone = suppress(OSError, ValueError)
    with gone, Live(console=console, screen=True, auto_refresh=False) as live:
        while not interrupts.count:
            look, error = looks.latest()
            if error is not None and looks.ended:
                break
            state = (look.at, error, console.size)
            if state != drawn:
                drawn = state
                rates.add(look)
                size = console.size
                # One line is left, where a terminal would scroll.
                sizes = Sizes(size.width, size.height - 1)
                live.update(frame.drawn(look, rates, sizes, trouble=error), refresh=True)
            looks.wait(_TICK)
    if looks.ended:
        say(f"retryexec: {with_short_paths(looks.latest()[1] or '')}")
        return 1
    return 0


class Looks:
    """Looks at a journal every now and then, in a thread of its own: a server may be slow.

    Args:
        reader: what looks.
        first: what it has seen already.
        interval: seconds from one look to the next, at least.
    """

    def __init__(self, reader: Overview, first: Look, interval: float) -> None:
        self._reader = reader
        self._interval = interval
        # Guards the look, the error and `ended`; notified when they change.
        self._changed = threading.Condition()
        self._look = first
        self._error: str | None = None
        self.ended = False
        self._stop = threading.Event()
        # A daemon: whoever interrupts need not wait for a server that does not answer.
        self._thread = threading.Thread(target=self._run, name="retryexec-watch", daemon=True)
        self._thread.start()

    def latest(self) -> tuple[Look, str | None]:
        """Return what was seen last, and why there is nothing newer; None if there is."""
        with self._changed:
            return self._look, self._error

    def wait(self, seconds: float) -> None:
        """Wait until there is something new, *seconds* at most."""
        with self._changed:
            self._changed.wait(seconds)

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(_FAREWELL)
        if not self._thread.is_alive():
            self._reader.close()

    def _run(self) -> None:
        pause = self._pause_after(self._look.seconds)
        while not self._stop.wait(pause):
            began = time.monotonic()
            look, error, ended = None, None, False
            try:
                look = look_at(self._reader)
            except OSError as passing:  # a server that is away for now
                error = str(passing)
            except Exception as last:
                error, ended = f"{type(last).__name__}: {last}", True
                if isinstance(last, JournalError):
                    error = str(last)
            with self._changed:
                self._look, self._error, self.ended = look or self._look, error, ended
                self._changed.notify_all()
            if ended:
                return
            pause = self._pause_after(time.monotonic() - began)

    def _pause_after(self, seconds: float) -> float:
        return max(self._interval, _SHARE * seconds)
