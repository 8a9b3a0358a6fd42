"""LoadLeveler: the host file, or the list of processors, each with a host for each task.

Tasks are not cores, so cores are left to the node. The list is not set for jobs of more than 128 tasks; the file is.
"""

from __future__ import annotations

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


class LoadLeveler:
    """See ``AllocationSystem`` and the head of this module."""

    name = "loadleveler"
    tried = "not tried on a real system"
    reads = MappingProxyType(
        {
            "LOADL_STEP_ID": "the job",
            "LOADL_HOSTFILE": "the nodes: a line for each task",
            "LOADL_PROCESSOR_LIST": "the same in a variable, for jobs of few tasks, where there is no file",
            "LOADL_TOTAL_TASKS": "checked against these",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        job = surroundings.get("LOADL_STEP_ID", "LOADL_JOB_NAME")[1]
        if not job:
            return None
        source, value = surroundings.get("LOADL_HOSTFILE", "LOADL_PROCESSOR_LIST")
        if not source:
            raise wrong(
                "LOADL_STEP_ID", job, "this is a job of LoadLeveler, and neither LOADL_HOSTFILE nor LOADL_PROCESSOR_LIST is set"
            )
        slots = count_lines(surroundings.lines(source)) if source == "LOADL_HOSTFILE" else Counter(value.split())
        total = surroundings.number("LOADL_TOTAL_TASKS", least=1)
        if total not in (None, sum(slots.values())):
            raise wrong("LOADL_TOTAL_TASKS", total, f"{source} has {sum(slots.values())} tasks on {len(slots)} nodes")
        nodes = tuple(AllocatedNode(name=host, slots=count) for host, count in slots.items())
        return Allocation(system=self.name, job=job, nodes=nodes, here=place_here(list(slots), surroundings.hostname))


LOADLEVELER = LoadLeveler()
