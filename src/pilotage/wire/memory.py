"""A channel inside one process, for tests and for running a client and an agent together.

Messages pass through the codec, so what could not travel between processes does not travel here either. Threads may stand
on either end, and ``fileno()`` works as with the other channels, but a pair that never asks for it opens no descriptor.
"""

from __future__ import annotations

import itertools
import os
from collections import deque

from pilotage.errors import ProtocolError
from pilotage.wire.channel import Disconnected, Peer, Role, may_say, refusal
from pilotage.wire.codec import decode_from_agent, decode_from_client, encode
from pilotage.wire.messages import FromAgent, FromClient, Refused

_DRAIN = 256

_Item = tuple[Peer, bytes | None]
"""A frame from a peer, or the end of its connection."""


class _Mailbox:
    """Frames on their way to one owner, with a descriptor that is readable while there are any."""

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._descriptor = -1

    def fileno(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._signal()
        return self._descriptor

    def put(self, item: _Item) -> None:
        self._items.append(item)
        self._signal()

    def put_back(self, item: _Item) -> None:
        self._items.appendleft(item)
        self._signal()

    def take(self) -> list[_Item]:
        items = self._items
        taken = [items.popleft() for _ in range(min(len(items), _DRAIN))]
        if self._descriptor >= 0 and not items:
            try:
                os.eventfd_read(self._descriptor)
            except BlockingIOError:
                pass
            # Another thread may have put something between the look and the reading.
            self._signal()
        return taken

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _signal(self) -> None:
        if self._items and self._descriptor >= 0:
            os.eventfd_write(self._descriptor, 1)


class MemoryAgentChannel:
    """The agent's end; clients come from ``connect``."""

    def __init__(self) -> None:
        self._inbox = _Mailbox()
        self._outboxes: dict[Peer, _Mailbox] = {}
        self._roles: dict[Peer, Role] = {}
        self._serial = itertools.count(1)
        self._closed = False

    def connect(self, role: Role = Role.CLIENT) -> MemoryClientChannel:
        """Return the client's end of a new connection.

        Raises:
            Disconnected: the agent's end is closed.
        """
        if self._closed:
            raise Disconnected("the agent has closed this channel")
        peer = Peer(b"memory.%d" % next(self._serial))
        mailbox = _Mailbox()
        self._roles[peer] = role
        self._outboxes[peer] = mailbox
        return MemoryClientChannel(peer, mailbox, self._inbox)

    def fileno(self) -> int:
        return self._inbox.fileno()

    def receive(self) -> list[tuple[Peer, FromClient]]:
        messages: list[tuple[Peer, FromClient]] = []
        for peer, frame in self._inbox.take():
            if peer not in self._outboxes:
                continue
            if frame is None:
                self._forget(peer)
                continue
            try:
                message = decode_from_client(frame)
            except ProtocolError as error:
                self.send(peer, Refused(str(error)))
                self.drop(peer)
                continue
            if may_say(self._roles[peer], message):
                messages.append((peer, message))
            else:
                self.send(peer, refusal(message))
        return messages

    def send(self, peer: Peer, message: FromAgent | bytes) -> bool:
        mailbox = self._outboxes.get(peer)
        if mailbox is None:
            return False
        mailbox.put((peer, message if isinstance(message, bytes) else encode(message)))
        return True

    def drop(self, peer: Peer) -> None:
        mailbox = self._forget(peer)
        if mailbox is not None:
            mailbox.put((peer, None))

    def close(self) -> None:
        self._closed = True
        for peer in list(self._outboxes):
            self.drop(peer)
        self._inbox.close()

    def _forget(self, peer: Peer) -> _Mailbox | None:
        self._roles.pop(peer, None)
        return self._outboxes.pop(peer, None)


class MemoryClientChannel:
    """The client's end. Made by ``MemoryAgentChannel.connect``."""

    def __init__(self, peer: Peer, inbox: _Mailbox, outbox: _Mailbox) -> None:
        self._peer = peer
        self._inbox = inbox
        self._outbox = outbox
        self._lost = False
        self._closed = False

    def fileno(self) -> int:
        return self._inbox.fileno()

    def receive(self) -> list[FromAgent]:
        messages: list[FromAgent] = []
        for item in self._inbox.take():
            frame = item[1]
            if frame is not None:
                messages.append(decode_from_agent(frame))
                continue
            # The end stays in the mailbox: it is told after the messages before it, and again whenever asked.
            self._lost = True
            self._inbox.put_back(item)
            if not messages:
                raise Disconnected("the agent closed the connection")
        return messages

    def send(self, message: FromClient | bytes) -> bool:
        if self._lost or self._closed:
            return False
        self._outbox.put((self._peer, message if isinstance(message, bytes) else encode(message)))
        return True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outbox.put((self._peer, None))
            self._inbox.close()
