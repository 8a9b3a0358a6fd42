"""Grid Engine: the host file of the parallel environment, ``host slots queue processors``; without one, the host itself.

A host is there once for each queue that gives slots. The processors (``0,0:0,1``: socket and core) are counted by Grid Engine's
own order and are not the machine's numbers, so they are not kept.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType

import msgspec

from pilotage.platforms.allocations.allocation import AllocatedNode, Allocation, Surroundings, place_here, wrong


class GridEngine:
    """See ``AllocationSystem`` and the head of this module."""

    name = "grid_engine"
    tried = "not tried on a real system"
    reads = MappingProxyType(
        {
            "JOB_ID": "the job (with `SGE_TASK_ID`: its place in an array)",
            "PE_HOSTFILE": "the nodes and their slots",
            "NSLOTS": "slots of all nodes, checked",
            "NHOSTS": "checked against the nodes",
            "SGE_HGR_gpu": "GPUs of this node, by number (Univa and its heirs)",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        job = surroundings.get("JOB_ID")[1]
        file = surroundings.get("PE_HOSTFILE")[1]
        # JOB_ID alone is a name that anything may have.
        if not job or not (file or surroundings.get("SGE_TASK_ID")[0]):
            return None
        task = surroundings.get("SGE_TASK_ID")[1]
        host = surroundings.hostname
        total = surroundings.number("NSLOTS", least=1)
        if file:
            slots = _slots(surroundings, file)
            source = "PE_HOSTFILE"
        elif host:
            slots, source = Counter({host: total or 1}), "HOSTNAME"
        else:
            raise wrong("JOB_ID", job, "this is a job of Grid Engine, and neither PE_HOSTFILE nor HOSTNAME tells its node")
        if total not in (None, sum(slots.values())):
            raise wrong("NSLOTS", total, f"{source} has {sum(slots.values())} slots on {len(slots)} nodes")
        hosts = surroundings.number("NHOSTS", least=1)
        if hosts not in (None, len(slots)):
            raise wrong("NHOSTS", hosts, f"{source} has {len(slots)} nodes")
        here = place_here(list(slots), host)
        gpus = tuple(surroundings.get("SGE_HGR_gpu")[1].split())
        nodes = [AllocatedNode(name=name, cores=count, slots=count) for name, count in slots.items()]
        nodes = [
            msgspec.structs.replace(node, gpus=len(gpus), gpu_ids=gpus) if gpus and node.name == here else node
            for node in nodes
        ]
        whole = job if task in ("", "undefined") else f"{job}.{task}"
        return Allocation(system=self.name, job=whole, nodes=tuple(nodes), here=here)


def _slots(surroundings: Surroundings, path: str) -> Counter[str]:
    slots: Counter[str] = Counter()
    for number, words in surroundings.lines("PE_HOSTFILE"):
        if len(words) < 2 or not (words[1].isascii() and words[1].isdigit()):
            raise wrong("PE_HOSTFILE", path, f"line {number}, {' '.join(words)!r}, has no number of slots after the host")
        slots[words[0]] += int(words[1])
    return slots


GRID_ENGINE = GridEngine()
