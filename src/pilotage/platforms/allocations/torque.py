"""Torque: the node file has a line for each core, the GPU file one for each GPU.

On Cray machines it has a line for each node, and ``PBS_NP`` tells the cores of all together. ``PBS_VERSION``, ``PBS_VNODENUM``
and ``PBS_NUM_PPN`` are what tells Torque from the other PBS.
"""

from __future__ import annotations

import re
from types import MappingProxyType

import msgspec

from pilotage.errors import BackendError
from pilotage.platforms.allocations.allocation import Allocation, Surroundings, wrong
from pilotage.platforms.allocations.pbs import attributes_of, end_of, nodes_in_file

_GPU = re.compile(r"(.+)-gpu(\d+)")


class Torque:
    """See ``AllocationSystem`` and the head of this module."""

    name = "torque"
    tried = "not tried on a real system"
    reads = MappingProxyType(
        {
            "PBS_JOBID": "the job",
            "PBS_VERSION": "that this is Torque; so do `PBS_VNODENUM` and `PBS_NUM_PPN`",
            "PBS_NODEFILE": "the nodes: a line for each core, or for each node",
            "PBS_NP": "cores of all nodes, checked against the lines",
            "PBS_GPUFILE": "GPUs, a line for each: `node1-gpu0`",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        version = surroundings.get("PBS_VERSION")[1]
        if not version.upper().startswith("TORQUE") and not surroundings.get("PBS_VNODENUM", "PBS_NUM_PPN")[0]:
            return None
        found = nodes_in_file(surroundings, self.name)
        if found is None:
            return None
        found = _with_gpus(surroundings, _with_cores(surroundings, found))
        if surroundings.ask is not None:
            try:
                said = surroundings.ask(["qstat", "-f", found.job])
            except BackendError as error:
                notes = (*found.notes, f"qstat did not tell the end of the job: {error}")
                return msgspec.structs.replace(found, notes=notes)
            return msgspec.structs.replace(found, end_s=end_of(attributes_of(said)))
        return found


def _with_cores(surroundings: Surroundings, found: Allocation) -> Allocation:
    lines = sum(node.slots or 0 for node in found.nodes)
    total = surroundings.number("PBS_NP", least=1)
    per_line = 1
    if total not in (None, lines):
        assert total is not None
        if lines != len(found.nodes) or total % lines:
            raise wrong("PBS_NP", total, f"PBS_NODEFILE has {lines} lines for {len(found.nodes)} nodes")
        per_line = total // lines
    nodes = tuple(msgspec.structs.replace(node, cores=(node.slots or 0) * per_line) for node in found.nodes)
    return msgspec.structs.replace(found, nodes=nodes)


def _with_gpus(surroundings: Surroundings, found: Allocation) -> Allocation:
    path = surroundings.get("PBS_GPUFILE")[1]
    if not path:
        return found
    # The variable is set in jobs without GPUs, too, for which there may be no file.
    try:
        text = surroundings.read(path)
    except OSError as error:
        return msgspec.structs.replace(
            found, notes=(*found.notes, f"GPUs are those of the nodes: PBS_GPUFILE={path!r} cannot be read: {error.strerror}")
        )
    held: dict[str, list[str]] = {node.name: [] for node in found.nodes}
    for number, line in enumerate(text.split(), 1):
        gpu = _GPU.fullmatch(line)
        if gpu is None or gpu[1] not in held:
            raise wrong(
                "PBS_GPUFILE", path, f"line {number}, {line!r}, is no GPU of a node in PBS_NODEFILE, such as node1-gpu0"
            )
        held[gpu[1]].append(gpu[2])
    nodes = tuple(
        msgspec.structs.replace(node, gpus=len(held[node.name]), gpu_ids=tuple(held[node.name])) for node in found.nodes
    )
    return msgspec.structs.replace(found, nodes=nodes)


TORQUE = Torque()
