"""A way between two processes that can be broken: what connects to it is connected to the port behind it, byte by byte."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress

_PIECE_BYTES = 65536


class BreakableWay:
    """Leads from ``endpoint`` to a port of this machine. ``broken``: nobody gets through."""

    def __init__(self, port: int) -> None:
        self.broken = False
        self.connections = 0
        """How many have come through so far."""
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._is_open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, keep_broken: bool = False) -> None:
        """Break all connections."""
        self.broken = keep_broken
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._is_open = False
        self.cut(keep_broken=True)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while self._is_open:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            if self.broken:
                caller.close()
                continue
            try:
                called = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                caller.close()
                continue
            self.connections += 1
            with self._lock:
                self._pairs.append((caller, called))
            threading.Thread(target=self._carry, args=(caller, called), daemon=True).start()

    def _carry(self, *ends: socket.socket) -> None:
        across = dict(zip(ends, reversed(ends), strict=True))
        with suppress(OSError):
            while True:
                for end in select.select(ends, [], [])[0]:
                    piece = end.recv(_PIECE_BYTES)
                    if not piece:
                        raise OSError("one end is closed")
                    across[end].sendall(piece)
        for end in ends:
            end.close()
