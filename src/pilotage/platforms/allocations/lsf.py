"""LSF: the host file or ``LSB_MCPU_HOSTS``, both with the slots of each host.

A slot is a core, or what the site made of it: on Summit and its kin one of the 42 whole cores of a node. There, the job's
script runs on a batch node, which comes first with one slot and is no place for tasks: it is known by its name, by ``LN`` in
the resource requirement, or by ``CSM_ALLOCATION_ID`` together with the one slot.
"""

from __future__ import annotations

import re
from collections import Counter
from types import MappingProxyType

from pilotage.platforms.allocations.allocation import (
    AllocatedNode,
    Allocation,
    Surroundings,
    count_lines,
    place_here,
    wrong,
)
from pilotage.platforms.allocations.host_lists import expand_numbers

_GPUS = re.compile(r"\bngpus(?:_physical)?=(\d+)(?:\.0+)?\b")
_LAUNCH_NAME = re.compile(r"(?:batch|login|launch)[-\w.]*")


class Lsf:
    """See ``AllocationSystem`` and the head of this module."""

    name = "lsf"
    tried = "not tried on a real system"
    reads = MappingProxyType(
        {
            "LSB_JOBID": "the job (`LSB_JOBINDEX`: its place in an array)",
            "LSB_DJOB_HOSTFILE": "the nodes: a line for each slot",
            "LSB_MCPU_HOSTS": "nodes and slots, `node1 4 node2 8`, where there is no file; else checked",
            "LSB_DJOB_RANKFILE": "nodes for tasks, where neither of these is set",
            "LSB_DJOB_NUMPROC": "slots of all nodes, checked",
            "LSB_AFFINITY_HOSTFILE": "numbers of the cores of each slot",
            "LSB_SUB_RES_REQ": "GPUs of each node (`ngpus_physical`), and whether there is a launch node (`LN`)",
            "CSM_ALLOCATION_ID": "that a first node of one slot is a launch node",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        job = surroundings.get("LSB_JOBID")[1]
        if not job:
            return None
        index = surroundings.get("LSB_JOBINDEX")[1]
        slots = _slots(surroundings, job)
        names = list(slots)
        requirement = surroundings.get("LSB_SUB_RES_REQ", "LSB_EFFECTIVE_RSRCREQ")[1]
        launch_node = names[0] if _is_launch_node(surroundings, requirement, slots) else None
        cores = _core_ids(surroundings, names)
        gpus = _GPUS.findall(requirement)
        nodes = tuple(
            AllocatedNode(
                name=host,
                cores=len(cores[host]) if cores.get(host) else count,
                core_ids=cores.get(host),
                slots=count,
                gpus=int(gpus[-1]) if gpus else None,
            )
            for host, count in slots.items()
            if host != launch_node
        )
        here = place_here(names, surroundings.hostname)
        return Allocation(
            system=self.name,
            job=job if index in ("", "0") else f"{job}[{index}]",
            nodes=nodes,
            here=here if here != launch_node else None,
            launch_node=launch_node,
        )


def _slots(surroundings: Surroundings, job: str) -> Counter[str]:
    """Return the slots of each host, in order."""
    name = surroundings.get("LSB_DJOB_HOSTFILE")[0]
    listed = _listed(surroundings)
    if name:
        slots = count_lines(surroundings.lines(name))
        if listed and listed != slots:
            raise wrong(
                "LSB_MCPU_HOSTS",
                surroundings.get("LSB_MCPU_HOSTS")[1],
                f"{sum(listed.values())} slots on {len(listed)} nodes, and LSB_DJOB_HOSTFILE has "
                f"{sum(slots.values())} on {len(slots)}",
            )
    elif listed:
        name, slots = "LSB_MCPU_HOSTS", listed
    elif surroundings.get("LSB_DJOB_RANKFILE")[0]:
        # It leaves the launch node out, so the number of slots is not that of the job.
        return count_lines(surroundings.lines("LSB_DJOB_RANKFILE"))
    else:
        raise wrong("LSB_JOBID", job, "this is a job of LSF, and neither LSB_DJOB_HOSTFILE nor LSB_MCPU_HOSTS names its nodes")
    total = surroundings.number("LSB_DJOB_NUMPROC", least=1)
    if total not in (None, sum(slots.values())):
        raise wrong("LSB_DJOB_NUMPROC", total, f"{name} has {sum(slots.values())} slots on {len(slots)} nodes")
    return slots


def _listed(surroundings: Surroundings) -> Counter[str]:
    value = surroundings.get("LSB_MCPU_HOSTS")[1]
    words = value.split()
    slots: Counter[str] = Counter()
    for host, count in zip(words[::2], [*words[1::2], ""], strict=False):
        if not (count.isascii() and count.isdigit()) or not int(count):
            raise wrong("LSB_MCPU_HOSTS", value, f"{host!r} has no number of slots after it: it must be as 'node1 4 node2 8'")
        slots[host] += int(count)
    return slots


def _is_launch_node(surroundings: Surroundings, requirement: str, slots: Counter[str]) -> bool:
    first, *others = slots
    if not others or slots[first] != 1:
        return False
    if _LAUNCH_NAME.fullmatch(first) or re.search(r"\bLN\b", requirement):
        return True
    return bool(surroundings.get("CSM_ALLOCATION_ID")[0]) and all(slots[host] > 1 for host in others)


def _core_ids(surroundings: Surroundings, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Return the cores of each host in lines such as ``node1 0,1 0 1``: host, cores of a slot, NUMA domains."""
    name, path = surroundings.get("LSB_AFFINITY_HOSTFILE")
    found: dict[str, set[int]] = {}
    for number, words in surroundings.lines(name) if name else ():
        try:
            if words[0] not in names:
                raise ValueError(f"there is no node {words[0]!r} in the job")
            if len(words) > 1:
                found.setdefault(words[0], set()).update(expand_numbers(words[1]))
        except ValueError as error:
            raise wrong(name, path, f"line {number}: {error}") from None
    return {host: tuple(sorted(cores)) for host, cores in found.items()}


LSF = Lsf()
