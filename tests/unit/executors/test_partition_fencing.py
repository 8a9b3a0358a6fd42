"""A partition whose agent is gone for good: what its hosts ran is gone when it is said so. Hosts are processes here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cluster_support import Cluster

from pilotage.agent import partition_hosts
from pilotage.agent.found_nodes import FoundNodes, write_found
from pilotage.agent.partition_hosts import end_partition_hosts
from pilotage.agent.settings import LOG_FOLDER, PilotSettings
from pilotage.core.agent import facts
from pilotage.errors import BackendError
from pilotage.executors.lobby import HostLobby
from pilotage.executors.orphans import end_orphans, end_runners, marks_of, orphans, runners_of
from pilotage.log.writer import LogWriter
from pilotage.model.ids import RunnerId
from pilotage.model.workload import Template
from pilotage.platforms.node_here import NodeFound
from pilotage.platforms.node_shape import ShapedNode
from pilotage.testing.contracts.executors import DEADLINE_S, LONG, Agent
from pilotage.wire.addresses import HERE
from pilotage.wire.host_channel import HostConnection
from pilotage.wire.host_messages import HOST_PROTOCOL, HostHello
from pilotage.wire.keys import read_host_access

HOSTS = 3
GONE_S = 20.0
OWN_RULE_S = 3.0
"""Hosts and spawners without an agent end themselves so soon."""


class Fenced:
    """The hosts of a partition, of which each has a spawner with a task, and the settings of its agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(folder, HOSTS, orphan_timeout_s=OWN_RULE_S)
        pilot = str(self.cluster.agent_folder)
        own = self.cluster.settings
        self.settings = PilotSettings(
            session=own.session,
            pilot=own.pilot,
            session_folder=str(folder),
            pilot_folder=pilot,
            blob_folder=own.blob_folder,
            nodes=own.nodes,
            executor="cluster",
        )
        nodes = [ShapedNode(node=node, core_ids=()) for node in own.nodes]
        write_found(self.cluster.agent_folder, FoundNodes(run=0, system="", job="", nodes=nodes))
        log = LogWriter.open(self.cluster.agent_folder / LOG_FOLDER, writer="pilot.1")
        added = [facts.RunnerAdded(0.0, RunnerId(f"spawner.{number}"), None, number) for number in range(HOSTS)]
        log.append(msgspec.msgpack.encode(added))
        log.close()

    def occupy(self) -> Agent:
        """Have tasks run on all hosts that do not end."""
        agent = Agent(self.cluster.executor(), {LONG: Template(executable="/bin/sleep", grace_s=0.2)}, ("1000",))
        agent.start()
        tasks = []
        for agent.host in range(HOSTS):
            name = RunnerId(f"spawner.{agent.host}")
            agent.start_runner(name)
            tasks += agent.launch(f"task.{agent.host}", template=LONG, runner=name)
        agent.until(lambda: set(tasks) <= agent.told.started.keys())
        return agent

    def running(self) -> list[str]:
        """Return the hosts of which a task or a runner is there."""
        return [
            name
            for name in self.cluster.names
            if orphans(self.settings.session, self.settings.pilot, (), marked=marks_of("", name))
            or any(map(runners_of, (self.folder / name).glob("pilotage-*/*")))
        ]

    def close(self) -> None:
        for step in self.cluster.starter.steps:
            for host in step:
                host.process.kill()
                host.process.wait()
        for private in self.folder.glob("node*/pilotage-*/*"):
            end_runners(private, 0.0, DEADLINE_S)
        end_orphans(self.settings.session, self.settings.pilot, (), DEADLINE_S)


@pytest.fixture
def fenced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fenced]:
    monkeypatch.setattr(partition_hosts, "GONE_S", GONE_S)
    folder = Path(tempfile.mkdtemp(prefix="pilotage-"))
    fenced = Fenced(folder)
    monkeypatch.setattr(partition_hosts, "starter_of", lambda *_: fenced.cluster.starter)
    try:
        yield fenced
    finally:
        fenced.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_nothing_runs_any_more_when_it_is_said_so_not_even_where_the_host_had_died(fenced: Fenced) -> None:
    agent = fenced.occupy()
    fenced.cluster.starter.kill("node1")
    assert fenced.running() == ["node0", "node1", "node2"], "what a dead host had started lives"
    agent.executor.leave()
    end_partition_hosts(fenced.settings, GONE_S)
    assert fenced.running() == []


def test_a_host_that_has_not_come_is_not_taken_for_gone_too_soon(fenced: Fenced) -> None:
    agent = fenced.occupy()
    fenced.cluster.starter.kill("node1")
    agent.executor.leave()
    with pytest.raises(BackendError, match=r"are not known to be gone: .*node1"):
        end_partition_hosts(fenced.settings, 0.5 * GONE_S)


def test_a_host_that_comes_and_does_not_end_is_not_taken_for_gone_however_long_it_takes(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fenced.cluster.agent_folder
    lobby = HostLobby.open(folder, fenced.settings.session, fenced.settings.pilot, fenced.cluster.names, [HERE])
    access = read_host_access(folder / "hosts.json")
    host = HostConnection.connect(access.tcp[-1], access.keys, access.server_key)
    found = msgspec.Raw(msgspec.msgpack.encode(NodeFound(name="node2", cores=((0,),))))
    host.send(HostHello(HOST_PROTOCOL, fenced.settings.pilot, "node2", 1, 7, "boot", 1, found))
    assert lobby.gather(["node2"], DEADLINE_S, lambda: False)
    monkeypatch.setattr(partition_hosts, "open_lobby", lambda *_: lobby)
    monkeypatch.setattr(partition_hosts, "GONE_S", 0.5)
    try:
        with pytest.raises(BackendError, match=r"are not known to be gone: node2$"):
            end_partition_hosts(fenced.settings, 0.5)
    finally:
        host.close()
