"""The lobby: who is let in, what is kept while hosts are gathered, and the file by which hosts find it."""

from __future__ import annotations

import os
import resource
import select
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from pilotage.errors import BackendError
from pilotage.executors import lobby as lobby_module
from pilotage.executors.lobby import HOSTS_FILE, HostLobby
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.platforms.node_here import NodeFound
from pilotage.wire.addresses import HERE
from pilotage.wire.channel import AccessDenied, Disconnected
from pilotage.wire.host_channel import HostConnection
from pilotage.wire.host_messages import (
    HOST_PROTOCOL,
    FromHost,
    HostGone,
    HostHello,
    HostPing,
    HostRefused,
    ToHost,
)
from pilotage.wire.keys import KeyPair, generate_key_pair, read_host_access

PILOT = PilotUid("pilot.0000")
NAMES = ["node0", "node1"]
DEADLINE_S = 60.0


class Scene:
    """A lobby, and hosts that talk to it."""

    def __init__(self, folder: Path, addresses: tuple[str, ...] = (HERE,)) -> None:
        self.path = folder / HOSTS_FILE
        self.lobby = HostLobby.open(folder, SessionUid("s"), PILOT, NAMES, addresses, orphan_timeout_s=7.0)
        self.access = read_host_access(self.path)
        self.hosts: list[HostConnection] = []
        self.heard: list[tuple[str, FromHost]] = []

    def connect(self, keys: KeyPair | None = None) -> HostConnection:
        endpoint = self.access.tcp[-1]
        self.hosts.append(HostConnection.connect(endpoint, keys or self.access.keys, self.access.server_key))
        return self.hosts[-1]

    def host(
        self,
        name: str,
        pilot: PilotUid = PILOT,
        protocol: int = HOST_PROTOCOL,
        cores: int = 1,
        connection: int = 1,
        started_ticks: int = 7,
        boot_id: str = "boot",
    ) -> HostConnection:
        found = NodeFound(name=name, cores=tuple((core,) for core in range(cores)))
        host = self.connect()
        raw = msgspec.Raw(msgspec.msgpack.encode(found))
        host.send(HostHello(protocol, pilot, name, 1, started_ticks, boot_id, connection, raw))
        return host

    def turn(self) -> None:
        select.select([self.lobby, *self.hosts], [], [], 0.05)
        self.heard += self.lobby.receive()

    def until(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until, f"it does not come to that; heard: {self.heard}"
            self.turn()

    def answers(self, host: HostConnection, count: int = 1) -> list[ToHost]:
        answers: list[ToHost] = []

        def enough() -> bool:
            answers.extend(host.receive())
            return len(answers) >= count

        self.until(enough)
        return answers

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self.lobby.close()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent")
    path.chmod(0o700)
    return path


@pytest.fixture
def scene(folder: Path) -> Iterator[Scene]:
    scene = Scene(folder)
    try:
        yield scene
    finally:
        scene.close()


def test_the_file_is_for_its_owner_alone_and_gone_when_the_pilot_is_over(scene: Scene) -> None:
    assert stat.S_IMODE(scene.path.stat().st_mode) == 0o600
    assert scene.access.names == ("node0", "node1") and scene.access.orphan_timeout_s == 7.0
    assert scene.access.keys.secret not in repr(scene.access)
    scene.lobby.close()
    assert not scene.path.exists()


def test_the_file_stays_when_the_agent_dies(folder: Path) -> None:
    scene = Scene(folder)
    scene.lobby.leave()
    assert scene.path.exists()


def test_it_listens_everywhere_if_it_is_to_be_reached_from_elsewhere(folder: Path) -> None:
    scene = Scene(folder, ("cluster-node-7", HERE))
    try:
        assert scene.access.tcp[0].startswith("tcp://cluster-node-7:")
        scene.host("node1")
        scene.until(lambda: scene.heard)
    finally:
        scene.close()


def test_hosts_are_known_by_name_and_can_be_answered(scene: Scene) -> None:
    first, second = scene.host("node0"), scene.host("node1")
    scene.until(lambda: len(scene.heard) == 2)
    assert scene.lobby.send("node1", HostPing()) and scene.lobby.send("node0", HostRefused("enough"))
    assert scene.answers(second) == [HostPing()]
    assert scene.answers(first) == [HostRefused("enough")]
    second.send(HostGone("done"))
    scene.until(lambda: ("node1", HostGone("done")) in scene.heard)


def test_nobody_is_let_in_without_the_key_of_the_hosts(scene: Scene) -> None:
    stranger = scene.connect(generate_key_pair())
    until = time.monotonic() + DEADLINE_S
    with pytest.raises(AccessDenied):
        while time.monotonic() < until:
            scene.turn()
            stranger.receive()
    assert scene.heard == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "node7"}, "this pilot has no node node7"),
        ({"name": "node0", "pilot": PilotUid("other")}, "a host of other"),
        ({"name": "node0", "protocol": 99}, "speaks protocol 99"),
    ],
)
def test_who_does_not_belong_here_is_told_why(scene: Scene, changes: dict[str, object], reason: str) -> None:
    (answer,) = scene.answers(scene.host(**changes))  # type: ignore[arg-type]
    assert isinstance(answer, HostRefused) and reason in answer.reason
    assert scene.heard == []


def test_what_is_no_message_is_refused(scene: Scene) -> None:
    host = scene.connect()
    host.send(b"\xc1 no message")
    (answer,) = scene.answers(host)
    assert isinstance(answer, HostRefused) and "same version" in answer.reason


LATER = [{"connection": 2}, {"started_ticks": 8}, {"boot_id": "another", "started_ticks": 1}]


@pytest.mark.parametrize("later", LATER)
def test_a_host_that_comes_again_takes_the_place_of_the_one_before(scene: Scene, later: dict[str, object]) -> None:
    first = scene.host("node0")
    scene.until(lambda: scene.heard)
    second = scene.host("node0", **later)  # type: ignore[arg-type]
    scene.until(lambda: len(scene.heard) == 2)
    first.send(HostGone("nobody listens"))
    second.send(HostGone("heard"))
    scene.until(lambda: len(scene.heard) == 3)
    assert scene.heard[-1] == ("node0", HostGone("heard"))
    assert scene.lobby.send("node0", HostPing())
    assert scene.answers(second) == [HostPing()]


@pytest.mark.parametrize("later", LATER[:2])
def test_a_hello_that_is_overtaken_by_a_later_one_does_not_count(scene: Scene, later: dict[str, object]) -> None:
    second = scene.host("node0", **later)  # type: ignore[arg-type]
    scene.until(lambda: scene.heard)
    first = scene.host("node0")
    first.send(HostGone("nobody listens"))
    second.send(HostGone("heard"))
    scene.until(lambda: len(scene.heard) == 2)
    scene.host("node1")
    scene.until(lambda: len(scene.heard) == 3)
    assert [message for name, message in scene.heard if name == "node0"][1:] == [HostGone("heard")]
    assert scene.lobby.send("node0", HostPing())
    assert scene.answers(second) == [HostPing()]


def test_gathering_ends_when_all_are_there_and_keeps_what_they_said(scene: Scene) -> None:
    for number, name in enumerate(NAMES):
        scene.host(name, cores=number + 1)
    found = scene.lobby.gather(NAMES, DEADLINE_S, lambda: False)
    assert {name: len(node.cores) for name, node in found.items()} == {"node0": 1, "node1": 2}
    scene.turn()
    assert sorted(name for name, _ in scene.heard) == NAMES
    assert all(isinstance(message, HostHello) for _, message in scene.heard)


def test_gathering_ends_without_those_that_do_not_come_in_time_or_when_it_is_stopped(scene: Scene) -> None:
    scene.host("node1")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(len(scene.lobby._unread))
        return asked[-1] > 0

    assert scene.lobby.gather(NAMES, DEADLINE_S, stop).keys() == {"node1"}
    assert scene.lobby.gather(NAMES, 0.01, lambda: False) == {}


def test_a_host_that_left_cannot_be_sent_to(scene: Scene) -> None:
    assert not scene.lobby.send("node0", HostPing())
    host = scene.host("node0")
    scene.until(lambda: scene.heard)
    host.close()
    scene.hosts.clear()
    scene.until(lambda: not scene.lobby.send("node0", HostPing()))


def test_a_connection_knows_when_it_was_let_in(scene: Scene) -> None:
    host = scene.host("node0")
    assert not host.is_accepted

    def accepted() -> bool:
        host.receive()
        return host.is_accepted

    scene.until(accepted)
    scene.lobby.close()
    with pytest.raises(Disconnected):
        while True:
            select.select([host], [], [], DEADLINE_S)
            host.receive()


def test_many_hosts_raise_the_limit_of_open_files_or_say_that_it_is_too_low(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    lobby_module._allow_connections(2000)
    lobby_module._allow_connections(10)
    assert asked == [(2000 + lobby_module._SPARE_FILES, 4096)]
    with pytest.raises(BackendError, match=r"the agent of 5000 nodes has 5256 files open, and may have 4096"):
        HostLobby.open(folder, SessionUid("s"), PILOT, [f"n{number}" for number in range(5000)], [HERE])


def test_an_address_that_cannot_be_listened_at_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(lobby_module.HostListener, "bind", refuse)
    with pytest.raises(BackendError, match="cannot listen for the hosts of its nodes: Address already in use"):
        HostLobby.open(folder, SessionUid("s"), PILOT, NAMES, [HERE])


def test_descriptors_are_given_back(folder: Path) -> None:
    def once() -> None:
        scene = Scene(folder)
        scene.host("node0")
        scene.until(lambda: scene.heard)
        scene.close()

    once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        once()
    until = time.monotonic() + DEADLINE_S
    while len(os.listdir("/proc/self/fd")) > before:
        assert time.monotonic() < until, "descriptors stay open"
        os.sched_yield()
