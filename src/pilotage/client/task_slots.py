"""The place that a user chose for each rank of a task: from ``TaskDescription.slots`` to the placement, and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pilotage.client.checks import size_of
from pilotage.client.constants import BUSY
from pilotage.client.fields import shown
from pilotage.client.node_list import RO, Slot
from pilotage.errors import InvalidTask, nearest
from pilotage.model.ranks import rank_slots
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES, Node, NodeShare, Placement, Request, blocks, core_mask, gpu_shares

NodeIndex = Callable[[str], int]
"""Returns the index of the node of this name. Raises ``InvalidTask``, without naming the task."""

INDEX_LIMIT = 1 << 16
"""No node has so many cores or GPUs."""

_FIELDS = ("node_index", "node_name", "cores", "gpus", "lfs", "mem", "version")


def placed(task: str, request: Request, given: Sequence[Any], named: Collection[str], node_index: NodeIndex) -> Request:
    """Return the request with the slots that were given, one per rank. ``named``: the attributes that were set.

    Raises:
        InvalidTask: names the slot, the value and the remedy.
    """
    for name in ("ranks_per_node", "tags"):
        if name in named:
            raise InvalidTask(f"{task}: both slots and {name} are given; the slots say where the ranks run: leave {name} out")
    shares = tuple([_share(task, f"slots[{rank}]", slot, request, node_index) for rank, slot in enumerate(given)])
    cores, gpus = _cores_of(shares[0]), sum(part for _, part in shares[0].gpus)
    for name, asked, found, what in (
        ("ranks", request.ranks, len(shares), f"{len(shares)} slots"),
        ("cores_per_rank", request.cores, cores, f"slots of {cores} cores"),
        ("gpus_per_rank", request.gpu_shares / GPU_SHARES, gpus / GPU_SHARES, f"slots of {gpus / GPU_SHARES:g} GPUs"),
    ):
        if name in named and asked != found:
            raise InvalidTask(f"{task}: {name}={asked:g}, but {what} are given; leave {name} out, or make them agree")
    taken: dict[tuple[int, int], int] = {}
    for rank, share in enumerate(shares):
        if _cores_of(share) != cores or [part for _, part in share.gpus] != [part for _, part in shares[0].gpus]:
            raise InvalidTask(
                f"{task}: slots[{rank}] has other numbers of cores or GPUs than slots[0]; the ranks of a task are alike"
            )
        mask = int.from_bytes(share.cores, "little")
        for index in range(mask.bit_length()):
            if mask >> index & 1 and taken.setdefault((share.node, index), rank) != rank:
                raise InvalidTask(
                    f"{task}: slots[{rank}] and slots[{taken[share.node, index]}] both have core {index} of node {share.node}; "
                    "a core is one rank's"
                )
    return Request(
        ranks=len(shares),
        cores=cores,
        gpu_shares=gpus,
        memory=request.memory,
        disk=request.disk,
        slots=shares,
        gang=request.gang,
        gang_size=request.gang_size,
    )


def slots_of(placement: Placement, request: Request, nodes: Sequence[Node]) -> list[Slot]:
    """Return where each rank is, in rank order. Memory and disk are those that the request asks for."""
    names = {node.index: node.name for node in nodes}
    part = min(request.gpu_shares, GPU_SHARES) / GPU_SHARES
    return [
        Slot(
            cores=[RO(index=index, occupation=BUSY) for index in slot.cores],
            gpus=[RO(index=index, occupation=part) for index in slot.gpus],
            lfs=request.disk * BLOCK_MIB,
            mem=request.memory * BLOCK_MIB,
            node_index=slot.node,
            node_name=names.get(slot.node, ""),
        )
        for slot in rank_slots(placement, request)
    ]


def attribute_of(request: Request) -> list[dict[str, Any]]:
    """Return the attribute that says this."""
    return [
        {
            "node_index": slot.node_index,
            "cores": [core.index for core in slot.cores],
            "gpus": [gpu.as_dict() for gpu in slot.gpus],
            "lfs": share.disk * BLOCK_MIB,
            "mem": share.memory * BLOCK_MIB,
        }
        for slot, share in zip(slots_of(request.slots, request, ()), request.slots, strict=True)
    ]


def _cores_of(share: NodeShare) -> int:
    return int.from_bytes(share.cores, "little").bit_count()


def _share(task: str, place: str, slot: Any, request: Request, node_index: NodeIndex) -> NodeShare:
    fields = _fields(task, place, slot)
    mask = 0
    for index, occupation in _indices(task, f"{place}: cores", fields["cores"]):
        if occupation != BUSY:
            raise InvalidTask(f"{task}: {place}: core {index} is asked for by {occupation}; a core is taken whole (1.0)")
        mask |= 1 << index
    if not mask:
        raise InvalidTask(f"{task}: {place} has no cores; name them: {{'node_index': 0, 'cores': [0, 1]}}")
    gpus = _indices(task, f"{place}: gpus", fields["gpus"])
    if len(gpus) > 1 and any(part != BUSY for _, part in gpus):
        raise InvalidTask(f"{task}: {place}: parts of several GPUs are asked for; a rank has whole GPUs, or a part of one")
    memory = size_of(task, f"{place}: mem", fields["mem"])
    disk = size_of(task, f"{place}: lfs", fields["lfs"])
    return NodeShare(
        node=_node(task, place, fields, node_index),
        ranks=1,
        cores=core_mask(mask),
        gpus=tuple([(index, gpu_shares(part)) for index, part in gpus]),
        memory=blocks(memory) or request.memory,
        disk=blocks(disk) or request.disk,
    )


def _fields(task: str, place: str, slot: Any) -> dict[str, Any]:
    defaults = {"node_index": None, "node_name": "", "cores": (), "gpus": (), "lfs": 0, "mem": 0}
    if isinstance(slot, Mapping):
        for name in slot:
            if name not in _FIELDS:
                raise InvalidTask(f"{task}: {place} has the unknown field {name!r}{nearest(str(name), _FIELDS)}")
        found = dict(slot)
    else:
        found = {name: getattr(slot, name) for name in defaults if hasattr(slot, name)}
        if not found:
            raise InvalidTask(
                f"{task}: {place} is {shown(slot)}; give a slot of pilot.nodelist, or a dict of {', '.join(_FIELDS[:-1])}"
            )
    return {name: default if found.get(name) is None else found[name] for name, default in defaults.items()}


def _node(task: str, place: str, fields: Mapping[str, Any], node_index: NodeIndex) -> int:
    name, index = fields["node_name"], fields["node_index"]
    if name:
        try:
            return node_index(name)
        except InvalidTask as error:
            raise InvalidTask(f"{task}: {place}: node_name={name!r}: {error}") from None
    if type(index) is not int or index < 0:
        raise InvalidTask(f"{task}: {place}: node_index={index!r}: name the node by its index (0 or more) or its node_name")
    return index


def _indices(task: str, place: str, given: Any) -> list[tuple[int, float]]:
    if not isinstance(given, (list, tuple, range)):
        raise InvalidTask(f"{task}: {place} is {shown(given)}; give a list of indices")
    found = []
    for one in given:
        index, occupation = one, BUSY
        if not isinstance(one, (int, Sequence)):
            get = one.get if isinstance(one, Mapping) else lambda name, default, one=one: getattr(one, name, default)
            index, occupation = get("index", None), get("occupation", BUSY)
        if type(index) is not int or not 0 <= index < INDEX_LIMIT:
            raise InvalidTask(f"{task}: {place} has the index {shown(index)}; indices are whole numbers from 0 on")
        if type(occupation) not in (int, float) or not 0 < occupation <= BUSY:
            raise InvalidTask(f"{task}: {place} has the occupation {shown(occupation)}; it is more than 0 and at most {BUSY}")
        found.append((index, occupation))
    if len({index for index, _ in found}) < len(found):
        raise InvalidTask(f"{task}: {place} names an index twice")
    return found
