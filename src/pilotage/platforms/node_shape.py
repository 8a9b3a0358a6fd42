"""The shape that a node has for tasks: what is there, less what is kept for others, in the order in which it is handed out.

Cores that tasks get are numbered from 0; ``ShapedNode.core_ids`` tells the hardware thread of each. They go by NUMA domain,
then by core, then by thread, so that neighbours in number are neighbours in the machine. What "a GPU" is follows from the
rules: a device, or a part of one (a tile, a MIG instance); dies that the driver shows as GPUs can together be one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pilotage.errors import InvalidRequest
from pilotage.model.node_rules import NodeRules
from pilotage.model.resources import BLOCK_MIB, Node, NodeShape
from pilotage.platforms.allocations.allocation import AllocatedNode
from pilotage.platforms.allocations.host_lists import compress_numbers
from pilotage.platforms.node_here import NodeFound

__all__ = ["NodeRules", "ShapedNode", "node_shape"]


class ShapedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as tasks see it. ``core_ids``: the hardware thread of each core of ``node``; ``agent_core_ids`` and
    ``reserved_core_ids``: those kept for the agent and for nobody.

    ``gpu_ids``: what each GPU is called in the variable that shows it: ``0``, ``0.1`` for a part, ``0,1`` for two devices.
    ``gpu_cores``: the cores of ``node`` that are nearest to each GPU; empty where that is not known.
    """

    node: Node
    core_ids: tuple[int, ...]
    agent_core_ids: tuple[int, ...] = ()
    reserved_core_ids: tuple[int, ...] = ()
    gpu_ids: tuple[str, ...] = ()
    gpu_cores: tuple[tuple[int, ...], ...] = ()


def node_shape(found: NodeFound, rules: NodeRules, *, index: int = 0, allocated: AllocatedNode | None = None) -> ShapedNode:
    """Return what tasks get of a node. ``allocated``: what the batch system says the job has of it, which bounds it.

    Raises:
        InvalidRequest: the rules cannot be met by this node, or leave no core to tasks; names the rule, its value and the
            remedy.
    """
    name = found.name if allocated is None else allocated.name
    cores = [tuple(t for t in core if allocated is None or _held(t, allocated)) for core in found.cores]
    cores = [core for core in cores if core]
    if not cores:
        assert allocated is not None
        told = compress_numbers(allocated.core_ids or ())
        raise InvalidRequest(f"node {name}: the job has cores {told} of it, and this process may use none of them")
    reserved = _reserved(found, cores, rules, name)
    left = [core for core in cores if not reserved.intersection(core)]
    left = _in_order([_threads(core, rules, name) for core in left], found)
    left = _bounded(left, cores, allocated)
    if not left:
        raise InvalidRequest(
            f"node {name}: reserved_cores={compress_numbers(reserved)}: "
            "no core is left of those that the job may use; reserve fewer"
        )
    if not 0 <= rules.agent_cores < len(left):
        raise InvalidRequest(
            f"node {name}: agent_cores={rules.agent_cores}: {len(left)} cores are left when {len(reserved)} hardware threads "
            "are reserved, and tasks need one of them at least; keep fewer"
        )
    for_tasks = left[: len(left) - rules.agent_cores]
    for_agent = left[len(for_tasks) :]
    core_ids = tuple(thread for core in for_tasks for thread in core)
    gpu_ids, near = _gpus(found, rules, allocated, name)
    number = {thread: position for position, thread in enumerate(core_ids)}
    memory_mib = found.memory_mib
    if allocated is not None and allocated.memory_mib:
        memory_mib = min(memory_mib or allocated.memory_mib, allocated.memory_mib)
    shape = NodeShape(len(core_ids), len(gpu_ids), memory_mib // BLOCK_MIB, found.disk_mib // BLOCK_MIB)
    return ShapedNode(
        node=Node(index, name, shape, _domain(core_ids, found.numa_domains)),
        core_ids=core_ids,
        agent_core_ids=tuple(thread for core in for_agent for thread in core),
        reserved_core_ids=tuple(sorted(reserved)),
        gpu_ids=gpu_ids,
        gpu_cores=tuple(tuple(sorted(number[thread] for thread in threads if thread in number)) for threads in near),
    )


def _held(thread: int, allocated: AllocatedNode) -> bool:
    return allocated.core_ids is None or thread in allocated.core_ids


def _reserved(found: NodeFound, cores: Sequence[tuple[int, ...]], rules: NodeRules, name: str) -> set[int]:
    reserved = set(rules.reserved_cores)
    wanted = rules.reserved_cores_per_l3
    if wanted and not found.l3_domains:
        raise InvalidRequest(
            f"node {name}: reserved_cores_per_l3={wanted}: the node does not tell its L3 domains; "
            "name the cores in reserved_cores"
        )
    for domain in found.l3_domains if wanted else ():
        inside = [core for core in cores if set(core).intersection(domain)]
        if wanted >= len(inside):
            raise InvalidRequest(
                f"node {name}: reserved_cores_per_l3={wanted}: an L3 domain has {len(inside)} cores that the job may use "
                f"({compress_numbers(domain)}), and tasks need one of them; reserve fewer, or name them in reserved_cores"
            )
        reserved.update(thread for core in inside[:wanted] for thread in core)
    return {thread for core in cores if reserved.intersection(core) for thread in core}


def _threads(core: tuple[int, ...], rules: NodeRules, name: str) -> tuple[int, ...]:
    wanted = rules.threads_per_core
    if wanted > len(core):
        raise InvalidRequest(
            f"node {name}: threads_per_core={wanted}: a core has {len(core)} hardware threads that the job may use "
            f"({compress_numbers(core)}); ask for that, or for 0, which is all there are"
        )
    return core[:wanted] if wanted else core


def _in_order(cores: list[tuple[int, ...]], found: NodeFound) -> list[tuple[int, ...]]:
    place = {thread: position for position, domain in enumerate(found.numa_domains) for thread in domain}
    return sorted(cores, key=lambda core: (place.get(core[0], 0), core[0]))


def _bounded(
    left: list[tuple[int, ...]], cores: Sequence[tuple[int, ...]], allocated: AllocatedNode | None
) -> list[tuple[int, ...]]:
    """Return as many cores as the job has, where the system tells only a number and nothing else keeps it to that.

    Systems count threads or cores: a number that is that of either, with or without those reserved, is all of them. Else the
    job has a part of the node, and its number is taken for threads, which is never too many.
    """
    if allocated is None or allocated.cores is None or allocated.core_ids is not None:
        return left
    threads = [thread for core in cores for thread in core]
    whole = (len(cores), len(threads), len(left), sum(map(len, left)))
    if allocated.cores in whole or allocated.cores > len(threads):
        return left
    per_core = 1 if allocated.threads_per_core == 1 else max(map(len, cores))
    return left[: max(1, allocated.cores // per_core)]


class _Gpu(msgspec.Struct):
    """A device as it is called, how many parts it has, and the threads near to it."""

    label: str
    parts: int
    near: tuple[int, ...]


def _gpus(
    found: NodeFound, rules: NodeRules, allocated: AllocatedNode | None, name: str
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    devices = [
        _Gpu(
            label=str(gpu.index),
            parts=rules.gpu_parts or gpu.parts,
            near=rules.gpu_cores[gpu.index] if gpu.index < len(rules.gpu_cores) else gpu.near,
        )
        for gpu in found.gpus
    ]
    held = None if allocated is None else allocated.gpus
    if held is not None and held < len(devices):
        ids = allocated.gpu_ids if allocated and allocated.gpu_ids else ()
        chosen = [gpu for gpu in devices if gpu.label in ids]
        devices = chosen if len(chosen) == held else devices[:held]
    parts = rules.gpu_unit == "part"
    if held is not None and held > (sum(gpu.parts for gpu in devices) if parts else len(devices)):
        # Of a make whose driver is not known here, or not to be seen from this process: the system's word stands.
        labels = (allocated and allocated.gpu_ids) or tuple(map(str, range(held)))
        devices = [_Gpu(label=label, parts=rules.gpu_parts or 1, near=_told(rules, label)) for label in labels]
    if parts:
        units = [(f"{gpu.label}.{part}", gpu.near) for gpu in devices for part in range(gpu.parts)]
        # Where each part is a GPU for the system, too, the job may have some of them.
        units = units[:held] if held is not None and held > len(devices) else units
        return tuple(label for label, _ in units), [near for _, near in units]
    together = rules.devices_per_gpu
    if together < 1 or len(devices) % together:
        raise InvalidRequest(
            f"node {name}: devices_per_gpu={together}: the job has {len(devices)} devices of it, which are no multiple of "
            "that; give 1, so that each device is a GPU"
        )
    groups = [devices[first : first + together] for first in range(0, len(devices), together)]
    return (
        tuple(",".join(gpu.label for gpu in group) for group in groups),
        [tuple(sorted(_union(gpu.near for gpu in group))) for group in groups],
    )


def _told(rules: NodeRules, label: str) -> tuple[int, ...]:
    return rules.gpu_cores[int(label)] if label.isdigit() and int(label) < len(rules.gpu_cores) else ()


def _union(sets: Iterable[Iterable[int]]) -> set[int]:
    return {number for each in sets for number in each}


def _domain(core_ids: Sequence[int], numa_domains: Sequence[tuple[int, ...]]) -> int:
    """Return the number of cores in each NUMA domain, 0 unless all have as many."""
    counts = {len(set(core_ids).intersection(domain)) for domain in numa_domains}
    counts.discard(0)
    return counts.pop() if len(counts) == 1 else 0
