"""A host's connection to its agent: found by the file that the agent writes, and made anew as often as it breaks.

The agent is reached under several addresses, of which some may lead nowhere from here: they are tried one after the other, and
longer in each round. What worked is tried first the next time. Times are of ``time.monotonic``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from pilotage.errors import PilotageError, ProtocolError
from pilotage.wire.channel import AccessDenied, Disconnected
from pilotage.wire.host_channel import HostConnection
from pilotage.wire.host_messages import FromHost, HostHello, ToHost
from pilotage.wire.keys import read_host_access
from pilotage.wire.zeromq import finish_connections

_RETRY_FIRST_S = 0.02
_RETRY_LONGEST_S = 1.0
_PATIENCES_S = (3.0, 6.0, 12.0)
"""How long an address has to let us in, by round."""


class AgentLink:
    """One connection at a time to the agent that wrote the file ``address``; never blocks. It looks for one from ``now`` on.

    ``hello`` returns what to say first, given the number of the connection from 1.
    """

    def __init__(self, address: Path, hello: Callable[[int], HostHello], now: float) -> None:
        self.away_since: float | None = now
        """Since when no agent has let us in; None while one does."""
        self._address = address
        self._hello = hello
        self._connection: HostConnection | None = None
        self._connections = 0
        self._endpoints = 1
        self._attempts = 0
        self._retry_at: float | None = now
        self._retry_s = _RETRY_FIRST_S
        self._patience_until = 0.0
        self._said = ""

    def fileno(self) -> int:
        """Return the descriptor to poll for reading; -1: there is no connection."""
        return -1 if self._connection is None else self._connection.fileno()

    def next_deadline(self) -> float | None:
        """Return when ``receive`` is due without anything arriving."""
        if self._connection is None:
            return self._retry_at
        return None if self.away_since is None else self._patience_until

    def receive(self, now: float) -> tuple[list[ToHost], bool]:
        """Return what the agent says, and whether the connection is as it was before the call. Connects if it is time to."""
        if self._connection is None:
            if self._retry_at is None or now < self._retry_at:
                return [], True
            self._connect(now)
            return [], False
        try:
            messages = self._connection.receive()
        except (Disconnected, ProtocolError) as error:
            self._lost(now, error)
            return [], False
        if self.away_since is not None:
            if self._connection.is_accepted:
                self.away_since = None
                self._retry_s = _RETRY_FIRST_S
                self._said = ""
            elif now >= self._patience_until:
                self._lost(now, Disconnected("an address of the agent does not answer"))
                return [], False
        return messages, True

    def send(self, message: FromHost | bytes) -> None:
        """Send a message, or an encoded one; if the connection is lost, ``receive`` tells."""
        if self._connection is not None:
            self._connection.send(message)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def finish(self) -> None:
        """Let go of the connection for good: what was queued is sent, if that takes no more than a second."""
        self.close()
        finish_connections()

    def _connect(self, now: float) -> None:
        try:
            access = read_host_access(self._address)
            self._endpoints = len(access.tcp)
            endpoint = access.tcp[self._attempts % self._endpoints]
            self._connection = HostConnection.connect(endpoint, access.keys, access.server_key)
        except (OSError, PilotageError) as error:
            self._lost(now, error)
            return
        self._retry_at = None
        in_rounds = self._attempts // self._endpoints
        self._patience_until = now + _PATIENCES_S[min(in_rounds, len(_PATIENCES_S) - 1)]
        self._connections += 1
        self._connection.send(self._hello(self._connections))

    def _lost(self, now: float, error: Exception) -> None:
        if str(error) != self._said:
            # Every attempt may fail alike.
            self._said = str(error)
            sys.stderr.write(f"no agent: {error}\n")
            sys.stderr.flush()
        self.close()
        if self.away_since is None:
            self.away_since = now
            self._attempts %= self._endpoints
        elif not isinstance(error, AccessDenied):
            self._attempts += 1
        self._retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, _RETRY_LONGEST_S)
