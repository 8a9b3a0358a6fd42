"""Placements that a user has chosen: taken as they are, once all of their parts are free."""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.core.scheduling.need import by_node
from pilotage.core.scheduling.pool import CLOSED, LOST, OPEN, Pool
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES, Node, NodeShare, Placement, Request, core_indices, core_mask


def refusal(request: Request, nodes: Sequence[Node], states: Sequence[int]) -> str | None:
    """Return why ``request.slots`` can never be taken on these nodes (value, limit, remedy), or None if they can."""
    if request.colocate or request.exclusive or request.ranks_per_node:
        return "slots say where the ranks run; leave ranks_per_node and the tags colocate and exclusive out, or the slots"
    ranks = sum(slot.ranks for slot in request.slots)
    if request.cores < 1 or any(slot.ranks < 1 for slot in request.slots):
        return "a slot without ranks, or without cores, is no place to run; give one for each rank"
    if ranks != request.ranks:
        return f"slots are given for {ranks} ranks, and ranks={request.ranks}; give one for each rank"
    for slot in request.slots:
        if not 0 <= slot.node < len(nodes):
            return f"a slot names node {slot.node}; the nodes of this pilot are 0 to {len(nodes) - 1}"
        named = len(core_indices(slot.cores))
        if named != slot.ranks * request.cores:
            return f"a slot on node {slot.node} names {named} cores for {slot.ranks} ranks of {request.cores}; name as many"
    seen: dict[int, int] = {}
    for slot in request.slots:
        cores = int.from_bytes(slot.cores, "little")
        twice = cores & seen.get(slot.node, 0)
        if twice:
            return f"slots name core {core_indices(core_mask(twice))[0]} of node {slot.node} twice; a core is one rank's"
        seen[slot.node] = cores | seen.get(slot.node, 0)
    for share in by_node(request.slots):
        node = nodes[share.node]
        if states[share.node] >= CLOSED:
            gone = "lost" if states[share.node] == LOST else "not of this partition"
            return f"the slots name node {node.name}, which is {gone}; name other nodes, or leave the slots out"
        reason = _too_much(share, node)
        if reason is not None:
            return reason
    return None


def _too_much(share: NodeShare, node: Node) -> str | None:
    shape = node.shape
    core = core_indices(share.cores)[-1]
    if core >= shape.cores:
        return f"a slot names core {core} of node {node.name}, which has cores 0 to {shape.cores - 1}"
    taken: dict[int, int] = {}
    for gpu, parts in share.gpus:
        taken[gpu] = taken.get(gpu, 0) + parts
        if gpu >= shape.gpus:
            has = f"GPUs 0 to {shape.gpus - 1}" if shape.gpus else "no GPU"
            return f"a slot names GPU {gpu} of node {node.name}, which has {has}"
        if taken[gpu] > GPU_SHARES:
            return f"slots take {taken[gpu]}/{GPU_SHARES} of GPU {gpu} of node {node.name}; one GPU is all there is of it"
    for name, wanted, most in (("memory", share.memory, shape.memory), ("node-local disk", share.disk, shape.disk)):
        if wanted > most:
            return (
                f"slots take {wanted * BLOCK_MIB} MiB of {name} on node {node.name}, which has {most * BLOCK_MIB} MiB; "
                "ask for less, or use more nodes"
            )
    return None


def are_free(pool: Pool, shares: Placement, state: int = OPEN) -> bool:
    """Tell whether all of this is free, on nodes in this state."""
    return all(pool.state[share.node] == state and pool.has(share) for share in shares)


def describe(pool: Pool, shares: Placement) -> str:
    """Return in words what the slots take, and what of it is not free now."""
    words = []
    for share in shares:
        cores = core_indices(share.cores)
        busy = [core for core in cores if not pool.cores[share.node] >> core & 1]
        taken = f"cores {', '.join(map(str, cores))} of node {pool.nodes[share.node].name}"
        if busy:
            taken += f", of which {', '.join(map(str, busy))} {'are' if len(busy) > 1 else 'is'} in use"
        elif not pool.has(share):
            taken += ", of which GPUs, memory or disk are in use"
        words.append(taken)
    return "needs the slots that it names: " + "; ".join(words)
