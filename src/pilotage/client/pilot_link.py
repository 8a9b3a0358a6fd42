"""The client's end of its link to one pilot: finding the agent, the hello, numbered messages, heartbeats, reconnecting.

A link is in one of three states: *waiting* (the agent is not ready yet, or the next attempt to connect is due at
``retry_at``), *greeting* (connected, the agent has not answered) and *open*. Only the death of the pilot's processes ends it;
a connection that breaks is made anew, as often as needed. All calls are made with the engine's lock.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
from collections import deque
from pathlib import Path

import msgspec

from pilotage.agent.settings import CONNECTION_FILE
from pilotage.client.launcher import claimed_by
from pilotage.core.client.state import PilotRecord, Queued, QueuedCancel, QueuedEnd, QueuedEnvironment, QueuedTasks
from pilotage.errors import PilotageError, ProtocolError, unreachable
from pilotage.model.ids import SessionUid
from pilotage.model.states import FINAL
from pilotage.system.processes import boot_id, is_alive
from pilotage.wire.channel import AccessDenied, ClientChannel, Disconnected
from pilotage.wire.codec import encode
from pilotage.wire.connect import connect
from pilotage.wire.keys import Connection, read_connection, read_key_pair
from pilotage.wire.link import IncomingLink, Liveness, OutgoingLink, Unacknowledged
from pilotage.wire.messages import (
    PROTOCOL,
    Acknowledge,
    AgentHello,
    Cancel,
    ClientHello,
    EndPilot,
    FromAgent,
    Heartbeat,
    Outcomes,
    PilotEnded,
    PrepareEnvironment,
    Submit,
)

HEARTBEAT_S = 5.0
LOSS_S = 20.0
RETRY_FIRST_S = 0.02
RETRY_LONGEST_S = 1.0
INCOMING_WINDOW_MESSAGES = 4
"""The agent keeps few messages under way, so that they grow when the client is slow; credit is given back accordingly."""


def message_of(number: int, queued: Queued) -> Submit | Cancel | EndPilot | PrepareEnvironment:
    """Return the message that a queued one is sent as."""
    match queued:
        case QueuedTasks():
            return Submit(number, queued.binding, queued.batch)
        case QueuedCancel():
            return Cancel(number, queued.tasks)
        case QueuedEnd():
            return EndPilot(number, queued.drain, queued.failure)
        case QueuedEnvironment():
            return PrepareEnvironment(number, queued.name, queued.spec)
        case _:
            return unreachable(queued)


class PilotLink:
    """The link to one pilot. ``ready_fd``: of a pilot that was just started; -1 for one that may run already.

    ``key_file`` holds the key pair for pilots that are reached over the network.
    """

    def __init__(
        self,
        session: SessionUid,
        epoch: int,
        pilot: PilotRecord,
        folder: Path,
        poll: select.epoll,
        ready_fd: int,
        now: float,
        key_file: Path | None = None,
    ) -> None:
        self.pilot = pilot
        self.folder = folder
        self.retry_at: float | None = None if ready_fd >= 0 else now
        self.is_open = False
        self.refusal = ""
        self.process_fd = -1
        self.ready_fd = ready_fd
        self.channel: ClientChannel | None = None
        self._channel_fd = -1
        self._session = session
        self._epoch = epoch
        self._key_file = key_file
        self._attempts = 0
        self._last_refusal = ""
        self._poll = poll
        self._retry_s = RETRY_FIRST_S
        self._connection: Connection | None = None
        self._liveness: Liveness | None = None
        self.outgoing = OutgoingLink(
            self._frame,
            last=pilot.numbered,
            unacknowledged=[Unacknowledged(number, 0, number) for number in sorted(pilot.unacknowledged)],
            kept_bytes=0,
        )
        self.incoming = IncomingLink(durable=pilot.received, window_messages=INCOMING_WINDOW_MESSAGES)
        self._logged: deque[tuple[int, int]] = deque()
        if ready_fd >= 0:
            poll.register(ready_fd, select.EPOLLIN)

    # finding the agent

    def watch_process(self) -> bool:
        """Watch the process that the pilot stands on, its bootstrap or else its agent; return False if both are gone."""
        pilot = self.pilot
        # Of a process on another machine nothing can be seen from here, and unreachable is not dead.
        names = [(pilot.pid, pilot.started_ticks, pilot.boot_id)] if pilot.pid else []
        claimed = claimed_by(self.folder)
        if claimed is not None:
            names.append(claimed)
        try:
            connection = read_connection(self.folder / CONNECTION_FILE)
            if connection.host != socket.gethostname():
                return True
            names.append((connection.pid, connection.started_ticks, connection.boot_id))
        except (FileNotFoundError, PilotageError):
            pass
        for pid, ticks, boot in names:
            if is_alive(pid, ticks, boot):
                try:
                    self.process_fd = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                self._poll.register(self.process_fd, select.EPOLLIN)
                return True
        return False

    def remove_private_folder(self) -> None:
        """Remove what the agents of a pilot that was killed left where they listened; it need not be in our TMPDIR."""
        try:
            socket_path = read_connection(self.folder / CONNECTION_FILE).socket
        except (FileNotFoundError, PilotageError):
            return
        if socket_path:
            shutil.rmtree(Path(socket_path).parent, ignore_errors=True)

    def process_ended(self) -> bool:
        """The watched process is gone; return True if the pilot is."""
        self._unwatch_process()
        return not self.watch_process()

    def agent_ready(self, now: float) -> None:
        """The pipe says that the agent is ready, or that nobody holds it any more."""
        self._forget_ready()
        self.retry_at = now

    def connect(self, now: float) -> None:
        """Try to connect, and say hello. The log was synced before."""
        self.retry_at = None
        try:
            self._connection = read_connection(self.folder / CONNECTION_FILE)
            self.channel = self._open(self._connection)
        except AccessDenied as error:
            self._refused(error)
            self._retry_later(now)
            return
        except (OSError, Disconnected, ProtocolError):
            self._retry_later(now)
            return
        self._channel_fd = self.channel.fileno()
        self._poll.register(self._channel_fd, select.EPOLLIN)
        self.incoming.synced(self.incoming.received)
        self._logged.clear()
        self._liveness = Liveness(HEARTBEAT_S, LOSS_S, now)
        self.channel.send(ClientHello(PROTOCOL, self._session, self._epoch, self.incoming.hello()))

    def _open(self, connection: Connection) -> ClientChannel:
        if not connection.tcp:
            return connect(connection, boot_id(), None)
        # The platform asked for the network, so that is the way even where the socket could be reached.
        keys = read_key_pair(self._key_file) if self._key_file is not None else None
        attempt, self._attempts = self._attempts, self._attempts + 1
        return connect(msgspec.structs.replace(connection, socket=""), boot_id(), keys, attempt)

    def _refused(self, error: AccessDenied | ProtocolError) -> None:
        # Every attempt may fail alike; the user is told once.
        if str(error) != self._last_refusal:
            self.refusal = self._last_refusal = str(error)

    def _retry_later(self, now: float) -> None:
        self.retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_LONGEST_S)

    # messages

    def receive(self, now: float) -> list[FromAgent]:
        """Return what has arrived; a broken connection is noted, and made anew later."""
        if self.channel is None:
            return []
        try:
            messages = self.channel.receive()
        except (AccessDenied, ProtocolError) as error:
            self._refused(error)
            self.disconnect(now)
            return []
        except Disconnected:
            self.disconnect(now)
            return []
        if messages and self._liveness is not None:
            self._liveness.heard(now)
        return messages

    def greeted(self, hello: AgentHello) -> None:
        """The agent answered the hello: send again what it lacks, and open the link."""
        self.is_open = True
        self._retry_s = RETRY_FIRST_S
        self.outgoing.resume(hello.durable)
        self._send_again()

    def accept(self, now: float, message: Outcomes | PilotEnded) -> bool:
        """Judge a numbered message; True when it is new. A gap breaks the connection, so that it is sent again."""
        size = len(message.outcomes) if isinstance(message, Outcomes) else 0
        verdict = self.incoming.accept(message.number, size)
        if verdict == "gap":
            self.disconnect(now)
        return verdict == "new"

    def acknowledged(self, message: Acknowledge) -> None:
        """The agent tells how far it has come."""
        self.outgoing.acknowledge(message.received, message.durable)
        self._send_again()

    def number(self, number: int, queued: Queued) -> bytes:
        """Take note of a message that is sent for the first time, and return its frame, to be sent once it is logged."""
        frame = encode(message_of(number, queued))
        self.outgoing.send(number, frame, number)
        return frame

    def send(self, frame: bytes) -> None:
        """Send a frame. If the connection is lost it is sent again after the next hello."""
        if self.channel is not None:
            self.channel.send(frame)

    def may_number(self) -> bool:
        """Tell whether a new message may be numbered and sent now."""
        return self.is_open and self.outgoing.may_send()

    def _frame(self, number: int) -> bytes:
        return encode(message_of(number, self.pilot.unacknowledged[number]))

    def _send_again(self) -> None:
        # A pilot that has ended takes no more messages, and its record has none; the link carries the last acknowledgement.
        if self.pilot.state in FINAL:
            return
        for frame in self.outgoing.transmit():
            self.send(frame)

    # acknowledging

    def logged(self, record: int) -> None:
        """All that was received is in the log up to this record."""
        received = self.incoming.received
        if received > self.incoming.durable and (not self._logged or self._logged[-1][1] < received):
            self._logged.append((record, received))

    def synced(self, record: int) -> None:
        """The log is on disk up to this record."""
        while self._logged and self._logged[0][0] <= record:
            self.incoming.synced(self._logged.popleft()[1])

    def acknowledge(self) -> None:
        """Tell the agent how far we are, if that is due."""
        message = self.incoming.acknowledgement() if self.is_open else None
        if message is not None and self.channel is not None:
            self.channel.send(message)

    # time and end

    def tick(self, now: float) -> bool:
        """Send a heartbeat if one is due, and notice silence; return True when it is time to connect."""
        if self.channel is not None and self._liveness is not None:
            if self._liveness.lost(now):
                self.disconnect(now)
            elif self._liveness.due(now):
                self.channel.send(Heartbeat())
                self._liveness.said(now)
        return self.retry_at is not None and now >= self.retry_at

    def next_event(self) -> float | None:
        """Return when ``tick`` is due."""
        if self.channel is not None and self._liveness is not None:
            return self._liveness.next_event()
        return self.retry_at

    def owns(self, descriptor: int) -> bool:
        """Tell whether this is the descriptor of the link's channel."""
        return descriptor == self._channel_fd

    def disconnect(self, now: float) -> None:
        """Drop the connection, and try again soon."""
        self._drop_channel()
        self._retry_later(now)

    def close(self) -> None:
        """Release all descriptors; the link is over."""
        self._drop_channel()
        self._unwatch_process()
        self._forget_ready()
        self.retry_at = None

    def _drop_channel(self) -> None:
        if self.channel is not None:
            self._poll.unregister(self._channel_fd)
            self.channel.close()
            self.channel, self._channel_fd = None, -1
        self.is_open = False
        self._liveness = None
        self.outgoing.disconnected()

    def _unwatch_process(self) -> None:
        if self.process_fd >= 0:
            self._poll.unregister(self.process_fd)
            os.close(self.process_fd)
            self.process_fd = -1

    def _forget_ready(self) -> None:
        if self.ready_fd >= 0:
            self._poll.unregister(self.ready_fd)
            os.close(self.ready_fd)
            self.ready_fd = -1
