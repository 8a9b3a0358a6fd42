"""A file of nodes that the user names in ``PILOTAGE_NODE_FILE``, where a system tells nothing, or something wrong.

A node on a line: ``node1``, or ``node1 cores=56 gpus=8 memory_mib=512000``; lists as ``node[1-3]`` are expanded. A node that is
there several times without a number of cores has one for each time, as node files of batch systems have it.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

from pilotage.errors import nearest
from pilotage.platforms.allocations.allocation import (
    NODE_FILE,
    AllocatedNode,
    Allocation,
    Surroundings,
    place_here,
    wrong,
)
from pilotage.platforms.allocations.host_lists import expand_hosts

_FIELDS = ("cores", "threads_per_core", "slots", "gpus", "memory_mib")


class NodeFile:
    """See ``AllocationSystem`` and the head of this module."""

    name = "node_file"
    tried = "files of the tests"
    reads = MappingProxyType({NODE_FILE: "the nodes, one on a line: `node[1-3] cores=56 gpus=8 memory_mib=512000`"})

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the file says; see ``AllocationSystem``."""
        path = surroundings.get(NODE_FILE)[1]
        if not path:
            return None
        fields: dict[str, dict[str, int]] = {}
        times: dict[str, int] = {}
        for number, words in surroundings.lines(NODE_FILE):
            told = {}
            for word in words[1:]:
                name, _, value = word.partition("=")
                if name not in _FIELDS or not (value.isascii() and value.isdigit()):
                    raise wrong(
                        NODE_FILE,
                        path,
                        f"line {number}: {word!r} is not one of {', '.join(_FIELDS)} with a whole number"
                        f"{nearest(name, _FIELDS)}",
                    )
                told[name] = int(value)
            try:
                hosts = expand_hosts(words[0])
            except ValueError as error:
                raise wrong(NODE_FILE, path, f"line {number}: {error}") from None
            for host in hosts:
                if times.get(host) and (told or fields[host]):
                    raise wrong(
                        NODE_FILE, path, f"line {number}: {host!r} is there before, and one of the lines tells what it has"
                    )
                times[host] = times.get(host, 0) + 1
                fields[host] = told
        nodes = []
        for host, told in fields.items():
            repeated = {"cores": times[host], "slots": times[host]} if times[host] > 1 else {}
            nodes.append(msgspec.structs.replace(AllocatedNode(name=host), **{**repeated, **told}))
        here = place_here(list(fields), surroundings.hostname)
        return Allocation(system=self.name, job="", nodes=tuple(nodes), here=here)


NODE_FILE_SYSTEM = NodeFile()
