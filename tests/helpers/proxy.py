"""A network between client and server that tests let hang, as one does whose packets are lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event


class Proxy:
    """Forwards connections from a port of this host to a socket of a server, until it hangs.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        # Guards what follows. Each connection has two events, set while it forwards that way: what
        # clients send, and what the server answers.
        self._lock = threading.Lock()
        self._ways: list[tuple[Event, Event]] = []
        self._hung = (False, False)  # which of them hang for new connections
        self._in_thread(self._accept)

    @contextmanager
    def hung(self, *, forth: bool = True, back: bool = True, new: bool = True) -> Iterator[None]:
        """Forward nothing for a while; what was on its way arrives afterwards.

        Args:
            forth: whether what clients send is held back.
            back: whether the server's answers are.
            new: whether connections that are made meanwhile hang, too.
        """
        with self._lock:
            self._hung = (forth and new, back and new)
            for way in self._ways:
                for event, stop in zip(way, (forth, back), strict=True):
                    if stop:
                        event.clear()
        try:
            yield
        finally:
            self._flow()

    def _flow(self) -> None:
        with self._lock:
            self._hung = (False, False)
            for way in self._ways:
                for event in way:
                    event.set()

    def close(self) -> None:
        """End, with all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._flow()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in [self._listener, *self._sockets]:
            each.close()

    def _in_thread(self, do: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=do, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            self._sockets += [client, server]
            try:
                server.connect(self._target)
            except OSError:  # it is down
                client.shutdown(socket.SHUT_RDWR)
                continue
            way = (Event(), Event())
            with self._lock:
                self._ways.append(way)
                for event, hangs in zip(way, self._hung, strict=True):
                    if not hangs:
                        event.set()
            self._in_thread(self._pump, client, server, way[0])
            self._in_thread(self._pump, server, client, way[1])

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, flows: Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                flows.wait()
                sink.sendall(data)
            flows.wait()
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
