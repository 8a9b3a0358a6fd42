"""The channels that ship keep the contract of all channels; then what is particular to each of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotage.errors import InvalidRequest
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.testing.contracts.channels import (
    DEADLINE_S,
    HELLO,
    ChannelContract,
    at_agent,
    at_client,
    submit,
    until_lost,
    wait,
)
from pilotage.wire.channel import AccessDenied, AgentChannel, ClientChannel, Disconnected, Role, may_say
from pilotage.wire.codec import encode
from pilotage.wire.connect import connect
from pilotage.wire.keys import Connection, KeyPair, generate_key_pair
from pilotage.wire.memory import MemoryAgentChannel
from pilotage.wire.messages import (
    Acknowledge,
    Cancel,
    ClientHello,
    EndPilot,
    FromAgent,
    FromClient,
    Heartbeat,
    Inspect,
    Refused,
)
from pilotage.wire.tcp import TcpAgentChannel, TcpClientChannel
from pilotage.wire.unix import CLIENT_SOCKET, UnixAgentChannel, UnixClientChannel


class TestUnixChannel(ChannelContract):
    def make_agent(self, folder: Path) -> AgentChannel:
        self.path = folder / CLIENT_SOCKET
        return UnixAgentChannel.bind(self.path)

    def make_client(self, agent: AgentChannel) -> ClientChannel:
        return UnixClientChannel.connect(self.path)


class TestTcpChannel(ChannelContract):
    def make_agent(self, folder: Path) -> AgentChannel:
        self.server, self.own = generate_key_pair(), generate_key_pair()
        return TcpAgentChannel.bind(self.server, {self.own.public: Role.CLIENT})

    def make_client(self, agent: AgentChannel) -> ClientChannel:
        assert isinstance(agent, TcpAgentChannel)
        return TcpClientChannel.connect(agent.endpoint, self.own, self.server.public)


class TestMemoryChannel(ChannelContract):
    def make_agent(self, folder: Path) -> AgentChannel:
        return MemoryAgentChannel()

    def make_client(self, agent: AgentChannel) -> ClientChannel:
        assert isinstance(agent, MemoryAgentChannel)
        return agent.connect()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("private")
    path.chmod(0o700)
    return path


# The Unix socket


def test_the_socket_needs_a_private_folder(folder: Path) -> None:
    folder.chmod(0o755)
    with pytest.raises(InvalidRequest, match="mode 0755 where 0700 is required"):
        UnixAgentChannel.bind(folder / CLIENT_SOCKET)


def test_the_socket_needs_a_folder(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no folder"):
        UnixAgentChannel.bind(folder / "missing" / CLIENT_SOCKET)


def test_a_link_to_a_private_folder_is_no_private_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InvalidRequest, match="is not a folder"):
        UnixAgentChannel.bind(tmp_path / "link" / CLIENT_SOCKET)


def test_a_socket_path_that_the_system_does_not_allow_is_named(folder: Path) -> None:
    deep = folder / ("d" * 100)
    deep.mkdir(mode=0o700)
    with pytest.raises(InvalidRequest, match="more than the 107"):
        UnixAgentChannel.bind(deep / CLIENT_SOCKET)


def test_the_socket_of_a_dead_agent_is_replaced_but_not_that_of_a_living_one(folder: Path) -> None:
    path = folder / CLIENT_SOCKET
    first = UnixAgentChannel.bind(path)
    try:
        with pytest.raises(InvalidRequest, match="another agent listens"):
            UnixAgentChannel.bind(path)
    finally:
        first._listener.close()  # dies without tidying up
        assert path.exists()
    second = UnixAgentChannel.bind(path)
    second.close()
    assert not path.exists()


def test_nobody_at_the_socket_is_told(folder: Path) -> None:
    with pytest.raises(Disconnected, match="no agent answers at"):
        UnixClientChannel.connect(folder / CLIENT_SOCKET)


def test_another_user_is_refused_by_both_sides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = UnixAgentChannel.bind(folder / CLIENT_SOCKET)
    try:
        client = UnixClientChannel.connect(folder / CLIENT_SOCKET)
        with monkeypatch.context() as patch:
            patch.setattr("pilotage.wire.unix._peer_uid", lambda stream: 12345)
            wait(agent)
            assert agent.receive() == []
            with pytest.raises(AccessDenied, match="runs as user 12345"):
                UnixClientChannel.connect(folder / CLIENT_SOCKET)
        until_lost(client)
        client.close()
    finally:
        agent.close()


def test_a_peer_that_does_not_read_holds_nobody_up_when_dropped(folder: Path) -> None:
    agent = UnixAgentChannel.bind(folder / CLIENT_SOCKET)
    client = UnixClientChannel.connect(folder / CLIENT_SOCKET)
    try:
        client.send(HELLO)
        ((peer, _),) = at_agent(agent)
        for _ in range(3):
            agent.send(peer, Refused("x" * 1_000_000))
        agent.drop(peer)
        # What the socket held is still read; what was queued behind it is gone with the connection.
        until_lost(client)
    finally:
        client.close()
        agent.close()


def test_what_is_queued_is_sent_when_the_channel_is_closed(folder: Path) -> None:
    agent = UnixAgentChannel.bind(folder / CLIENT_SOCKET)
    client = UnixClientChannel.connect(folder / CLIENT_SOCKET)
    received: list[FromAgent] = []

    def read() -> None:
        while len(received) < 5:
            wait(client)
            received.extend(client.receive())

    try:
        client.send(HELLO)
        ((peer, _),) = at_agent(agent)
        for _ in range(5):
            agent.send(peer, Refused("x" * 1_000_000))
        reader = threading.Thread(target=read)
        reader.start()
    finally:
        agent.close()
    reader.join(DEADLINE_S)
    assert len(received) == 5
    client.close()


def test_the_local_channel_does_not_load_zeromq() -> None:
    program = "import sys, pilotage.wire.unix, pilotage.wire.connect; sys.exit('zmq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# TCP


class Tcp:
    """An agent at a TCP port that allows one client and one observer."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.server, self.client, self.observer = (generate_key_pair() for _ in range(3))
        self.allowed = {self.client.public: Role.CLIENT, self.observer.public: Role.OBSERVER}
        self.agent = TcpAgentChannel.bind(self.server, self.allowed, address)

    def connect(self, keys: KeyPair, server_key: str = "") -> TcpClientChannel:
        return TcpClientChannel.connect(self.agent.endpoint, keys, server_key or self.server.public)


@pytest.fixture
def tcp() -> Iterator[Tcp]:
    made = Tcp()
    try:
        yield made
    finally:
        made.agent.close()


def test_a_key_that_is_not_on_the_list_is_denied(tcp: Tcp) -> None:
    stranger = tcp.connect(generate_key_pair())
    stranger.send(HELLO)
    error = until_lost(stranger, tcp.agent)
    assert isinstance(error, AccessDenied)
    assert "allow-list" in str(error)
    stranger.close()
    known = tcp.connect(tcp.client)
    known.send(Heartbeat())
    assert [message for _, message in at_agent(tcp.agent)] == [Heartbeat()]
    known.close()


def test_a_key_may_be_added_while_the_agent_listens(tcp: Tcp) -> None:
    keys = generate_key_pair()
    tcp.allowed[keys.public] = Role.CLIENT
    client = tcp.connect(keys)
    client.send(HELLO)
    assert [message for _, message in at_agent(tcp.agent)] == [HELLO]
    client.close()


def test_a_peer_without_the_secret_of_an_allowed_key_is_not_heard(tcp: Tcp) -> None:
    thief = tcp.connect(KeyPair(tcp.client.public, generate_key_pair().secret))
    thief.send(HELLO)
    until_lost(thief, tcp.agent)
    assert tcp.agent.receive() == []
    thief.close()


def test_a_client_does_not_talk_to_an_agent_of_another_key(tcp: Tcp) -> None:
    misled = tcp.connect(tcp.client, generate_key_pair().public)
    misled.send(HELLO)
    assert not isinstance(until_lost(misled, tcp.agent), AccessDenied)
    assert tcp.agent.receive() == []
    misled.close()


@pytest.mark.parametrize("mechanism", ["null", "plain"])
def test_a_peer_that_speaks_no_curve_is_not_heard(tcp: Tcp, mechanism: str) -> None:
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        if mechanism == "plain":
            dealer.plain_username, dealer.plain_password = b"client", b"client"
        failed = zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.DISCONNECTED
        monitor = dealer.get_monitor_socket(failed)
        dealer.connect(tcp.agent.endpoint)
        dealer.send(encode(HELLO))
        assert monitor.poll(int(DEADLINE_S * 1000)), "the agent let the handshake stand"
        assert tcp.agent.receive() == []
        dealer.disable_monitor()
    finally:
        context.destroy(linger=0)


def test_nobody_at_the_port_is_told(tcp: Tcp) -> None:
    endpoint = tcp.agent.endpoint
    tcp.agent.close()
    late = TcpClientChannel.connect(endpoint, tcp.client, tcp.server.public)
    assert "nobody listens there" in str(until_lost(late))
    late.close()


def test_an_observer_may_ask_but_not_submit(tcp: Tcp) -> None:
    observer = tcp.connect(tcp.observer)
    observer.send(submit(1))
    (answer,) = at_client(observer, tcp.agent)
    assert isinstance(answer, Refused)
    assert "may only observe" in answer.reason
    observer.send(Inspect(1, ""))  # type: ignore[arg-type]
    assert [message for _, message in at_agent(tcp.agent)] == [Inspect(1, "")]  # type: ignore[arg-type]
    observer.close()


def test_an_observer_in_memory_may_ask_but_not_submit() -> None:
    agent = MemoryAgentChannel()
    observer = agent.connect(Role.OBSERVER)
    observer.send(submit(1))
    observer.send(Inspect(1, ""))  # type: ignore[arg-type]
    assert [message for _, message in agent.receive()] == [Inspect(1, "")]  # type: ignore[arg-type]
    (answer,) = observer.receive()
    assert isinstance(answer, Refused)


@pytest.mark.parametrize(
    ("message", "observer_may"),
    [
        (HELLO, False),
        (ClientHello(1, SessionUid("s"), 1, 0, observer=True), True),
        (Heartbeat(), True),
        (Acknowledge(1, 1), True),
        (Inspect(1, ""), True),  # type: ignore[arg-type]
        (Cancel(0, []), True),
        (Cancel(1, []), False),
        (EndPilot(1), False),
        (submit(1), False),
    ],
)
def test_roles(message: FromClient, observer_may: bool) -> None:
    assert may_say(Role.OBSERVER, message) is observer_may
    assert may_say(Role.CLIENT, message)


def test_ipv6(tcp: Tcp) -> None:
    try:
        six = Tcp("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    client = six.connect(six.client)
    client.send(HELLO)
    assert [message for _, message in at_agent(six.agent)] == [HELLO]
    client.close()
    six.agent.close()


def test_a_port_in_use_is_told(tcp: Tcp) -> None:
    port = int(tcp.agent.endpoint.rsplit(":", 1)[1])
    with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1 port {port}"):
        TcpAgentChannel.bind(tcp.server, {}, port=port)


# The way to an agent


def address(socket: Path, boot_id: str, *endpoints: str, server_key: str = "") -> Connection:
    return Connection(PilotUid("p"), 1, "node1", boot_id, 1, 1, str(socket), endpoints, server_key)


def test_an_agent_on_this_machine_is_reached_by_its_socket(folder: Path) -> None:
    agent = UnixAgentChannel.bind(folder / CLIENT_SOCKET)
    client = connect(address(folder / CLIENT_SOCKET, "here", "tcp://127.0.0.1:1"), "here", None)
    client.send(HELLO)
    assert [message for _, message in at_agent(agent)] == [HELLO]
    client.close()
    agent.close()


def test_an_agent_on_another_machine_is_reached_at_its_endpoints_one_after_the_other(folder: Path, tcp: Tcp) -> None:
    elsewhere = address(folder / CLIENT_SOCKET, "there", "tcp://127.0.0.1:1", tcp.agent.endpoint, server_key=tcp.server.public)
    first = connect(elsewhere, "here", tcp.client, attempt=0)
    assert "tcp://127.0.0.1:1" in str(until_lost(first))
    first.close()
    second = connect(elsewhere, "here", tcp.client, attempt=1)
    second.send(HELLO)
    assert [message for _, message in at_agent(tcp.agent)] == [HELLO]
    second.close()


def test_an_agent_that_cannot_be_reached_from_here_is_named(folder: Path) -> None:
    with pytest.raises(Disconnected, match="agent of pilot p on node1 listens only on its own machine"):
        connect(address(folder / CLIENT_SOCKET, "there"), "here", None)
    with pytest.raises(AccessDenied, match="without a key pair"):
        connect(address(folder / CLIENT_SOCKET, "there", "tcp://127.0.0.1:1"), "here", None)


def test_what_was_said_before_the_process_ends_at_once_arrives(tcp: Tcp) -> None:
    keys, endpoint = tcp.client, tcp.agent.endpoint
    program = f"""
import os
from pilotage.model.ids import SessionUid
from pilotage.wire.keys import KeyPair
from pilotage.wire.messages import Acknowledge
from pilotage.wire.tcp import TcpClientChannel
from pilotage.wire.zeromq import finish_connections
for number in (1, 2):
    client = TcpClientChannel.connect({endpoint!r}, KeyPair({keys.public!r}, {keys.secret!r}), {tcp.server.public!r})
    client.send(Acknowledge(number, 0))
    client.close()
    finish_connections()
finish_connections()
os._exit(0)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    received = at_agent(tcp.agent, 2)
    assert sorted(message.received for _, message in received) == [1, 2]  # type: ignore[union-attr]
    assert process.wait(DEADLINE_S) == 0
