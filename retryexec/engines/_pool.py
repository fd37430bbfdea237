"""ProcessPool: an executor of processes, which knows whose call it was that ended one.

The standard library's pool does not, so with one process all calls are lost. And here a call goes
straight into the pipe of the process that runs it, which costs less than half.
"""

import logging
import multiprocessing.process
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import parent_process
from selectors import EVENT_READ, DefaultSelector
from traceback import walk_tb
from typing import Any, TypeAlias

from retryexec._core.future import LazyFuture
from retryexec._errors import PermanentError
from retryexec._exceptions import report
from retryexec._typing import override
from retryexec.engines._messages import receive, send

logger = logging.getLogger("concurrent.futures")

# Seconds for a process to end that has closed its pipe.
GRACE = 1.0

# Seconds for a server that forks to end, if it does not answer any more.
SERVER_GRACE = 10.0

Initializer: TypeAlias = tuple[Callable[..., object] | None, tuple[Any, ...]]
_Call: TypeAlias = tuple[bytes, LazyFuture[Any]]


class Child:
    """A process of a pool."""

    def __init__(self, process: Any, pipe: "Connection[Any, Any]") -> None:
        self.process = process
        self.pipe = pipe
        self.future: LazyFuture[Any] | None = None  # of the call that it runs
        self.calls = 0  # that it was given


class ProcessPool(Executor):
    """An executor whose calls run in processes, each of which runs one at a time.

    A process is started when there is a call and none is idle. One that ends costs the call that
    it ran, which fails with `BrokenProcessPool`, and no other.

    Args:
        max_workers: the most processes.
        context: how they are started.
        initializer: what each calls first, with its arguments.
        max_calls: how many calls a process runs before it ends; None for no limit.
    """

    def __init__(
        self,
        max_workers: int,
        context: BaseContext,
        initializer: Initializer = (None, ()),
        max_calls: int | None = None,
    ) -> None:
        self._max_workers = max_workers
        self._context: Any = context
        self._initializer = initializer
        self._max_calls = max_calls
        self._selector = DefaultSelector()  # has the pipes of all children
        # Guards all below, and the starts of processes. A child is written to by whoever has made
        # it busy, outside of the lock.
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._idle: list[Child] = []
        self._waiting: deque[_Call] = deque()  # while no child is idle
        self._closed = False
        # Reads what children answer, while there are any.
        self._reader: threading.Thread | None = None
        _pools.add(self)

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call, which must be one that can be pickled and does not raise."""
        call = pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL), LazyFuture[Any]()
        with self._lock:
            if self._closed:
                msg = "cannot schedule new futures after shutdown"
                raise RuntimeError(msg)
            child = self._free_child(call)
        if child is not None:
            self._write(child, call[0])
        return call[1]

    def _free_child(self, call: _Call) -> Child | None:
        """Make a child busy with *call*; or, if all are, let the call wait; lock held."""
        child = None
        if self._idle:
            child = self._idle.pop()
        elif len(self._children) < self._max_workers:
            try:
                child = self._start()
            except OSError:  # no process can be started now
                if not self._children:
                    raise
        if child is None:
            self._waiting.append(call)
            return None
        child.future = call[1]
        child.calls += 1
        return child

    def _start(self) -> Child:
        """Start a process; lock held."""
        restored = restore_main_file()
        ours, theirs = self._context.Pipe()
        try:
            process = self._start_process(theirs)
            if restore_main_file() != restored:  # it was too late for this one, perhaps
                process.kill()
                process.join()
                process = self._start_process(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        child = Child(process, ours)
        self._children.add(child)
        self._selector.register(ours, EVENT_READ, child)
        if self._reader is None:
            reader = threading.Thread(target=self._read, name="retryexec_pool", daemon=True)
            try:
                reader.start()
            except RuntimeError as error:
                # CPython 3.12.0 and 3.12.1 start no thread once the interpreter has begun to end.
                self._selector.unregister(ours)
                self._children.discard(child)
                process.kill()
                process.join()
                ours.close()
                raise PermanentError(error) from None
            self._reader = reader
        return child

    def _start_process(self, pipe: "Connection[Any, Any]") -> Any:
        asked: int | None = None  # the server that forks
        ended, deadline = 0, time.monotonic() + SERVER_GRACE
        while True:
            process = self._context.Process(
                target=_run_calls, args=(pipe, self._initializer), name="retryexec_process"
            )
            try:
                process.start()
            except RuntimeError as error:  # amid the main script's import by another process
                raise PermanentError(error) from None
            except (ConnectionError, EOFError) as error:
                # The server has ended. It is replaced once it is gone, and may be asked until then.
                before, asked = asked, _server()
                ended += asked is None or asked != before
                if ended == 2:
                    raise _why_it_ended(error) from error
                if time.monotonic() > deadline:
                    msg = "the server that starts processes answers nobody, and does not end"
                    raise OSError(msg) from error
                time.sleep(0.01)
            else:
                return process

    def _write(self, child: Child, message: bytes) -> None:
        # A process that has ended is found out by the reader.
        with suppress(OSError):
            send(child.pipe, message)

    # ---- the reader's thread

    def _read(self) -> None:
        """Read answers until there are no children."""
        while True:
            for key, _ in self._selector.select():
                try:
                    self._read_from(key.data)
                except Exception:
                    report("a process of an engine could not be attended to")
            if not self._children:
                with self._lock:
                    if not self._children:
                        self._reader = None
                        return

    def _read_from(self, child: Child) -> None:
        try:
            answer = receive(child.pipe)
        except (EOFError, OSError):
            self._end(child)
            return
        future, child.future = child.future, None
        self._next_call(child)
        if future is None:
            return
        try:
            value = pickle.loads(answer)  # noqa: S301  from a process of ours
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def _next_call(self, child: Child) -> None:
        """Give *child* a call that waits; if there is none let it be idle, or end."""
        message = b""  # which ends it
        with self._lock:
            worn = self._max_calls is not None and child.calls >= self._max_calls
            if self._waiting and not worn:
                message, child.future = self._waiting.popleft()
                child.calls += 1
            elif not (self._closed or worn):
                self._idle.append(child)
                return
        self._write(child, message)

    def _end(self, child: Child) -> None:
        """Note that *child* has ended, and fail its call if it had one."""
        self._selector.unregister(child.pipe)
        child.pipe.close()
        child.process.join(GRACE)
        if child.process.exitcode is None:  # it has closed its pipe
            child.process.kill()
            child.process.join()
        call = None
        with self._lock:
            self._children.discard(child)
            if child in self._idle:
                self._idle.remove(child)
            if self._waiting:
                call = self._waiting.popleft()
        if call is not None:
            self._give(call)
        if child.future is not None:
            child.future.set_exception(BrokenProcessPool(_how_it_ended(child.process)))

    def _give(self, call: _Call) -> None:
        """Give a call, which has waited for a child that has ended, to another one."""
        try:
            with self._lock:
                child = self._free_child(call)
        except Exception as error:
            call[1].set_exception(error)
            return
        if child is not None:
            self._write(child, call[0])

    # ---- the end

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the processes once they have none."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            reader = self._reader
            if cancel_futures:
                for _, future in self._waiting:
                    future.cancel()
                self._waiting.clear()
        for child in idle:
            self._write(child, b"")
        if wait and reader is not None:
            reader.join()
        if reader is None:
            self._selector.close()

    def kill(self) -> None:
        """Kill all processes."""
        for process in self.processes():
            process.kill()

    def processes(self) -> list[Any]:
        """Return the processes that there are."""
        return [child.process for child in list(self._children)]


_pools: "weakref.WeakSet[ProcessPool]" = weakref.WeakSet()


def _forget_siblings() -> None:
    """In a forked child, keep multiprocessing from waiting at exit for the parent's processes."""
    known: set[Any] = getattr(multiprocessing.process, "_children", set())
    for pool in list(_pools):
        known.difference_update(pool.processes())


if hasattr(os, "register_at_fork"):  # pragma: no branch  no forks on Windows
    os.register_at_fork(after_in_child=_forget_siblings)


_main_file: str | None = getattr(sys.modules.get("__main__"), "__file__", None)
_restored: list[str] = []


def restore_main_file() -> int:
    """Let processes import the main script, although it has come to its end.

    Python forgets a script's file then, and a process started after that would not find its
    functions. Jobs go on to the interpreter's exit, and so do starts of processes.

    Returns:
        how often that has been done by now, in any thread.
    """
    main = sys.modules.get("__main__")
    if _main_file is not None and main is not None and not hasattr(main, "__file__"):
        _restored.append(_main_file)  # first, for a thread that finds it restored
        main.__file__ = _main_file
    return len(_restored)


def _server() -> int | None:
    """Return the process of multiprocessing's server that forks, if there is one."""
    module = sys.modules.get("multiprocessing.forkserver")
    pid: int | None = getattr(getattr(module, "_forkserver", None), "_forkserver_pid", None)
    return pid


def _why_it_ended(error: BaseException) -> Exception:
    """Return what to raise where the server that forks has ended, and its successor has, too."""
    steps = {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}
    if "connect_to_new_process" not in steps:
        # It took the request, and so was through with all imports. No fork is possible now.
        return OSError("the server that starts processes ended when it was to fork")
    # It is the main script that ends it, which Python 3.14 imports there.
    msg = (
        "the server that starts processes ends at once; its errors are on stderr. "
        "A script needs if __name__ == '__main__': around what starts processes"
    )
    return PermanentError(BrokenProcessPool(msg))


def _how_it_ended(process: Any) -> str:
    code = process.exitcode
    how = f"with exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = f"by {signal.Signals(-code).name}"
    return f"process {process.pid}, which ran the attempt, was ended {how}"


# ---- in a process of the pool


def _run_calls(pipe: "Connection[Any, Any]", initializer: Initializer) -> None:
    """Run calls until there are no more."""
    # Ctrl-C comes to all processes of a terminal. The parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="retryexec_parent").start()
    begin, initargs = initializer
    if begin is not None:
        try:
            begin(*initargs)
        except BaseException:
            logger.critical("Exception in initializer:", exc_info=True)
            return
    try:
        while message := receive(pipe):
            fn, args, kwargs = pickle.loads(message)  # noqa: S301  from the parent
            answer = fn(*args, **kwargs)
            send(pipe, pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
            del fn, args, kwargs, answer, message
    except (EOFError, OSError):  # the parent has ended
        pass


def _end_with_parent() -> None:
    """End this process when its parent has ended, even by SIGKILL.

    Nobody would read its answer. And where the parent had a journal, somebody else has its jobs.
    """
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
