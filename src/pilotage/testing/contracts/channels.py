"""What every channel between client and agent does, whatever carries it: the contract of ``wire.channel`` as a suite.

Give your transport's tests a subclass::

    class TestPigeons(ChannelContract):
        def make_agent(self, folder: Path) -> AgentChannel:
            return PigeonLoft(folder)

        def make_client(self, agent: AgentChannel) -> ClientChannel:
            return Pigeon(agent.address)

The helpers wait as a shell does: by ``fileno`` alone, and never longer than ``DEADLINE_S``.
"""

from __future__ import annotations

import os
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from pilotage.model.ids import Binding, PilotUid, SessionUid, TaskUid
from pilotage.wire.channel import AgentChannel, ClientChannel, Disconnected, Peer
from pilotage.wire.codec import encode
from pilotage.wire.messages import (
    Acknowledge,
    AgentHello,
    ClientHello,
    FromAgent,
    FromClient,
    Heartbeat,
    Inspect,
    Refused,
    Submit,
)

DEADLINE_S = 60.0
HELLO = ClientHello(1, SessionUid("s"), 1, 0)
WELCOME = AgentHello(1, SessionUid("s"), PilotUid("p"), 1, 0, [], 0.0)


class Closing(Protocol):
    """Whatever can be closed."""

    def close(self) -> None:
        """Let go of everything."""
        ...


class Transport:
    """One agent's end, and clients of it; closes them all at the end."""

    def __init__(self, agent: AgentChannel, make_client: Callable[[], ClientChannel]) -> None:
        self.agent = agent
        self._make_client = make_client
        self._opened: list[Closing] = [agent]

    def client(self) -> ClientChannel:
        """Return a new connection."""
        channel = self._make_client()
        self._opened.append(channel)
        return channel

    def close(self) -> None:
        """Close everything."""
        for channel in reversed(self._opened):
            channel.close()


def wait(*channels: AgentChannel | ClientChannel) -> None:
    """Wait, by ``fileno`` alone, until one of the channels has something to do."""
    ready, _, _ = select.select(channels, [], [], DEADLINE_S)
    assert ready, "no channel became readable"


def at_agent(agent: AgentChannel, count: int = 1, client: ClientChannel | None = None) -> list[tuple[Peer, FromClient]]:
    """Receive at the agent, while the client's loop turns if one is given (it sends what did not fit before)."""
    messages: list[tuple[Peer, FromClient]] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} messages arrived"
        wait(*([agent] if client is None else [agent, client]))
        messages += agent.receive()
        if client is not None:
            assert client.receive() == []
    return messages


def at_client(client: ClientChannel, agent: AgentChannel, count: int = 1) -> list[FromAgent]:
    """Receive at the client, while the agent's loop turns (it checks keys, and flushes)."""
    messages: list[FromAgent] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} messages arrived"
        wait(agent, client)
        assert agent.receive() == []
        messages += client.receive()
    return messages


def until_lost(client: ClientChannel, *agents: AgentChannel) -> Disconnected:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert time.monotonic() < deadline, "the client did not notice"
        wait(client, *agents)
        for agent in agents:
            agent.receive()
        try:
            client.receive()
        except Disconnected as error:
            return error


def submit(number: int, size: int = 0) -> Submit:
    return Submit(number, Binding(1), msgspec.Raw(msgspec.msgpack.encode(b"x" * size)))


def submit_like_answer(number: int, size: int) -> Refused:
    return Refused(str(number % 10) * size)


class ChannelContract(ABC):
    """Subclass it under a name that begins with ``Test``, and say how the two ends are made."""

    @abstractmethod
    def make_agent(self, folder: Path) -> AgentChannel:
        """Return an agent's end that listens. ``folder`` is private, and there for sockets or keys."""

    @abstractmethod
    def make_client(self, agent: AgentChannel) -> ClientChannel:
        """Return a new connection, in the role of a client, to this agent's end."""

    @pytest.fixture
    def transport(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
        """An agent's end, and as many clients as asked for; all are closed in the end."""
        folder = tmp_path_factory.mktemp("private")
        folder.chmod(0o700)
        agent = self.make_agent(folder)
        made = Transport(agent, lambda: self.make_client(agent))
        try:
            yield made
        finally:
            made.close()

    def test_a_hello_is_answered(self, transport: Transport) -> None:
        client = transport.client()
        assert client.send(HELLO)
        ((peer, message),) = at_agent(transport.agent)
        assert message == HELLO
        assert transport.agent.send(peer, WELCOME)
        assert at_client(client, transport.agent) == [WELCOME]

    def test_messages_may_be_sent_encoded(self, transport: Transport) -> None:
        client = transport.client()
        assert client.send(encode(HELLO))
        ((peer, message),) = at_agent(transport.agent)
        assert message == HELLO
        assert transport.agent.send(peer, encode(WELCOME))
        assert at_client(client, transport.agent) == [WELCOME]

    def test_each_client_is_a_peer_of_its_own_and_gets_its_own_answers(self, transport: Transport) -> None:
        clients = [transport.client() for _ in range(3)]
        for index, client in enumerate(clients):
            client.send(Inspect(index, TaskUid("")))
        asked = at_agent(transport.agent, 3)
        assert len({peer for peer, _ in asked}) == 3
        for peer, message in asked:
            assert isinstance(message, Inspect)
            transport.agent.send(peer, Acknowledge(message.question, 0))
        for index, client in enumerate(clients):
            assert at_client(client, transport.agent) == [Acknowledge(index, 0)]

    def test_many_messages_arrive_in_order_though_readiness_is_looked_at_alone(self, transport: Transport) -> None:
        client = transport.client()
        for number in range(1, 2001):
            client.send(Acknowledge(number, 0))
        received = at_agent(transport.agent, 2000, client)
        assert [message.received for _, message in received] == list(range(1, 2001))  # type: ignore[union-attr]

    def test_a_channel_stays_readable_while_messages_are_left(self, transport: Transport) -> None:
        client = transport.client()
        client.send(HELLO)
        ((peer, _),) = at_agent(transport.agent)
        for number in range(1, 1001):
            transport.agent.send(peer, Acknowledge(number, 0))
            # Sending takes note of what has arrived; that must not hide it from who waits.
            client.send(Heartbeat())
        received: list[FromAgent] = []
        heartbeats: list[tuple[Peer, FromClient]] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(received) < 1000 or len(heartbeats) < 1000:
            assert time.monotonic() < deadline
            wait(client, transport.agent)
            received += client.receive()
            heartbeats += transport.agent.receive()
        assert [message.received for message in received] == list(range(1, 1001))  # type: ignore[union-attr]
        assert {message for _, message in heartbeats} == {Heartbeat()}

    def test_a_drained_channel_is_not_readable(self, transport: Transport) -> None:
        client = transport.client()
        client.send(HELLO)
        ((peer, _),) = at_agent(transport.agent)
        transport.agent.send(peer, WELCOME)
        at_client(client, transport.agent)
        # What is under way by itself (an access decision, a handshake's last step) may still wake once or twice, not for ever.
        for channel in (client, transport.agent):
            deadline = time.monotonic() + DEADLINE_S
            while select.select([channel], [], [], 0)[0]:
                assert channel.receive() == []
                assert time.monotonic() < deadline, "the channel stays readable with nothing to do"

    def test_large_messages_pass_in_both_directions_at_once(self, transport: Transport) -> None:
        client = transport.client()
        client.send(HELLO)
        ((peer, _),) = at_agent(transport.agent)
        size, count = 3_000_000, 4
        for number in range(1, count + 1):
            assert client.send(submit(number, size))
            assert transport.agent.send(peer, submit_like_answer(number, size))
        sizes: list[int] = []
        answers: list[FromAgent] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(sizes) < count or len(answers) < count:
            assert time.monotonic() < deadline
            wait(client, transport.agent)
            for _, message in transport.agent.receive():
                assert isinstance(message, Submit)
                sizes.append(len(bytes(message.batch)))
            answers += client.receive()
        assert all(got > size for got in sizes)
        assert [len(answer.reason) for answer in answers] == [size] * count  # type: ignore[union-attr]

    def test_a_frame_that_is_no_message_is_refused_and_its_sender_dropped(self, transport: Transport) -> None:
        bad, good = transport.client(), transport.client()
        bad.send(b"\xc1 this is no MessagePack")
        (answer,) = at_client(bad, transport.agent)
        assert isinstance(answer, Refused)
        assert "same version of Pilotage" in answer.reason
        good.send(HELLO)
        assert [message for _, message in at_agent(transport.agent)] == [HELLO]

    def test_a_peer_that_left_cannot_be_sent_to(self, transport: Transport) -> None:
        client = transport.client()
        client.send(HELLO)
        ((peer, _),) = at_agent(transport.agent)
        client.close()
        deadline = time.monotonic() + DEADLINE_S
        while transport.agent.send(peer, Heartbeat()):
            assert time.monotonic() < deadline, "the agent did not notice"
            transport.agent.receive()

    def test_a_peer_that_never_was_cannot_be_sent_to(self, transport: Transport) -> None:
        assert transport.agent.send(Peer(b"nobody"), Heartbeat()) is False

    def test_a_dropped_peer_is_neither_heard_nor_told(self, transport: Transport) -> None:
        client = transport.client()
        client.send(HELLO)
        ((peer, _),) = at_agent(transport.agent)
        transport.agent.drop(peer)
        client.send(HELLO)
        other = transport.client()
        other.send(Heartbeat())
        assert [message for _, message in at_agent(transport.agent)] == [Heartbeat()]
        assert transport.agent.send(peer, Heartbeat()) is False

    def test_a_client_learns_that_the_agent_is_gone_after_what_it_sent_before(self, transport: Transport) -> None:
        client = transport.client()
        client.send(HELLO)
        ((peer, _),) = at_agent(transport.agent)
        transport.agent.send(peer, WELCOME)
        assert at_client(client, transport.agent) == [WELCOME]
        transport.agent.close()
        until_lost(client)
        assert client.send(HELLO) is False
        with pytest.raises(Disconnected):
            client.receive()
        wait(client)

    def test_closing_twice_does_nothing(self, transport: Transport) -> None:
        client = transport.client()
        client.close()
        client.close()
        transport.agent.close()
        transport.agent.close()

    def test_a_connection_gives_its_descriptors_back(self, transport: Transport) -> None:
        def exchange() -> None:
            client = transport.client()
            client.send(HELLO)
            ((peer, _),) = at_agent(transport.agent)
            client.close()
            deadline = time.monotonic() + DEADLINE_S
            while transport.agent.send(peer, Heartbeat()):
                assert time.monotonic() < deadline
                transport.agent.receive()

        exchange()  # what is opened once for all
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            exchange()
        deadline = time.monotonic() + DEADLINE_S
        while len(os.listdir("/proc/self/fd")) > before:
            # ZeroMQ's own thread closes what it holds a little later.
            assert time.monotonic() < deadline, "descriptors stay open"
            transport.agent.receive()
