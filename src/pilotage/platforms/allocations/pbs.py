"""PBS Pro and OpenPBS: the node file, and ``qstat -f`` for what it leaves open.

The node file has a line for each process that MPI would start (``mpiprocs`` of a chunk, 1 by default), not for each core.
``NCPUS`` and ``OMP_NUM_THREADS`` are ``ncpus`` of the first chunk, unless it asks for ``ompthreads``: then they are that. So
neither tells the cores of a node; ``exec_vnode`` of the job does, with GPUs and memory, and where nobody may be asked the node
itself does. A host may be several vnodes, ``node1[0]`` and ``node1[1]``.
"""

from __future__ import annotations

import re
import time
from types import MappingProxyType

import msgspec

from pilotage.errors import BackendError
from pilotage.platforms.allocations.allocation import (
    AllocatedNode,
    Allocation,
    HostNames,
    Surroundings,
    count_lines,
    place_here,
    wrong,
)

_SIZE = re.compile(r"(\d+)(b|kb|mb|gb|tb)?", re.IGNORECASE)
_BYTES = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_MIB = 1 << 20


class Pbs:
    """See ``AllocationSystem`` and the head of this module."""

    name = "pbs"
    tried = "not tried on a real system"
    reads = MappingProxyType(
        {
            "PBS_JOBID": "the job",
            "PBS_NODEFILE": "the nodes: a line for each process that MPI would start",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        found = nodes_in_file(surroundings, self.name)
        if found is None or surroundings.ask is None:
            return found
        try:
            said = surroundings.ask(["qstat", "-f", found.job])
        except BackendError as error:
            return msgspec.structs.replace(found, notes=(f"qstat did not tell more of the job: {error}",))
        return completed(found, said)


def nodes_in_file(surroundings: Surroundings, system: str) -> Allocation | None:
    """Return the nodes in ``PBS_NODEFILE`` with their slots; None if this is no job of a PBS."""
    job = surroundings.get("PBS_JOBID")[1]
    if not job:
        return None
    if not surroundings.get("PBS_NODEFILE")[1]:
        raise wrong("PBS_JOBID", job, "this is a job of PBS, and PBS_NODEFILE, which names its nodes, is not set")
    slots = count_lines(surroundings.lines("PBS_NODEFILE"))
    nodes = tuple(AllocatedNode(name=host, slots=count) for host, count in slots.items())
    here = place_here(list(slots), surroundings.hostname)
    return Allocation(system=system, job=job, nodes=nodes, here=here)


def completed(found: Allocation, said: str) -> Allocation:
    """Return an allocation with what ``qstat -f`` says of its nodes and its end."""
    fields = attributes_of(said)
    held = _vnodes(fields.get("exec_vnode", ""))
    notes = found.notes
    by_name: dict[str, dict[str, int]] = {}
    names = HostNames(node.name for node in found.nodes)
    for vnode, resources in held:
        host = names.find(vnode.partition("[")[0])
        if host is None:
            by_name.clear()
            notes = (*notes, f"qstat names {vnode!r} in exec_vnode, which is not in PBS_NODEFILE: cores are those of the nodes")
            break
        total = by_name.setdefault(host, {})
        for resource, value in resources.items():
            total[resource] = total.get(resource, 0) + value
    nodes = []
    for node in found.nodes:
        resources = by_name.get(node.name, {})
        nodes.append(
            msgspec.structs.replace(
                node,
                cores=resources.get("ncpus"),
                gpus=resources.get("ngpus", 0) if resources else None,
                memory_mib=resources["mem"] // _MIB if resources.get("mem") else None,
            )
        )
    return msgspec.structs.replace(found, nodes=tuple(nodes), end_s=end_of(fields), notes=notes)


def attributes_of(said: str) -> dict[str, str]:
    """Return the attributes of the job in ``qstat -f``, whose long lines go on after a tab.

    >>> attributes_of("Job Id: 1.pbs\\n    exec_vnode = (a:ncpus=4)+(b:nc\\n\\tpus=4)\\n")["exec_vnode"]
    '(a:ncpus=4)+(b:ncpus=4)'
    """
    lines = said.replace("\r", "").replace("\n\t", "").splitlines()
    parts = (line.strip().partition(" = ") for line in lines)
    return {name: value.strip() for name, equals, value in parts if equals}


def end_of(fields: dict[str, str]) -> float | None:
    """Return when a job ends, in seconds since 1970; None if it has no walltime or has not said when it began."""
    began = fields.get("stime") or fields.get("start_time", "")
    words = fields.get("Resource_List.walltime", "").split(":")
    try:
        seconds = sum(int(word) * unit for word, unit in zip(reversed(words), (1, 60, 3600, 86400), strict=False))
        # As the zone of this machine has it: so does qstat write it.
        return time.mktime(time.strptime(began, "%a %b %d %H:%M:%S %Y")) + seconds
    except ValueError:
        return None


def _vnodes(text: str) -> list[tuple[str, dict[str, int]]]:
    """Return each vnode of ``(node1:ncpus=4:mem=8gb)+(node2[0]:ncpus=2+node2[1]:ncpus=2)`` with its resources."""
    found = []
    for part in re.split(r"[+()]+", text.replace(" ", "")):
        name, *resources = part.split(":")
        held: dict[str, int] = {}
        for resource in resources:
            key, _, value = resource.partition("=")
            size = _SIZE.fullmatch(value)
            if size is not None:
                held[key] = int(size[1]) * _BYTES[(size[2] or "b").lower()]
        if name:
            found.append((name, held))
    return found


PBS = Pbs()
