"""The nodes of a pilot on a cluster: found in its allocation, shaped by its platform's rules, and written down.

What was found is in ``nodes.json`` in the agent's folder: an agent that comes after one that died reads it there, and does not
wait for hosts. It counts for one run of the pilot's job; where the batch system begins the job again, on other nodes, all is
found anew.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from pilotage.agent.settings import PilotSettings
from pilotage.errors import BackendError, InvalidRequest
from pilotage.executors.hosts import HostsEnded, HostStarter
from pilotage.executors.lobby import HostLobby
from pilotage.model.node_rules import NodeRules
from pilotage.model.resources import Node
from pilotage.platforms.allocations import AllocatedNode
from pilotage.platforms.allocations.host_lists import compress_hosts
from pilotage.platforms.node_here import NodeFound
from pilotage.platforms.node_shape import ShapedNode, node_shape

NODES_FILE = "nodes.json"
STARTS = 3
"""How often hosts are started that do not come up, before the pilot is given up."""

_SHOWN = 600
_NAMES_SHOWN = 400


class FoundNodes(msgspec.Struct, frozen=True, kw_only=True):
    """What a pilot has. ``run``: of its job, counted from 0. ``end_s``: when the job's time is over, if that is known.

    ``here``: the index of the node that its agent is on, if that is for tasks, too. ``alone``: it is the only one, and has no
    host but the agent. ``notes``: what the user should know.
    """

    run: int
    system: str
    job: str
    nodes: list[ShapedNode]
    end_s: float | None = None
    here: int | None = None
    alone: bool = False
    gpus_per_node: int | None = None
    """How many GPUs the job has on each node, if that is known and the same on each."""
    notes: list[str] = []
    missing: int = 0
    """How many nodes of the job cannot be used, or did not come."""

    @property
    def plain(self) -> list[Node]:
        """The nodes as the scheduler knows them."""
        return [shaped.node for shaped in self.nodes]


def read_found(agent_folder: Path) -> FoundNodes | None:
    """Return what an agent before this one found; None if none had come so far."""
    try:
        content = (agent_folder / NODES_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(content, type=FoundNodes)


def write_found(agent_folder: Path, found: FoundNodes) -> None:
    """Write down what was found, durably, at once or not at all."""
    path = agent_folder / NODES_FILE
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(found)))
        file.flush()
        os.fsync(descriptor)
    new.rename(path)


def shaped_nodes(
    settings: PilotSettings, allocated: Sequence[AllocatedNode], found: Mapping[str, NodeFound], here: str | None
) -> tuple[list[ShapedNode], list[str]]:
    """Return what tasks get of those nodes that were found, and notes on the others.

    ``here``: the name of the agent's node, the only one on which cores are kept for it.

    Raises:
        BackendError: nothing is left of any node.
    """
    shaped: list[ShapedNode] = []
    left_out: list[str] = []
    for node in allocated:
        if node.name not in found:
            continue
        index = len(shaped)
        if settings.emulated is not None:
            shaped.append(ShapedNode(node=Node(index, node.name, settings.emulated), core_ids=()))
            continue
        rules = settings.node_rules
        if node.name != here and rules.agent_cores:
            rules = msgspec.structs.replace(rules, agent_cores=NodeRules().agent_cores)
        try:
            shaped.append(node_shape(found[node.name], rules, index=index, allocated=node))
        except InvalidRequest as error:
            left_out.append(f"{error} (the pilot goes on without this node)")
    missing = [node.name for node in allocated if node.name not in found]
    if missing:
        names = compress_hosts(missing)[:_NAMES_SHOWN]
        left_out.append(
            f"{len(missing)} of {len(allocated)} nodes did not come within {settings.hosts_timeout_s:g} s, and the pilot goes "
            f"on without them: {names}; what was printed there is in hosts.*.err in the pilot's folder"
        )
    if not shaped:
        raise BackendError(f"none of the {len(allocated)} nodes of the allocation can be used: {left_out[0]}")
    return shaped, left_out


def gather_hosts(
    lobby: HostLobby, starter: HostStarter, names: Sequence[str], timeout_s: float, told_to_end: Callable[[], bool]
) -> dict[str, NodeFound]:
    """Wait for hosts that were started, and return what each found, by its node's name; some may not have come.

    Hosts that end before all have come are started again, a few times.

    Raises:
        BackendError: they end again and again; says what was printed.
    """
    found: dict[str, NodeFound] = {}
    over: list[HostsEnded] = []
    starts = 1

    def is_to_stop() -> bool:
        while (ended := starter.ended()) is not None:
            over.append(ended)
        return bool(over) or told_to_end()

    until = time.monotonic() + timeout_s
    while True:
        waited_for = [name for name in names if name not in found]
        found |= lobby.gather(waited_for, until - time.monotonic(), is_to_stop)
        if not over:
            return found
        gone = {name: None for ended in over for name in ended.nodes}
        if starts == STARTS:
            last = over[-1]
            raise BackendError(
                f"the hosts of {len(gone)} nodes ended {starts} times before all had come, the last time with exit code "
                f"{last.exit_code}: {last.output[-_SHOWN:] or 'nothing was printed'}"
            )
        over.clear()
        starts += 1
        found = {name: told for name, told in found.items() if name not in gone}
        starter.start([name for name in names if name in gone])
