"""Which cores and GPUs of one node a task takes, of those that are free there."""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.model.resources import GPU_SHARES, Node, NodeShare


def domain_masks(nodes: Sequence[Node]) -> list[tuple[int, ...]]:
    """Return the cores of each NUMA domain of each node, as bit masks; none where a node has only one domain.

    >>> from pilotage.model.resources import NodeShape
    >>> domain_masks([Node(0, "a", NodeShape(cores=6), domain=4), Node(1, "b", NodeShape(cores=6))])
    [(15, 48), ()]
    """
    masks: dict[tuple[int, int], tuple[int, ...]] = {}
    for node in nodes:
        cores, domain = node.shape.cores, node.domain
        if (cores, domain) not in masks:
            starts = range(0, cores, domain) if 0 < domain < cores else ()
            masks[cores, domain] = tuple(((1 << min(domain, cores - start)) - 1) << start for start in starts)
    return [masks[node.shape.cores, node.domain] for node in nodes]


def choose_cores(free: int, wanted: int, domains: tuple[int, ...]) -> int:
    """Return ``wanted`` of the free cores: the lowest inside the tightest of ``domains`` that has so many, else of all.

    >>> f"{choose_cores(0b0011_0111, 2, (0b1111, 0b1111_0000)):b}", f"{choose_cores(0b0011_0111, 2, ()):b}"
    ('110000', '11')
    """
    if free.bit_count() == wanted:
        return free
    best = least = 0
    for domain in domains:
        inside = free & domain
        count = inside.bit_count()
        if count >= wanted and (not best or count < least):
            best, least = inside, count
    if best:
        if least == wanted:
            return best
        free = best
    run = (free & -free) * ((1 << wanted) - 1)
    if free & run == run:
        return run
    rest = free
    for _ in range(wanted):
        rest &= rest - 1
    return free ^ rest


def take_whole(gpus: list[int], wanted: int) -> tuple[tuple[int, int], ...]:
    """Take so many GPUs of which nothing is in use, out of ``gpus``, the 64ths of each that are free; return what is taken."""
    taken = []
    gpu = -1
    for _ in range(wanted):
        gpu = gpus.index(GPU_SHARES, gpu + 1)
        gpus[gpu] = 0
        taken.append((gpu, GPU_SHARES))
    return tuple(taken)


def take_shares(gpus: list[int], share: int, ranks: int) -> tuple[tuple[int, int], ...]:
    """Take a share for each rank from the GPU with least room, so that whole GPUs stay free as long as they can."""
    taken = []
    for _ in range(ranks):
        gpu = min([gpu for gpu, free in enumerate(gpus) if free >= share], key=gpus.__getitem__)
        gpus[gpu] -= share
        taken.append((gpu, share))
    return tuple(taken)


def parts_of(share: NodeShare) -> dict[int, int]:
    """Return what a share takes of each GPU, in 64ths."""
    parts: dict[int, int] = {}
    for gpu, taken in share.gpus:
        parts[gpu] = parts.get(gpu, 0) + taken
    return parts
