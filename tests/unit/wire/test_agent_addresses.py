"""A client's link to an agent that tells several addresses, of which one leads to it."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pilotage.model.ids import PilotUid, SessionUid
from pilotage.wire import agent_link
from pilotage.wire.agent_link import AgentLink
from pilotage.wire.channel import Role
from pilotage.wire.keys import Connection, KeyPair, generate_key_pair, write_connection, write_key_pair
from pilotage.wire.messages import PROTOCOL, AgentHello, ClientHello
from pilotage.wire.tcp import TcpAgentChannel

PATIENCE_S = 60.0


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "agent").mkdir(mode=0o700)
    return folder


class World:
    """An agent, and a link to it that finds these ``endpoints`` before those of the agent, and those ``after``."""

    def __init__(self, held: ExitStack, folder: Path, before: list[str], after: list[str]) -> None:
        keys, server = generate_key_pair(), generate_key_pair()
        self.agent = TcpAgentChannel.bind(server, {keys.public: Role.CLIENT})
        held.callback(self.agent.close)
        self.connection = Connection(
            PilotUid("p"), 1, "elsewhere", "another-boot", 1, 1, "", (*before, self.agent.endpoint, *after), server.public
        )
        write_connection(folder / "connection.json", self.connection)
        self._write_keys(folder, keys)
        self.poll = select.epoll()
        held.callback(self.poll.close)
        self.link = AgentLink(
            SessionUid("s"),
            1,
            folder / "connection.json",
            self.poll,
            lambda number: b"",
            last=0,
            unacknowledged=(),
            durable=0,
            retry_at=0.0,
            key_file=folder / "keys.json",
        )
        held.callback(self.link.close)
        self.poll.register(self.agent.fileno(), select.EPOLLIN)
        self.tried: list[str] = []

    def _write_keys(self, folder: Path, keys: KeyPair) -> None:
        write_key_pair(folder / "keys.json", keys)

    def open(self) -> None:
        """Let both work until the link is open."""
        until = time.monotonic() + PATIENCE_S
        while not self.link.is_open:
            assert time.monotonic() < until, f"not open; tried {self.tried}"
            now = time.time()
            if self.link.tick(now):
                self.link.connect(now)
            due = self.link.next_event()
            self.poll.poll(0.05 if due is None else min(0.05, max(0.0, due - time.time())))
            for peer, message in self.agent.receive():
                if isinstance(message, ClientHello):
                    self.agent.send(peer, AgentHello(PROTOCOL, SessionUid("s"), PilotUid("p"), 1, 0, [], 0.0))
            for message in self.link.receive(time.time()):
                if isinstance(message, AgentHello):
                    self.link.greeted(message)


def silent_endpoint(held: ExitStack) -> str:
    """Return an address at which connections are taken, and nothing is ever said."""
    listening = held.enter_context(socket.create_server(("127.0.0.1", 0)))
    return f"tcp://127.0.0.1:{listening.getsockname()[1]}"


def refused_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"tcp://127.0.0.1:{closed.getsockname()[1]}"


def test_addresses_that_lead_nowhere_are_passed_over(held: ExitStack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_link, "PATIENCES_S", (0.3, 1.0, 10.0))
    before = [silent_endpoint(held), refused_endpoint(), "tcp://no-such-host.invalid:4000"]
    world = World(held, folder, before, [])
    world.open()
    assert world.connection.tcp[3] == world.agent.endpoint


def test_the_address_that_worked_is_tried_first_again(held: ExitStack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    connect = agent_link.connect

    def noted(address: Connection, boot: str, keys: KeyPair | None, attempt: int = 0) -> object:
        opened.append(attempt % len(address.tcp))
        return connect(address, boot, keys, attempt)

    monkeypatch.setattr(agent_link, "connect", noted)
    monkeypatch.setattr(agent_link, "PATIENCES_S", (0.3, 1.0, 10.0))
    world = World(held, folder, [silent_endpoint(held)], [silent_endpoint(held)])
    world.open()
    before = len(opened)
    world.link.disconnect(time.time())
    world.open()
    assert opened[before:] == [1]
