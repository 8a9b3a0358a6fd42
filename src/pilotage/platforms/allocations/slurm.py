"""Slurm: variables of the job, and ``scontrol show job`` for what they leave open.

``SLURM_JOB_*`` are the job's in its script and in steps; of the older names without ``JOB``, some are the step's in a step, so
they are only looked at where the others are missing. A variable about GPUs speaks of the node that it is read on: nodes of a
job may differ in them. Numbers of CPUs in ``scontrol`` (``CPU_IDs``) are Slurm's own and not the machine's, so they are counted
and not kept. A heterogeneous job has a list for each of its parts (``_HET_GROUP_0``, before 20.02 ``_PACK_GROUP_0``).
"""

from __future__ import annotations

import re
from types import MappingProxyType

import msgspec

from pilotage.errors import BackendError
from pilotage.platforms.allocations.allocation import AllocatedNode, Allocation, Surroundings, place_here, wrong
from pilotage.platforms.allocations.host_lists import compress_hosts, expand_counts, expand_hosts, expand_numbers

_JOB = ("SLURM_JOB_ID", "SLURM_JOBID")
_DETAIL = re.compile(r"\bNodes=(\S+) CPU_IDs=(\S+) Mem=(\d+) GRES(?:_IDX)?=(\S*)")
_GRES = re.compile(r"gpu(?::[^:(,]+)*?(?::(\d+))?(?:\(IDX:([\d,-]*)\))?(?=,|$)")


class Slurm:
    """See ``AllocationSystem`` and the head of this module."""

    name = "slurm"
    tried = "recorded in Slurm 22.05, four virtual nodes"
    reads = MappingProxyType(
        {
            "SLURM_JOB_ID": "the job",
            "SLURM_JOB_NODELIST": "the nodes, as `node[1-3],fat1`",
            "SLURM_JOB_NUM_NODES": "checked against the list",
            "SLURM_JOB_CPUS_PER_NODE": "cores of each node, as `56(x3),28`",
            "SLURM_HET_SIZE": "parts of a heterogeneous job, each with its own `…_HET_GROUP_n`",
            "SLURM_THREADS_PER_CORE": "hardware threads of a core that the job may use",
            "SLURMD_NODENAME": "which of the nodes this is",
            "SLURM_JOB_GPUS": "GPUs of this node, by number",
            "SLURM_GPUS_ON_NODE": "GPUs of this node, where their numbers are not told",
            "SLURM_GPUS_PER_NODE": "GPUs of the other nodes, as `4` or `a100:4`",
            "SLURM_MEM_PER_NODE": "memory of each node, in MiB",
            "SLURM_MEM_PER_CPU": "memory for each core, in MiB",
            "SLURM_JOB_END_TIME": "end of the job (newer versions)",
        }
    )

    def discover(self, surroundings: Surroundings) -> Allocation | None:
        """Return what the job has; see ``AllocationSystem``."""
        job = surroundings.get(*_JOB)[1]
        if not job:
            return None
        parts = surroundings.number("SLURM_HET_SIZE", "SLURM_PACK_SIZE")
        nodes: list[AllocatedNode] = []
        for part in range(parts or 1):
            nodes += _part(surroundings, job, part if parts else None)
        names = [node.name for node in nodes]
        here = place_here(names, surroundings.get("SLURMD_NODENAME")[1])
        nodes = [_with_gpus(surroundings, node) if node.name == here else node for node in nodes]
        end_s = surroundings.number("SLURM_JOB_END_TIME")
        found = Allocation(system=self.name, job=job, nodes=tuple(nodes), end_s=end_s or None, here=here)
        if surroundings.ask and (found.end_s is None or any(node.gpus is None or not node.memory_mib for node in nodes)):
            # In this format times are seconds since 1970, whatever the zone of the machine.
            command = ["env", "SLURM_TIME_FORMAT=%s", "scontrol", "show", "job", "--details", "--oneliner", job]
            try:
                said = surroundings.ask(command)
            except BackendError as error:
                return msgspec.structs.replace(found, notes=(f"scontrol did not tell more of the job: {error}",))
            return completed(found, said)
        return found


def completed(found: Allocation, said: str) -> Allocation:
    """Return an allocation with what ``scontrol show job --details --oneliner`` says of its nodes and its end."""
    details: dict[str, tuple[int, int, str]] = {}
    for line in said.splitlines():
        # Of a job that has ended, GRES are empty.
        if "JobState=RUNNING" in line:
            for hosts, cpus, memory, gres in _DETAIL.findall(line):
                for host in expand_hosts(hosts):
                    details[host] = len(expand_numbers(cpus)), int(memory), gres
    nodes = []
    for node in found.nodes:
        if node.name in details:
            cores, memory_mib, gres = details[node.name]
            count, ids = _gpus_of(gres)
            more = {"cores": cores, "memory_mib": memory_mib or None, "gpus": count, "gpu_ids": ids}
            missing = {field: value for field, value in more.items() if getattr(node, field) is None}
            if node.gpus not in (None, count):
                missing.pop("gpu_ids", None)
            node = msgspec.structs.replace(node, **missing)
        nodes.append(node)
    ends = [int(end) for end in re.findall(r"\bEndTime=(\d+)(?=\s|$)", said)]
    return msgspec.structs.replace(found, nodes=tuple(nodes), end_s=found.end_s or (float(min(ends)) if ends else None))


def _part(surroundings: Surroundings, job: str, part: int | None) -> list[AllocatedNode]:
    """Return the nodes of one part of a heterogeneous job, or of the job."""

    def names(*bases: str) -> list[str]:
        return list(bases) if part is None else [f"{base}_{word}_GROUP_{part}" for base in bases for word in ("HET", "PACK")]

    list_name, text = surroundings.get(*names("SLURM_JOB_NODELIST"), *(["SLURM_NODELIST"] if part is None else []))
    if not list_name:
        name = names("SLURM_JOB_NODELIST")[0]
        raise wrong("SLURM_JOB_ID", job, f"this is a job of Slurm, and {name}, which names its nodes, is not set")
    try:
        hosts = list(dict.fromkeys(expand_hosts(text)))
    except ValueError as error:
        raise wrong(list_name, text, f"the nodes cannot be told: {error}") from None
    if not hosts:
        raise wrong(list_name, text, "it names no node")
    count_name, value = surroundings.get(*names("SLURM_JOB_NUM_NODES"))
    if surroundings.number(*names("SLURM_JOB_NUM_NODES")) not in (None, len(hosts)):
        raise wrong(count_name, value, f"{list_name} has {len(hosts)} nodes ({compress_hosts(hosts)})")
    cores: list[int | None] = [None] * len(hosts)
    cores_name, value = surroundings.get(*names("SLURM_JOB_CPUS_PER_NODE"))
    if cores_name:
        try:
            cores = list(expand_counts(value))
        except ValueError as error:
            raise wrong(cores_name, value, str(error)) from None
        if len(cores) != len(hosts):
            raise wrong(cores_name, value, f"it is for {len(cores)} nodes, and {list_name} has {len(hosts)} ({text})")
    gpus = _per_node(surroundings, *names("SLURM_GPUS_PER_NODE"))
    per_node_mib = surroundings.number(*names("SLURM_MEM_PER_NODE"))
    per_cpu_mib = surroundings.number(*names("SLURM_MEM_PER_CPU"))
    threads = surroundings.number(*names("SLURM_THREADS_PER_CORE"), least=1)
    return [
        AllocatedNode(
            name=host,
            cores=held,
            threads_per_core=threads,
            gpus=gpus,
            # 0: as much as the node has.
            memory_mib=per_node_mib or ((per_cpu_mib or 0) * (held or 0)) or None,
        )
        for host, held in zip(hosts, cores, strict=True)
    ]


def _per_node(surroundings: Surroundings, *names: str) -> int | None:
    """Return the GPUs of ``4``, ``a100:4`` or ``a100:2,v100:1``."""
    name, value = surroundings.get(*names)
    if not name:
        return None
    counts = [part.rpartition(":")[2] for part in value.split(",")]
    if not all(count.isascii() and count.isdigit() for count in counts):
        raise wrong(name, value, "it must be a number of GPUs, or several with their types, such as a100:4")
    return sum(map(int, counts))


def _with_gpus(surroundings: Surroundings, node: AllocatedNode) -> AllocatedNode:
    """Return this node with its own GPUs. An exclusive job may have more of them than it asked for."""
    ids = surroundings.get("SLURM_JOB_GPUS")[1]
    if ids:
        held = tuple(each.strip() for each in ids.split(",") if each.strip())
        return msgspec.structs.replace(node, gpus=len(held), gpu_ids=held)
    count = surroundings.number("SLURM_GPUS_ON_NODE")
    return node if count is None else msgspec.structs.replace(node, gpus=count)


def _gpus_of(gres: str) -> tuple[int, tuple[str, ...] | None]:
    """Return number and ids of the GPUs in ``gpu:a100:2(IDX:0-1),nvme:1``."""
    count, ids, complete = 0, list[int](), True
    for number, indices in _GRES.findall(gres):
        listed = expand_numbers(indices) if indices else []
        count += int(number) if number else len(listed)
        ids += listed
        complete = complete and bool(listed)
    return count, tuple(map(str, sorted(ids))) if complete and len(ids) == count else None


SLURM = Slurm()
