"""What an agent on a cluster stands on before it can begin: its allocation, a host on each node, and what these found there.

In its job's first moments an agent looks around, has hosts started on all nodes by one step, and waits for them. An agent after
it reads what was found, and hosts come to it by themselves. On one node there are no hosts: the agent runs the tasks itself, as
on any machine.

A head has hosts started only to learn what its nodes are, and lets them go: it runs nothing. The agent of a partition
reads what the head has found. Any of the pilot's nodes may come to its partition and go again, so it has hosts started as it
needs them, by a step for all that come at the same time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pilotage.agent.allocation import allocation_environment, allocation_here, is_on, task_environment
from pilotage.agent.bootstrap import claimed_run
from pilotage.agent.found_nodes import FoundNodes, gather_hosts, read_found, shaped_nodes, write_found
from pilotage.agent.recovery import leave_nodes
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent import facts
from pilotage.core.agent.state import AgentState
from pilotage.errors import BackendError
from pilotage.executors.base import Executor
from pilotage.executors.cluster import MARGIN_S, ClusterExecutor
from pilotage.executors.host_step import HostStep, earlier_steps
from pilotage.executors.hosts import EndInquiry, HostSettings
from pilotage.executors.lobby import ORPHAN_TIMEOUT_S, HostLobby
from pilotage.executors.local import LocalExecutor
from pilotage.launchers.found import found_host_launcher, found_launchers
from pilotage.launchers.registry import launches_at_once
from pilotage.model.installed import Installed
from pilotage.platforms.allocations import AllocatedNode, Allocation, set_agent_nodes_apart
from pilotage.platforms.node_here import usable_here
from pilotage.platforms.node_shape import ShapedNode
from pilotage.wire.addresses import addresses_here
from pilotage.wire.runner_settings import NOTIFY_SOCKET, RunnerSettings, write_settings

_NO_PARTITION = "-"
"""Nothing is of the partition of this name, which none can have."""

_GO_S = 10.0
"""Hosts of a head have so long to go by themselves."""

MANY_HOSTS = 2
"""On more hosts one spawner each is enough."""

BEGUN_AGAIN = "the batch system ended the pilot's job, and began it again"
"""What became of all that ran in an earlier run of the job."""


class ClusterGround:
    """What one agent stands on; made by ``take``.

    ``settings``: the pilot's, with the nodes that it has. ``before``: what an earlier run of the job had, if the log may be of
    that. The caller lets go of all of it by the ``Executor`` that it is given, or by ``leave`` if it comes to none.
    """

    def __init__(
        self,
        settings: PilotSettings,
        found: FoundNodes,
        before: FoundNodes | None,
        lobby: HostLobby | None,
        starter: HostStep | None,
        launchers: dict[str, Installed],
    ) -> None:
        self.found = found
        self.launchers = _with_gpus(launchers, found)
        """The launchers for tasks, by launch method."""
        self.before = before
        self.settings = msgspec.structs.replace(
            settings,
            nodes=found.plain,
            nodes_here=None if found.alone else [found.here] if found.here is not None else [],
            bind=settings.bind and settings.emulated is None,
            environment=task_environment(settings, os.environ),
            spawners=1 if len(found.nodes) > MANY_HOSTS else settings.spawners,
        )
        self._lobby = lobby
        self._starter = starter

    @classmethod
    def take(cls, settings: PilotSettings, told_to_end: Callable[[], bool]) -> ClusterGround | None:
        """Find the nodes, with a host on each; None: the agent was told to end before it had them.

        Raises:
            BackendError: there is no allocation, nothing can start hosts, no node can be used, or no launcher that is preferred
                is there.
            InvalidRequest: the platform's rules leave nothing of the nodes for tasks.
        """
        launchers = launchers_of(settings)
        known = read_found(settings.agent_folder)
        if settings.partition:
            return cls._of_partition(settings, known, launchers)
        run = claimed_run(settings.pilot_folder)
        if settings.partitions:
            _end_hosts_of_head(settings)
        if known is not None and known.run == run:
            lobby, starter = (None, None) if settings.partitions else _meet_again(settings, known)
            return cls(settings, known, None, lobby, starter, launchers)
        allocation = allocation_here(settings)
        kept, nodes = set_agent_nodes_apart(allocation.nodes, settings.agent_nodes)
        here = is_on(allocation)
        own = None if here is None else allocation.nodes[here].name
        alone = len(nodes) == 1 and nodes[0].name == own
        gpus = _same({node.gpus for node in nodes})
        lobby, starter = None, None
        if alone:
            told = {nodes[0].name: usable_here(Path("/tmp"), name=nodes[0].name)}
        else:
            names = [node.name for node in nodes]
            lobby = open_lobby(settings, names)
            try:
                starter = starter_of(settings, allocation.job, gpus)
                # One that died on the way here has started them.
                if not earlier_steps(settings.agent_folder):
                    starter.start(names)
                told = gather_hosts(lobby, starter, names, settings.hosts_timeout_s, told_to_end)
            except BaseException:
                lobby.close()
                if starter is not None:
                    starter.end()
                raise
            if told_to_end():
                lobby.close()
                starter.end()
                return None
            if settings.partitions:
                _let_hosts_go(lobby, starter, names)
                lobby, starter = None, None
        shaped, notes = shaped_nodes(settings, nodes, told, own)
        found = FoundNodes(
            run=run,
            system=allocation.system,
            job=allocation.job,
            nodes=shaped,
            end_s=allocation.end_s,
            here=next((each.node.index for each in shaped if each.node.name == own), None),
            alone=alone,
            gpus_per_node=gpus,
            notes=[*allocation.notes, *notes],
            missing=len(nodes) - len(shaped),
        )
        if settings.partitions and known is not None:
            _require_alike(known, found)
        _report(allocation, kept, found)
        return cls(settings, found, known, lobby, starter, launchers)

    @classmethod
    def _of_partition(cls, settings: PilotSettings, known: FoundNodes | None, launchers: dict[str, Installed]) -> ClusterGround:
        """Return what the agent of a partition stands on; ``known``: what it was when its log was written."""
        found = read_found(Path(settings.pilot_folder))
        if found is None:
            raise BackendError(f"the head of partition {settings.partition} has not written down which nodes there are")
        before = known if known is not None and known.run != found.run else None
        return cls(settings, found, before, *_meet_again(settings, found), launchers)

    def note(self) -> None:
        """Write down what was found; the log is of this run from now on."""
        if read_found(self.settings.agent_folder) != self.found:
            write_found(self.settings.agent_folder, self.found)

    @property
    def hosts(self) -> list[int]:
        """The number of the host of each node; see ``AgentCore``."""
        return hosts_of(self.found)

    def facts_of_before(self, state: AgentState) -> list[facts.Fact]:
        """Note in the recovered state that what ran on the nodes of an earlier run of the job is gone; see ``leave_nodes``."""
        if self.before is None:
            return []
        return leave_nodes(state, self.settings.scheduler, self.before.plain, hosts_of(self.before), BEGUN_AGAIN)

    @property
    def launches(self) -> int:
        """How many launches may be under way at once in the whole pilot; see ``AgentCore``."""
        return launches_at_once(self.launchers, len(self.found.nodes))

    def executor(self, folder: Path, incarnation: int, end_time: float, inquiry: EndInquiry | None) -> Executor:
        """Return the executor of these nodes.

        ``folder`` is the agent's private one; ``end_time``: see ``RunnerSettings``; ``inquiry``: see ``ClusterExecutor``.
        """
        settings, found, launchers = self.settings, self.found, self.launchers
        if self._lobby is None or self._starter is None:
            write_settings(folder, runner_settings(settings, found.nodes, 0, launchers, end_time, str(folder / NOTIFY_SOCKET)))
            return LocalExecutor(
                folder, settings.session, settings.pilot, settings.agent_folder, incarnation, partition=settings.partition
            )
        hosts = [
            HostSettings(shaped.node.name, runner_settings(settings, found.nodes, number, launchers, end_time))
            for number, shaped in enumerate(found.nodes)
        ]
        # A host that never comes is given up when the pilot would have gone on without it in the beginning.
        margin_s = max(MARGIN_S, settings.hosts_timeout_s - ORPHAN_TIMEOUT_S)
        executor = ClusterExecutor(
            self._lobby,
            self._starter,
            hosts,
            incarnation,
            margin_s=margin_s,
            on_demand=bool(settings.partition),
            inquiry=inquiry,
        )
        self._lobby, self._starter = None, None
        return executor

    def leave(self) -> None:
        """Let go of what no executor was made of, as the death of the agent's process does; hosts go on."""
        if self._lobby is not None:
            self._lobby.leave()
        if self._starter is not None:
            self._starter.leave()


def launchers_of(settings: PilotSettings) -> dict[str, Installed]:
    """Return the launchers that are here for tasks, by launch method, the preferred first.

    Raises:
        BackendError: none that is preferred is.
    """
    paths, options = settings.launcher_paths, settings.launcher_options
    return found_launchers(settings.launch_methods, settings.batch, paths, options, os.environ.get("PATH", ""))


def _with_gpus(launchers: dict[str, Installed], found: FoundNodes) -> dict[str, Installed]:
    srun = launchers.get("srun")
    if srun is None or not found.gpus_per_node or srun.option("gpus_per_node"):
        return launchers
    options = {**srun.options, "gpus_per_node": str(found.gpus_per_node)}
    return {**launchers, "srun": msgspec.structs.replace(srun, options=options)}


def hosts_of(found: FoundNodes) -> list[int]:
    """Return the number of the host of each of these nodes; empty if they have none but the agent."""
    return [] if found.alone else list(range(len(found.nodes)))


def _meet_again(settings: PilotSettings, found: FoundNodes) -> tuple[HostLobby | None, HostStep | None]:
    if found.alone:
        return None, None
    lobby = open_lobby(settings, [shaped.node.name for shaped in found.nodes])
    try:
        return lobby, starter_of(settings, found.job, found.gpus_per_node)
    except BaseException:
        lobby.leave()
        raise


def open_lobby(settings: PilotSettings, names: list[str]) -> HostLobby:
    """Listen for the hosts of these nodes in the agent's place; see ``HostLobby.open``."""
    partition = _NO_PARTITION if settings.partitions else settings.partition
    addresses = addresses_here()
    return HostLobby.open(settings.agent_folder, settings.session, settings.pilot, names, addresses, partition=partition)


def _let_hosts_go(lobby: HostLobby, starter: HostStep, names: Sequence[str]) -> None:
    """Have hosts of a head end, and do not wait for it: they have nothing, and look after nothing of their nodes."""

    def end() -> None:
        lobby.end_hosts(names, 0.0, _GO_S)
        lobby.close()
        starter.end()

    threading.Thread(target=end, name="hosts", daemon=True).start()


def _end_hosts_of_head(settings: PilotSettings) -> None:
    """End what hosts a head before this one has left."""
    if earlier_steps(settings.agent_folder):
        starter_of(settings, "", None).end()


def _require_alike(before: FoundNodes, found: FoundNodes) -> None:
    """See that the partitions that a log tells of can have the nodes of a later run of the job.

    Raises:
        BackendError: they cannot.
    """
    shapes = [[node.shape for node in run.plain] for run in (before, found)]
    if shapes[0] != shapes[1] or before.alone != found.alone:
        raise BackendError(
            f"{BEGUN_AGAIN}, on {len(found.nodes)} nodes that are not like the {len(before.nodes)} that its partitions had; "
            "submit the pilot again"
        )


def starter_of(settings: PilotSettings, job: str, gpus_per_node: int | None) -> HostStep:
    """Return what starts and ends hosts on the nodes of a job.

    Raises:
        BackendError: nothing here can.
    """
    paths, options = settings.launcher_paths, settings.launcher_options
    method, installed = found_host_launcher(settings.launch_methods, settings.batch, paths, options, os.environ.get("PATH", ""))
    return HostStep(settings.agent_folder, method, installed, job=job, gpus_per_node=gpus_per_node)


def runner_settings(
    settings: PilotSettings,
    nodes: list[ShapedNode],
    number: int,
    launchers: dict[str, Installed],
    end_time: float,
    notify_socket: str = "",
) -> RunnerSettings:
    """Return the settings of the runners of one host."""
    own = nodes[number]
    core_ids = _core_ids(own, settings.bind)
    gpu_ids = _gpu_ids(own)
    others = [shaped for shaped in nodes if shaped is not own]
    cores_of = {each.node.index: _core_ids(each, settings.bind) for each in others}
    gpus_of = {each.node.index: _gpu_ids(each) for each in others}
    return RunnerSettings(
        settings.session,
        settings.pilot,
        settings.pilot_folder,
        settings.blob_folder,
        settings.nodes,
        settings.bind,
        settings.environment,
        settings.python_path,
        settings.working_folder,
        core_ids,
        notify_socket,
        settings.partition,
        str(settings.agent_folder),
        launchers=launchers,
        gpu_ids=gpu_ids,
        node_gpu_ids={index: gpus for index, gpus in gpus_of.items() if gpus != gpu_ids},
        node_core_ids={index: cores for index, cores in cores_of.items() if cores != core_ids},
        host_nodes=[number],
        end_time=end_time,
        allocation_environment=allocation_environment(os.environ),
    )


def _core_ids(shaped: ShapedNode, bind: bool) -> list[int]:
    return list(shaped.core_ids) if bind else []


def _gpu_ids(shaped: ShapedNode) -> list[str]:
    ids = list(shaped.gpu_ids)
    return [] if ids == [str(index) for index in range(len(ids))] else ids


def _same(counts: set[int | None]) -> int | None:
    return counts.pop() if len(counts) == 1 else None


def _report(allocation: Allocation, kept: tuple[AllocatedNode, ...], found: FoundNodes) -> None:
    """Print what was found; it is kept with what the agent prints."""
    lines = [allocation.summary()]
    if kept:
        lines.append(f"kept for the agent: {', '.join(node.name for node in kept)}")
    if found.end_s is not None:
        lines.append(f"the job's time is over {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(found.end_s))}")
    for line in (*lines, *found.notes):
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
