"""Where the hosts of a pilot's nodes find their agent: a port that only they have the key to, and a file that says where.

The file, ``hosts.json`` in the agent's folder (mode 0600, on the shared file system), is all that a host is told. It reads it
again for each attempt to connect, so that it finds the next agent, too. A host that says hello takes the place of an earlier
one of its name: its own broken connection, or one that is gone, as there is one at a time on a node. What was said on different
connections may arrive in any order, so the later hello counts, not the last one.
"""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pilotage.errors import BackendError
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.platforms.node_here import NodeFound
from pilotage.wire.addresses import EVERYWHERE, HERE
from pilotage.wire.channel import Peer, Role
from pilotage.wire.host_channel import HostListener
from pilotage.wire.host_messages import HOST_PROTOCOL, FromHost, HostClose, HostGone, HostHello, HostRefused, ToHost
from pilotage.wire.keys import HostAccess, generate_key_pair, write_host_access
from pilotage.wire.runner_settings import HOSTS_FILE

ORPHAN_TIMEOUT_S = 60.0
"""A host without its agent for so long ends its tasks and itself."""

_LOOK_S = 0.1
_SPARE_FILES = 256
"""What an agent has open beside the connections of its hosts."""

_decode_found = msgspec.msgpack.Decoder(NodeFound).decode


class HostsLeft(NamedTuple):
    """Hosts that have not said that they are gone: *silent* ones were not heard at all; the others were told to end."""

    silent: frozenset[str]
    ending: frozenset[str]


class HostLobby:
    """Hears hosts, by the names of their nodes. Made by ``open``."""

    def __init__(self, listener: HostListener, path: Path, pilot: PilotUid, names: Collection[str]) -> None:
        self._listener = listener
        self._path = path
        self._pilot = pilot
        self._names = frozenset(names)
        self._peers: dict[str, Peer] = {}
        self._latest: dict[str, HostHello] = {}
        self._name_of: dict[Peer, str] = {}
        self._unread: list[tuple[str, FromHost]] = []
        """What was said while hosts were gathered."""

    @classmethod
    def open(
        cls,
        agent_folder: Path,
        session: SessionUid,
        pilot: PilotUid,
        names: Sequence[str],
        addresses: Sequence[str],
        *,
        orphan_timeout_s: float = ORPHAN_TIMEOUT_S,
        partition: str = "",
    ) -> HostLobby:
        """Listen for the hosts of these names, and write where.

        ``addresses``: under which names and addresses nodes reach this one, the best first (see ``wire.addresses``). Hosts
        that an agent before this one had find the file anew. ``partition``: see ``HostAccess``.

        Raises:
            BackendError: nothing can be listened at, or not so many hosts can be connected.
        """
        _allow_connections(len(names))
        keys, of_hosts = generate_key_pair(), generate_key_pair()
        inside = all(address == HERE for address in addresses)
        try:
            listener = HostListener.bind(keys, {of_hosts.public: Role.NODE}, HERE if inside else EVERYWHERE)
        except OSError as error:
            raise BackendError(f"the agent cannot listen for the hosts of its nodes: {error.strerror}") from error
        port = listener.endpoint.rpartition(":")[2]
        endpoints = tuple(f"tcp://{address}:{port}" for address in addresses)
        path = agent_folder / HOSTS_FILE
        try:
            access = HostAccess(session, pilot, endpoints, keys.public, of_hosts, tuple(names), orphan_timeout_s, partition)
            write_host_access(path, access)
        except BaseException:
            listener.close()
            raise
        return cls(listener, path, pilot, names)

    def fileno(self) -> int:
        """Return the descriptor that is readable while ``receive`` has something to do."""
        return self._listener.fileno()

    def gather(self, names: Collection[str], timeout_s: float, stop: Callable[[], bool]) -> dict[str, NodeFound]:
        """Wait for the hosts of these names, and return what each found on its node; those that did not come are missing.

        Blocks until all are there, for ``timeout_s`` at the longest, or until ``stop``, which is asked ten times a second,
        returns True. What hosts say is kept for ``receive``.
        """
        found: dict[str, NodeFound] = {}
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0 and not stop() and not found.keys() >= set(names):
            ready, _, _ = select.select([self._listener], [], [], min(_LOOK_S, left_s))
            if ready:
                for name, message in self._hear():
                    if isinstance(message, HostHello):
                        found[name] = _decode_found(message.found)
                    self._unread.append((name, message))
        return found

    def receive(self) -> list[tuple[str, FromHost]]:
        """Return what hosts have said, by their names; what comes on connections that are not theirs any more is dropped."""
        unread, self._unread = self._unread, []
        # While hosts were gathered one may have come again.
        fresh = [(name, message) for name, message in unread if name in self._peers]
        return fresh + self._hear()

    def send(self, name: str, message: ToHost | bytes) -> bool:
        """Send a host a message, or an encoded one. Return False when it is not there; True does not mean that it arrived."""
        peer = self._peers.get(name)
        if peer is None:
            return False
        if self._listener.send(peer, message):
            return True
        self.forget(name)
        return False

    def dismiss(self, name: str, reason: str) -> None:
        """Tell a host to end all that it runs, and itself, and hear no more of it."""
        self.send(name, HostRefused(reason))
        self.forget(name)

    def end_hosts(self, names: Collection[str], grace_s: float, patience_s: float) -> HostsLeft:
        """Have all hosts end that are there, or come, until those of these names have, or the patience is over.

        Tasks have ``grace_s`` to end. Return the names of hosts that have not said that they are gone, and all with them.
        """
        left = set(names)
        close = HostClose(grace_s)
        told = {name for name in self._peers if self.send(name, close)}
        until = time.monotonic() + patience_s
        while left | told and (left_s := until - time.monotonic()) > 0:
            select.select([self._listener], [], [], min(_LOOK_S, left_s))
            for name, message in self.receive():
                if isinstance(message, HostHello) and self.send(name, close):
                    told.add(name)
                elif isinstance(message, HostGone):
                    told.discard(name)
                    left.discard(name)
        return HostsLeft(frozenset(left - told), frozenset(told))

    def forget(self, name: str) -> None:
        """Have nothing more to do with the host's connection, if it has one; it may connect again."""
        peer = self._peers.pop(name, None)
        if peer is not None:
            del self._name_of[peer]
            self._listener.drop(peer)

    def close(self) -> None:
        """Stop listening, after a bounded attempt to send what is queued; the pilot is over, and nobody is to come again."""
        self._path.unlink(missing_ok=True)
        self._listener.close()

    def leave(self) -> None:
        """In place of ``close``: let go of all descriptors as the death of the agent's process does."""
        self._listener.close()

    def _hear(self) -> list[tuple[str, FromHost]]:
        heard: list[tuple[str, FromHost]] = []
        for peer, message in self._listener.receive():
            if isinstance(message, HostHello):
                reason = self._why_not(message)
                if reason:
                    self._listener.send(peer, HostRefused(reason))
                    self._listener.drop(peer)
                    continue
                latest = self._latest.get(message.name)
                if latest is not None and message.is_older_than(latest):
                    # The host has made another connection since.
                    self._listener.drop(peer)
                    continue
                self._latest[message.name] = message
                self.forget(message.name)
                self._peers[message.name] = peer
                self._name_of[peer] = message.name
            name = self._name_of.get(peer)
            if name is not None:
                heard.append((name, message))
        return heard

    def _why_not(self, hello: HostHello) -> str:
        if hello.protocol != HOST_PROTOCOL:
            return f"it speaks protocol {hello.protocol}, not {HOST_PROTOCOL}: all nodes must run the same Pilotage"
        if hello.pilot != self._pilot:
            return f"it is a host of {hello.pilot}, not of {self._pilot}"
        if hello.name not in self._names:
            return f"this pilot has no node {hello.name}"
        return ""


def _allow_connections(hosts: int) -> None:
    """Have this process be able to hold as many connections.

    Raises:
        BackendError: the system does not let it.
    """
    wanted = hosts + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BackendError(
            f"the agent of {hosts} nodes has {wanted} files open, and may have {hard}; raise the limit (ulimit -Hn) on its node"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
