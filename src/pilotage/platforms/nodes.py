"""Which nodes a pilot gets for what its description asks.

On the machine itself (``local.localhost``) there is one node. Asking for more cores than it has is accepted, as
RADICAL-Pilot does, so that scripts written for a larger machine can be tried: tasks are then not bound to cores.

On an emulated platform nodes are of the platform's shape or the one that the description gives. ``nodes`` of them; or, for
``cores``, ``gpus`` and ``memory``, as few as hold that. If the description leaves the shape open, the cores and GPUs asked
for are spread evenly over these, so that a pilot of 4 cores has 4 and not a large node's 56.
"""

from __future__ import annotations

import platform as operating_system
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pilotage.errors import InvalidPilot
from pilotage.model.resources import BLOCK_MIB, Node, NodeShape
from pilotage.platforms.machine import usable_cores, usable_disk_mib, usable_gpus, usable_memory_mib
from pilotage.platforms.platform import Platform
from pilotage.system.callers import warn_caller

NODES_LIMIT = 100_000
CORES_LIMIT = 65_536
"""More cores in one node than any machine has: a slip, or a pilot that wants several emulated nodes."""


class NodeRequest(Protocol):
    """The part of a pilot description that says how much of a machine is wanted."""

    cores: int
    gpus: int
    nodes: int
    memory: float
    cores_per_node: int | None
    gpus_per_node: int | None
    memory_per_node: float | None
    disk_per_node: float | None

    def verify(self) -> None:
        """Raise InvalidPilot if the description contradicts itself or lacks something."""


class PilotNodes(msgspec.Struct, frozen=True):
    """The nodes of a pilot. ``bind``: their cores are this machine's own, so tasks can be bound to them."""

    nodes: list[Node]
    bind: bool


class Machine(msgspec.Struct, frozen=True):
    """What the machine has, in cores, GPUs and MiB."""

    name: str
    cores: int
    gpus: int
    memory_mib: int
    disk_mib: int


def this_machine(sandbox: str = "") -> Machine:
    """Return what this machine offers; disk is what is free where ``sandbox`` lies (the home folder by default)."""
    return Machine(
        name=operating_system.node() or "localhost",
        cores=len(usable_cores()),
        gpus=usable_gpus(),
        memory_mib=usable_memory_mib(),
        disk_mib=usable_disk_mib(Path(sandbox or "~").expanduser().absolute()),
    )


def nodes_of(platform: Platform, description: NodeRequest, *, machine: Callable[[str], Machine] = this_machine) -> PilotNodes:
    """Return the nodes that a pilot gets on ``platform``. ``machine`` looks at this machine, given the platform's sandbox.

    Raises:
        InvalidPilot: the description is wrong, or asks for what the platform does not have; names the value, the limit
            and the remedy.
    """
    description.verify()
    here = machine(platform.sandbox)
    found = Machine(
        name=here.name,
        cores=_first(platform.cores_per_node, here.cores),
        gpus=_first(platform.gpus_per_node, here.gpus),
        memory_mib=_first(platform.memory_per_node_mib, here.memory_mib),
        disk_mib=_first(platform.disk_per_node_mib, here.disk_mib),
    )
    return _emulated(platform, description, found) if platform.emulated else _localhost(platform, description, found)


def _localhost(platform: Platform, description: NodeRequest, here: Machine) -> PilotNodes:
    for name in ("cores_per_node", "gpus_per_node", "memory_per_node", "disk_per_node"):
        value = getattr(description, name)
        if value is not None:
            raise InvalidPilot(
                f"pilot: {name}={value}: the nodes of {platform.name} are what they are; "
                f"leave it out, or use resource='local.emulated'"
            )
    if description.nodes > 1:
        raise InvalidPilot(
            f"pilot: nodes={description.nodes} exceeds the 1 node of {platform.name}; "
            "ask for nodes=1, or use resource='local.emulated' for any number of nodes"
        )
    for name, value, limit, unit in (
        ("gpus", description.gpus, here.gpus, "GPUs"),
        ("memory", description.memory, here.memory_mib, "MB"),
        ("cores", description.cores, CORES_LIMIT, "cores that one node may have"),
    ):
        if value > limit:
            raise InvalidPilot(
                f"pilot: {name}={value} exceeds the {limit} {unit} of {platform.name}; "
                f"ask for {limit} or fewer, or use resource='local.emulated'"
            )
    cores = description.cores or here.cores
    bind = cores <= here.cores
    if not bind:
        warn_caller(
            f"the pilot asks for {cores} cores, this machine has {here.cores}: its tasks share them and are not bound to "
            "cores. To try a larger machine with nodes of its shape, use resource='local.emulated'"
        )
    gpus = here.gpus if description.nodes else description.gpus
    shape = NodeShape(cores, gpus, here.memory_mib // BLOCK_MIB, here.disk_mib // BLOCK_MIB)
    return PilotNodes([Node(0, here.name, shape)], bind)


def _emulated(platform: Platform, description: NodeRequest, default: Machine) -> PilotNodes:
    cores = _first(description.cores_per_node, default.cores)
    gpus = _first(description.gpus_per_node, default.gpus)
    memory = _first(description.memory_per_node, default.memory_mib)
    disk = _first(description.disk_per_node, default.disk_mib)
    if cores > CORES_LIMIT:
        raise InvalidPilot(
            f"pilot: cores_per_node={cores} exceeds the {CORES_LIMIT} cores that one node may have; use more nodes"
        )
    count = description.nodes
    if count:
        _at_most("memory", description.memory, count * memory, f"MB of {count} nodes with {memory} MB each")
    else:
        needs = (("cores", description.cores, cores), ("gpus", description.gpus, gpus), ("memory", description.memory, memory))
        for name, asked, per_node in needs:
            if asked and not per_node:
                raise InvalidPilot(f"pilot: {name}={asked}, but the nodes have none; give {name}_per_node")
        count = max(_ceiling(asked, per_node) for _, asked, per_node in needs if asked)
        if description.cores_per_node is None and description.cores:
            cores = _ceiling(description.cores, count)
        if description.gpus_per_node is None:
            gpus = _ceiling(description.gpus, count)
    if count > NODES_LIMIT:
        raise InvalidPilot(
            f"pilot: {count} nodes exceed the {NODES_LIMIT} that a pilot may have; ask for fewer or larger nodes"
        )
    shape = NodeShape(cores, gpus, int(memory) // BLOCK_MIB, int(disk) // BLOCK_MIB)
    width = len(str(count - 1))
    return PilotNodes([Node(index, f"node{index:0{width}}", shape) for index in range(count)], bind=False)


def _at_most(name: str, asked: float, limit: float, unit: str) -> None:
    if asked > limit:
        raise InvalidPilot(f"pilot: {name}={asked} exceeds the {limit} {unit}; ask for less, or for more nodes")


def _ceiling(asked: float, per_node: float) -> int:
    return int(-(-asked // per_node))


def _first(given: Any, default: Any) -> Any:
    return default if given is None else given
