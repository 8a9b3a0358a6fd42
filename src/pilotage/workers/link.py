"""A worker's connection to its agent, and what outlives a connection: the endings that the agent has not released.

``told`` endings are framed, numbered and kept until the agent releases them. While a connection is *welcomed*, every kept
frame has been written to it; a new connection begins with the hello and, after the welcome, with all kept frames again. So an
ending is told at least once to an agent that can log it, and whatever a worker neither holds (``RunnerHello.holds``) nor has
told with a number up to ``RunnerHello.sent`` it never began.

Nothing here blocks: a connection that is full or gone is met again at the next ``receive`` or ``send``.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import RunnerId
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter
from pilotage.wire.runner_messages import FromRunner, Release, RunnerHello, TasksEnded, ToRunner, Welcome
from pilotage.wire.runner_settings import AGENT_SOCKET
from pilotage.workers.descriptors import LOWEST, Known, known
from pilotage.workers.outbox import Outbox

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0

_CREDENTIALS = struct.Struct("3i")


class AgentLink:
    """The worker's end of the socket ``agent.sock``. ``holds`` tells, at a hello, what the worker has not ended."""

    def __init__(
        self, folder: Path, worker: RunnerId, holds: Callable[[], list[Execution]], outbox: Outbox | None = None
    ) -> None:
        self.lost_since: float | None = time.monotonic()
        """Since when there has been no agent, by the monotonic clock; None while one is connected."""
        self.descriptor = -1
        """Of the connection, which does not block; -1: there is none."""
        self._known = Known(-1, 0, 0)
        self._folder = folder
        self._worker = worker
        self._holds = holds
        self._outbox = outbox
        self._connection: socket.socket | None = None
        self._welcomed = False
        self._retry_at = 0.0
        self._retry_s = FIRST_RETRY_S
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._ticks = started_ticks(os.getpid()) or 0
        self._boot = boot_id()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ToRunner).decode

    # -- talk ---------------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a connection; it may have to be welcomed yet."""
        return self._connection is not None

    @property
    def is_intact(self) -> bool:
        """Whether no function has closed the connection, or put something else in its place."""
        return self.descriptor < 0 or self._known.is_there

    @property
    def is_touched(self) -> bool:
        """Whether the connection is seen to be closed, or something else. Costs little; ``is_intact`` is sure."""
        try:
            return os.get_blocking(self.descriptor)
        except OSError:
            return self.descriptor >= 0

    def tell_ends(self, ends: list[AttemptEnd], changed: bool = False) -> None:
        """Number these endings, keep them until they are released, and queue them for sending.

        They are those of the outbox's open batch; ``changed``: they are not as they were when they were added to it.
        """
        number = self._number = self._number + 1
        # What was encoded for the outbox need not be encoded again.
        frame = self._outbox.close(number, len(ends)) if self._outbox is not None else None
        if frame is None or changed:
            frame = self._encode(TasksEnded(number, ends))
        self._kept.append((number, frame))
        if self._welcomed:
            self._writer.write(frame)

    def tell(self, message: FromRunner) -> None:
        """Queue a message that only the agent of this connection has use for; without an agent it is forgotten."""
        if self._connection is not None:
            self._writer.write(self._encode(message))

    def receive(self) -> list[ToRunner]:
        """Return the messages that have arrived; without an agent, look for one if it is time to."""
        if self._connection is None:
            self._reconnect()
            return []
        try:
            messages = [self._decode(frame) for frame in self._reader.read()]
        except (Disconnected, OSError) as error:  # OSError: a function closed descriptors that are not its own
            self.drop(str(error))
            return []
        for message in messages:
            if isinstance(message, Release):
                self._forget(message.through)
            elif isinstance(message, Welcome):
                self._forget(message.released)
                self._welcomed = True
                for _, frame in self._kept:
                    self._writer.write(frame)
        return messages

    def send(self) -> None:
        """Send as much of what is queued as the socket takes."""
        if self._connection is not None:
            try:
                self._full = not self._writer.flush()
            except (Disconnected, OSError) as error:
                self.drop(str(error))

    # -- wait ---------------------------------------------------------------------------------------------------------

    def interest(self) -> tuple[int, bool] | None:
        """Return the descriptor to poll and whether to poll it for room as well; None without an agent."""
        return None if self._connection is None else (self._connection.fileno(), self._full)

    def retry_in_s(self) -> float:
        """Return in how many seconds an agent is looked for again."""
        return max(0.0, self._retry_at - time.monotonic())

    # -- connections --------------------------------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """Close the connection, because of ``reason``, and look for an agent soon."""
        if self._connection is None:
            return
        say(f"{self._worker}: lost the agent: {reason}")
        try:
            self._connection.close()
        except OSError:
            # A function closed the descriptor.
            pass
        self._connection = None
        self.descriptor = -1
        self._welcomed = False
        self.lost_since = time.monotonic()
        self._retry_s = FIRST_RETRY_S
        self._retry_at = self.lost_since + FIRST_RETRY_S

    def close_inherited(self) -> None:
        """Close the socket in a forked child: the agent must see the end of the worker, whatever its children do."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self.descriptor = -1

    def _reconnect(self) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            return
        try:
            connection = connect(self._folder)
        except OSError as error:
            self._retry_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
            if not isinstance(error, (FileNotFoundError, ConnectionRefusedError, BlockingIOError)):
                say(f"{self._worker}: cannot reach the agent: {error}")
            return
        self._connection = connection
        self.descriptor = connection.fileno()
        self._known = known(self.descriptor)
        self._reader, self._writer = FrameReader(connection), FrameWriter(connection)
        self._full = False
        self.lost_since = None
        holds = self._holds()
        self.tell(RunnerHello(self._worker, os.getpid(), self._ticks, self._boot, holds, self._number))
        self.send()

    def _forget(self, through: int) -> None:
        kept = self._kept
        while kept and kept[0][0] <= through:
            kept.popleft()
        if self._outbox is not None:
            self._outbox.release(through)


def connect(folder: Path) -> socket.socket:
    """Return a non-blocking connection to the agent of this private folder, which children do not inherit.

    Raises:
        PermissionError: the process at the other end belongs to another user.
        OSError: nobody listens.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # The address of a Unix socket holds 108 bytes; a path through the open folder always fits.
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{AGENT_SOCKET}")
        finally:
            os.close(descriptor)
        _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user != os.getuid():
            raise PermissionError(
                f"{folder / AGENT_SOCKET} belongs to user {user}, not {os.getuid()}; remove what listens there"
            )
        high = socket.socket(fileno=fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, LOWEST))
        high.setblocking(False)
        return high
    finally:
        connection.close()


def say(line: str) -> None:
    """Write a line to the worker's standard error, which a function may have closed."""
    try:
        os.write(2, f"{line}\n".encode())
    except OSError:
        pass


def say_traceback() -> None:
    """Write the traceback of the exception that is being handled to the worker's standard error."""
    import traceback  # only here: most workers never need it

    say(traceback.format_exc())
