"""Flux: the resource set R of the job or the instance, which a command tells (RFC 20, version 1).

Inside a job (``FLUX_JOB_ID``) it is the job's, which the instance around it knows; in the first program of an instance
(``FLUX_URI`` alone) it is the instance's. Cores and GPUs in R are counted by Flux in the order of the machine's own topology:
a core is a whole one, whose number is not that of a hardware thread, so cores are counted and not kept.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

from pilotage.platforms.allocations.allocation import AllocatedNode, Allocation, Surroundings, place_here, wrong
from pilotage.platforms.allocations.host_lists import expand_hosts, expand_numbers


class _Children(msgspec.Struct):
    core: str = ""
    gpu: str = ""


class _Ranks(msgspec.Struct):
    rank: str
    children: _Children


class _Execution(msgspec.Struct):
    R_lite: list[_Ranks]
    nodelist: list[str] = []
    expiration: float = 0.0


class _ResourceSet(msgspec.Struct):
    version: int
    execution: _Execution


class Flux:
    """See ``AllocationSystem`` and the head of this module."""

    name = "flux"
    tried = "not tried on a real system"
    reads = MappingProxyType(
        {
            "FLUX_JOB_ID": "the job, whose resource set `flux job info` tells",
            "FLUX_URI": "the instance, whose resource set `flux resource R` tells where there is no job",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        name, value = surroundings.get("FLUX_JOB_ID", "FLUX_URI")
        if not name:
            return None
        if surroundings.ask is None:
            raise wrong(name, value, "Flux tells the nodes of a job by a command alone, and here none may be run")
        is_job = name == "FLUX_JOB_ID"
        said = surroundings.ask(["flux", "job", "info", value, "R"] if is_job else ["flux", "resource", "R"])
        try:
            execution = msgspec.json.decode(said, type=_ResourceSet).execution
            nodes = _nodes(execution)
        except (msgspec.DecodeError, ValueError) as error:
            raise wrong(name, value, f"its resource set cannot be read: {error}") from None
        names = [node.name for node in nodes]
        return Allocation(
            system=self.name,
            job=value if is_job else "",
            nodes=nodes,
            end_s=execution.expiration or None,
            here=place_here(names, surroundings.hostname),
        )


def _nodes(execution: _Execution) -> tuple[AllocatedNode, ...]:
    """Return the nodes. Hosts are listed in the order of the ranks; ranks of one host are several brokers on it."""
    ranks = {rank: each.children for each in execution.R_lite for rank in expand_numbers(each.rank)}
    hosts = [host for text in execution.nodelist for host in expand_hosts(text)]
    if not ranks or len(hosts) != len(ranks):
        raise ValueError(f"it has {len(ranks)} ranks, and {len(hosts)} hosts in its nodelist")
    if len(set(hosts)) != len(hosts):
        raise ValueError("its nodelist has a host twice, as an instance of several brokers on one host has")
    nodes = []
    for host, (_, children) in zip(hosts, sorted(ranks.items()), strict=True):
        gpus = tuple(map(str, expand_numbers(children.gpu))) if children.gpu else ()
        cores = len(expand_numbers(children.core)) if children.core else 0
        nodes.append(AllocatedNode(name=host, cores=cores, gpus=len(gpus), gpu_ids=gpus))
    return tuple(nodes)


FLUX = Flux()
