"""Executors of several hosts: each a process of this machine that has a folder for its runners to itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
from breakable import BreakableWay

from pilotage.executors.base import Executor
from pilotage.executors.cluster import ClusterExecutor
from pilotage.executors.hosts import EndInquiry, HostSettings
from pilotage.executors.lobby import HostLobby
from pilotage.model.resources import Node, NodeShape
from pilotage.testing.host_processes import HostProcesses
from pilotage.testing.runner_driver import default_settings
from pilotage.wire.addresses import HERE
from pilotage.wire.keys import read_host_access, write_host_access
from pilotage.wire.runner_settings import HOSTS_FILE, RunnerSettings

NOBODY_S = 3600.0


class Cluster:
    """The nodes of one pilot in ``folder``, which is private, and its agents, one after the other."""

    def __init__(
        self, folder: Path, count: int, *, all_gone: bool = False, orphan_timeout_s: float = 60.0, on_demand: bool = False
    ) -> None:
        self.names = [f"node{number}" for number in range(count)]
        nodes = [Node(number, name, NodeShape(cores=16, gpus=4)) for number, name in enumerate(self.names)]
        self.settings = default_settings(
            folder, nodes=nodes, agent_folder=str(folder / "pilot"), orphan_timeout_s=orphan_timeout_s
        )
        self.agent_folder = folder / "pilot"
        self.agent_folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "blobs").mkdir(exist_ok=True)
        self._temporary = folder
        self._all_gone = all_gone
        self._on_demand = on_demand
        self._incarnation = 0
        self.ways: list[BreakableWay] = []
        """Of each agent, if ``breakable``."""
        self.breakable = False
        self.starter = self._make_starter()

    def _make_starter(self) -> HostProcesses:
        owner = (self.settings.session, self.settings.pilot)
        steps = self.starter.steps if self._incarnation else None
        return HostProcesses(self.agent_folder, self._temporary, *owner, steps, all_gone=self._all_gone)

    def settings_of(self, number: int) -> RunnerSettings:
        return msgspec.structs.replace(self.settings, host_nodes=[number])

    def executor(
        self, *, away_s: float = NOBODY_S, margin_s: float = 60.0, inquiry: EndInquiry | None = None
    ) -> ClusterExecutor:
        """Return the executor of the next agent; the first one has the hosts started."""
        self.lobby = HostLobby.open(
            self.agent_folder,
            self.settings.session,
            self.settings.pilot,
            self.names,
            [HERE],
            orphan_timeout_s=self.settings.orphan_timeout_s,
        )
        if self.breakable:
            path = self.agent_folder / HOSTS_FILE
            access = read_host_access(path)
            self.ways.append(BreakableWay(int(access.tcp[0].rpartition(":")[2])))
            write_host_access(path, msgspec.structs.replace(access, tcp=(self.ways[-1].endpoint,)))
        if self._incarnation:
            self.starter = self._make_starter()
        elif not self._on_demand:
            self.starter.start(self.names)
        self._incarnation += 1
        hosts = [HostSettings(name, self.settings_of(number)) for number, name in enumerate(self.names)]
        return ClusterExecutor(
            self.lobby,
            self.starter,
            hosts,
            self._incarnation,
            away_s=away_s,
            margin_s=margin_s,
            on_demand=self._on_demand,
            inquiry=inquiry,
        )


def cluster_of(made: dict[Path, Cluster], folder: Path, count: int) -> Executor:
    """Return the executor of the next agent of the cluster in this folder, which is made if there is none."""
    if folder not in made:
        made[folder] = Cluster(folder, count)
    return made[folder].executor()
