"""Cobalt: the node file where there is one, else the name of the partition, which is the list of nodes.

On Theta that list is of numbers alone, ``0-3,8``: node 8 is ``nid00008``. Blocks of a Blue Gene/Q have names that do not tell
their nodes.
"""

from __future__ import annotations

import re
from types import MappingProxyType

from pilotage.platforms.allocations.allocation import (
    AllocatedNode,
    Allocation,
    Surroundings,
    count_lines,
    place_here,
    wrong,
)
from pilotage.platforms.allocations.host_lists import expand_hosts, expand_numbers

_BLOCK = re.compile(r"[A-Z]+(?:-[0-9A-F]{5}){2,}-\d+")


class Cobalt:
    """See ``AllocationSystem`` and the head of this module."""

    name = "cobalt"
    tried = "not tried on a real system"
    reads = MappingProxyType(
        {
            "COBALT_JOBID": "the job",
            "COBALT_NODEFILE": "the nodes: a line for each",
            "COBALT_PARTNAME": "the nodes, where there is no file: `0-3,8` or `node[1-3]`",
            "COBALT_PARTSIZE": "checked against the nodes",
            "COBALT_ENDTIME": "end of the job",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        job = surroundings.get("COBALT_JOBID")[1]
        if not job:
            return None
        hosts = list(count_lines(surroundings.lines("COBALT_NODEFILE"))) if surroundings.get("COBALT_NODEFILE")[0] else []
        source = "COBALT_NODEFILE"
        if not hosts:
            source, text = surroundings.get("COBALT_PARTNAME")
            if not source:
                raise wrong(
                    "COBALT_JOBID", job, "this is a job of Cobalt, and neither COBALT_NODEFILE nor COBALT_PARTNAME is set"
                )
            hosts = _hosts(text)
        size = surroundings.number("COBALT_PARTSIZE", least=1)
        if size not in (None, len(hosts)):
            raise wrong("COBALT_PARTSIZE", size, f"{source} names {len(hosts)} nodes")
        end_s = surroundings.get("COBALT_ENDTIME")[1]
        if end_s and not re.fullmatch(r"\d+(\.\d*)?", end_s):
            raise wrong("COBALT_ENDTIME", end_s, "it must be the seconds since 1970")
        return Allocation(
            system=self.name,
            job=job,
            nodes=tuple(AllocatedNode(name=host) for host in hosts),
            end_s=float(end_s) if end_s else None,
            here=place_here(hosts, surroundings.hostname),
        )


def _hosts(text: str) -> list[str]:
    if _BLOCK.fullmatch(text):
        raise wrong("COBALT_PARTNAME", text, "this is the name of a block, which does not tell its nodes")
    try:
        if re.fullmatch(r"[\d,-]+", text):
            return [f"nid{number:05d}" for number in expand_numbers(text)]
        return list(dict.fromkeys(expand_hosts(text)))
    except ValueError as error:
        raise wrong("COBALT_PARTNAME", text, f"the nodes cannot be told: {error}") from None


COBALT = Cobalt()
