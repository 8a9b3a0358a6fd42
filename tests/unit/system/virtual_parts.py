"""What stands in for the machine: a clock, a disk that may lose its unsynced tail, a wire that breaks, and nothing to poll."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator

from pilotage.wire.channel import Disconnected, Peer
from pilotage.wire.codec import decode_from_agent, decode_from_client, encode
from pilotage.wire.messages import FromAgent, FromClient


class Died(Exception):
    """A process is gone, in the middle of what it did."""


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"a virtual process wants to sleep for {seconds} s")


class NoPoll:
    """Stands in for an ``epoll``: the world decides who is served."""

    def register(self, descriptor: int, events: int) -> None:
        pass

    def unregister(self, descriptor: int) -> None:
        pass

    def close(self) -> None:
        pass


class Select:
    """Stands in for the module ``select``."""

    EPOLLIN = 1
    EPOLLOUT = 4
    epoll = NoPoll


class Disk:
    """A log's records, as encoded. The death of a process keeps them all; the loss of the node only what was synced."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.synced = 0
        self.snapshot: tuple[int, bytes] | None = None
        self.digest = hashlib.sha256()

    def append(self, record: bytes) -> int:
        self.records.append(record)
        self.digest.update(record)
        return len(self.records)

    def sync(self) -> None:
        self.synced = len(self.records)

    def lose_tail(self, chance: random.Random) -> int:
        """The node is lost: of what was not synced only a part, from its beginning, is there."""
        kept = chance.randint(self.synced, len(self.records))
        lost = len(self.records) - kept
        del self.records[kept:]
        self.synced = kept
        return lost


class Log:
    """A process's ``LogWriter`` over its disk; ``may_die`` is called before and after each write."""

    wake_fd = 1

    def __init__(self, disk: Disk, may_die: Callable[[], None], chance: random.Random) -> None:
        self._disk = disk
        self._may_die = may_die
        self._chance = chance

    @property
    def synced(self) -> int:
        return self._disk.synced

    def append(self, record: bytes) -> int:
        self._may_die()
        number = self._disk.append(record)
        self._may_die()
        return number

    def sync(self) -> None:
        self._may_die()
        self._disk.sync()

    def take_synced(self) -> int:
        return self._disk.synced

    def should_snapshot(self, size: int) -> bool:
        return self._chance.random() < 0.03

    def snapshot(self, state: bytes) -> None:
        self._disk.sync()
        self._disk.snapshot = (len(self._disk.records), state)

    def close(self) -> None:
        pass


class Connection:
    """One connection between a client and an agent: frames under way in each direction, in order."""

    def __init__(self, descriptor: int, peer: Peer) -> None:
        self.descriptor = descriptor
        self.peer = peer
        self.to_agent: deque[bytes] = deque()
        self.to_client: deque[bytes] = deque()
        self.broken = False
        """No more frames get through; those in the queues still arrive."""
        self.dropped = False
        """The agent has nothing to do with it any more."""

    def cut(self, chance: random.Random) -> None:
        """The network breaks the connection: of what is under way a part still arrives."""
        self.broken = True
        for queue in (self.to_agent, self.to_client):
            for _ in range(chance.randint(0, len(queue))):
                queue.pop()


class VirtualAgentChannel:
    """The agent's end. What several peers said is heard in any order, and what one said in its own."""

    def __init__(self, may_die: Callable[[], None], chance: random.Random, numbers: Iterator[int]) -> None:
        self._may_die = may_die
        self._chance = chance
        self._numbers = numbers
        self.connections: dict[Peer, Connection] = {}

    def connect(self, may_die: Callable[[], None]) -> VirtualClientChannel:
        number = next(self._numbers)
        connection = Connection(number, Peer(b"%d" % number))
        self.connections[connection.peer] = connection
        return VirtualClientChannel(connection, may_die, self._chance)

    def fileno(self) -> int:
        return 2

    def receive(self) -> list[tuple[Peer, FromClient]]:
        messages: list[tuple[Peer, FromClient]] = []
        for _ in range(self._chance.randint(1, 6)):
            speaking = [each for each in self.connections.values() if each.to_agent and not each.dropped]
            if not speaking:
                break
            connection = self._chance.choice(speaking)
            messages.append((connection.peer, decode_from_client(connection.to_agent.popleft())))
        return messages

    def send(self, peer: Peer, message: FromAgent | bytes) -> bool:
        self._may_die()
        connection = self.connections[peer]
        if connection.dropped:
            return False
        if connection.broken:
            # That the other side is gone may be noticed late.
            return self._chance.random() < 0.5
        connection.to_client.append(message if isinstance(message, bytes) else encode(message))
        self._may_die()
        return True

    def drop(self, peer: Peer) -> None:
        connection = self.connections[peer]
        connection.dropped = connection.broken = True

    def close(self) -> None:
        """The process is gone: the client reads what it had sent, then the end."""
        for connection in self.connections.values():
            connection.dropped = connection.broken = True


class VirtualClientChannel:
    """The client's end."""

    def __init__(self, connection: Connection, may_die: Callable[[], None], chance: random.Random) -> None:
        self.connection = connection
        self._may_die = may_die
        self._chance = chance

    def fileno(self) -> int:
        return self.connection.descriptor

    def receive(self) -> list[FromAgent]:
        queue = self.connection.to_client
        if not queue and self.connection.broken:
            raise Disconnected("the connection was lost")
        return [decode_from_agent(queue.popleft()) for _ in range(min(len(queue), self._chance.randint(1, 4)))]

    def send(self, message: FromClient | bytes) -> bool:
        self._may_die()
        if self.connection.broken:
            return False
        self.connection.to_agent.append(message if isinstance(message, bytes) else encode(message))
        self._may_die()
        return True

    def close(self) -> None:
        """What was said before still arrives."""
        self.connection.broken = True
        self.connection.to_client.clear()


def descriptors() -> Iterator[int]:
    """Numbers that are the descriptors of nothing else."""
    return itertools.count(1 << 20)
