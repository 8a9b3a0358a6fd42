"""Where an agent listens, and what it tells of that."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from pilotage.agent.settings import PilotSettings, read_settings, write_settings
from pilotage.agent.startup import listen
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.node_rules import NodeRules
from pilotage.model.resources import NodeShape
from pilotage.wire import addresses
from pilotage.wire.channel import AgentChannel
from pilotage.wire.keys import Connection, KeyPair, generate_key_pair
from pilotage.wire.messages import PROTOCOL, ClientHello
from pilotage.wire.tcp import TcpClientChannel

PATIENCE_S = 60.0


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def settings_in(folder: Path, keys: KeyPair, **others: object) -> PilotSettings:
    made = PilotSettings(
        session=SessionUid("s"),
        pilot=PilotUid("p"),
        session_folder=str(folder),
        pilot_folder=str(folder),
        blob_folder=str(folder),
        nodes=[],
        transport="tcp",
        client_keys=[keys.public],
    )
    return msgspec.structs.replace(made, **others)


def open_channels(held: ExitStack, settings: PilotSettings, folder: Path) -> tuple[list[AgentChannel], Connection]:
    channels, connection = listen(settings, folder, 1)
    for channel in channels:
        held.callback(channel.close)
    return channels, connection


def test_a_pilot_of_this_machine_is_reached_from_this_machine_alone(tmp_path: Path, held: ExitStack) -> None:
    _, connection = open_channels(held, settings_in(tmp_path, generate_key_pair()), tmp_path)
    assert [endpoint.rpartition(":")[0] for endpoint in connection.tcp] == ["tcp://127.0.0.1"]


@pytest.mark.parametrize("others", [{"batch": "slurm"}, {"executor": "cluster"}])
def test_a_pilot_of_a_cluster_tells_all_its_addresses_and_is_reached_there(
    tmp_path: Path, held: ExitStack, others: dict[str, object]
) -> None:
    keys = generate_key_pair()
    channels, connection = open_channels(held, settings_in(tmp_path, keys, **others), tmp_path)
    hosts = [endpoint.removeprefix("tcp://").rpartition(":")[0] for endpoint in connection.tcp]
    assert hosts == addresses.addresses_here()
    for host, endpoint in zip(hosts, connection.tcp, strict=True):
        if not host[0].isdigit():
            continue
        client = TcpClientChannel.connect(endpoint, keys, connection.server_key)
        held.callback(client.close)
        client.send(ClientHello(PROTOCOL, SessionUid("s"), 1, 0))
        tcp = channels[1]
        waiting = select.poll()
        waiting.register(tcp.fileno(), select.POLLIN)
        heard: list[object] = []
        while not heard:
            assert waiting.poll(PATIENCE_S * 1000), f"nothing was heard at {endpoint}"
            heard = [message for _, message in tcp.receive()]
        assert isinstance(heard[0], ClientHello)


@pytest.mark.parametrize(
    ("numeric", "known", "told"),
    [
        (["10.0.0.5", "10.1.0.5"], ["10.1.0.5"], ["n5", "10.0.0.5", "10.1.0.5"]),
        (["10.0.0.5"], ["127.0.1.1"], ["10.0.0.5", "n5"]),
        (["10.0.0.5"], None, ["10.0.0.5", "n5"]),
        ([], None, ["127.0.0.1"]),
    ],
)
def test_the_name_comes_first_where_it_leads_here(
    monkeypatch: pytest.MonkeyPatch, numeric: list[str], known: list[str] | None, told: list[str]
) -> None:
    def look_up(*_: object) -> list[tuple[object, ...]]:
        if known is None:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known]

    monkeypatch.setattr(socket, "gethostname", lambda: "n5")
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(addresses, "_numeric", lambda: numeric)
    assert addresses.addresses_here() == told


def test_networks_are_told_without_the_loopback() -> None:
    assert "127.0.0.1" not in addresses._numeric()


def test_settings_of_a_cluster_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path,
        generate_key_pair(),
        executor="cluster",
        batch="slurm",
        launch_methods=["srun", "mpiexec"],
        launcher_paths={"srun": "/opt/slurm/bin/srun"},
        launcher_options={"srun": {"mpi": "pmix"}},
        node_rules=NodeRules(reserved_cores=(0, 8), agent_cores=1, gpu_unit="part"),
        agent_nodes=1,
        emulated=NodeShape(8, 4),
    )
    write_settings(settings)
    assert read_settings(tmp_path) == settings
