"""What a request asks for, worked out once so that a match is a few comparisons, and why a request can never be met."""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.model.resources import BLOCK_MIB, GPU_SHARES, NodeShape, NodeShare, Placement, Request, core_mask


class Need:
    """A request made ready for matching; all amounts per rank.

    ``whole`` counts whole GPUs and ``share`` 64ths of one GPU; at most one of them is not 0. ``plain`` needs count cores
    only, ``cpu_only`` ones cores and memory, and the books take shortcuts there; ``small`` ones are of one rank of these,
    anywhere, and ``one_core`` is the plainest and most frequent. ``scatters`` tells that ranks may lie on more than one
    node, ``follows`` that all are on one node that an earlier task may have settled; ``pinned`` names nodes. ``least``:
    ranks that a node must hold to be of use, which take ``least_cores`` and ``least_memory`` of it. ``gang``: whether it
    starts together with others (see ``gangs``). ``chosen``: what the slots that the user has chosen take of each node, if
    there are any.
    """

    __slots__ = (
        "chosen",
        "colocate",
        "cores",
        "cpu_only",
        "disk",
        "exclusive",
        "follows",
        "gang",
        "least",
        "least_cores",
        "least_memory",
        "memory",
        "one_core",
        "per_node",
        "pinned",
        "plain",
        "ranks",
        "request",
        "scatters",
        "share",
        "small",
        "whole",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ranks = request.ranks
        self.cores = request.cores
        self.share = request.gpu_shares if request.gpu_shares < GPU_SHARES else 0
        self.whole = 0 if self.share else -(-request.gpu_shares // GPU_SHARES)
        self.memory = request.memory
        self.disk = request.disk
        self.per_node = min(request.ranks_per_node, request.ranks)
        self.least = (request.ranks % self.per_node or self.per_node) if self.per_node else 1
        self.least_cores = self.cores * self.least
        self.least_memory = self.memory * self.least
        self.colocate = request.colocate
        self.exclusive = request.exclusive
        self.plain = not (self.share or self.whole or self.memory or self.disk or self.exclusive)
        self.cpu_only = not (self.share or self.whole or self.disk or self.exclusive)
        self.chosen = by_node(request.slots) if request.slots else ()
        self.pinned = request.pinned
        self.follows = bool(request.colocate or request.beside)
        self.gang = bool(request.gang)
        settled = self.follows or self.chosen
        self.small = self.cpu_only and self.ranks == 1 and not (settled or self.pinned or self.gang)
        self.one_core = self.small and self.plain and self.cores == 1
        self.scatters = self.ranks > 1 and not settled

    def capacity(self, shape: NodeShape) -> int:
        """Return how many ranks an idle node of this shape holds (not limited by ``per_node``)."""
        fit = shape.cores // self.cores
        if self.whole:
            fit = min(fit, shape.gpus // self.whole)
        elif self.share:
            fit = min(fit, shape.gpus * (GPU_SHARES // self.share))
        if self.memory:
            fit = min(fit, shape.memory // self.memory)
        if self.disk:
            fit = min(fit, shape.disk // self.disk)
        return fit


def by_node(slots: Placement) -> Placement:
    """Return one share for each node, which is what all slots there take together."""
    found: dict[int, NodeShare] = {}
    for slot in slots:
        other = found.get(slot.node)
        if other is not None:
            cores = int.from_bytes(slot.cores, "little") | int.from_bytes(other.cores, "little")
            slot = NodeShare(
                slot.node,
                other.ranks + slot.ranks,
                core_mask(cores),
                (*other.gpus, *slot.gpus),
                other.memory + slot.memory,
                other.disk + slot.disk,
            )
        found[slot.node] = slot
    return tuple(found.values())


def refusal(need: Need, shapes: Mapping[NodeShape, int]) -> str | None:
    """Return why nodes of these ``shapes`` (with their numbers) can never satisfy ``need``, or None if they can."""
    if not any(shapes.values()):
        return "no node is left in this pilot; submit to another pilot"
    known = [shape for shape, number in shapes.items() if number]
    return _rank_refusal(need, known) or _layout_refusal(need, {shape: shapes[shape] for shape in known})


def _rank_refusal(need: Need, shapes: list[NodeShape]) -> str | None:
    if need.ranks < 1 or need.cores < 1:
        return f"{need.ranks} ranks of {need.cores} cores is no amount of work; ask for at most what is there and at least 1"
    if any(need.capacity(shape) for shape in shapes):
        return None
    cores = max(shape.cores for shape in shapes)
    if need.cores > cores:
        return f"{need.cores} cores per rank exceed the {cores} cores of a node; ask for at most {cores} or use more ranks"
    gpus = max(shape.gpus for shape in shapes)
    wanted = need.whole or (1 if need.share else 0)
    if wanted > gpus:
        remedy = f"ask for at most {gpus} or use more ranks" if gpus else "use a pilot with GPUs"
        return f"{_gpus(need)} per rank exceed the {gpus} GPUs of a node; {remedy}"
    for name, each, most in (
        ("memory", need.memory, max(shape.memory for shape in shapes)),
        ("node-local disk", need.disk, max(shape.disk for shape in shapes)),
    ):
        if each > most:
            return (
                f"{each * BLOCK_MIB} MiB of {name} per rank exceed the {most * BLOCK_MIB} MiB of a node; "
                f"ask for at most {most * BLOCK_MIB} MiB or use more ranks"
            )
    return f"no node offers {_rank(need)} together; ask for less of one of them"


def _layout_refusal(need: Need, shapes: dict[NodeShape, int]) -> str | None:
    best = max(need.capacity(shape) for shape in shapes)
    tag = f"colocate={need.colocate!r}" if need.colocate else f"task={need.request.beside!r}"
    if need.follows and need.ranks > best:
        return (
            f"{need.ranks} ranks exceed the {best} ranks of {_rank(need)} that one node holds, and {tag} keeps them on one "
            f"node; ask for at most {best} ranks or leave the tag out"
        )
    if need.per_node:
        if need.follows and need.per_node < need.ranks:
            return (
                f"ranks_per_node={need.per_node} spreads {need.ranks} ranks over nodes, but {tag} keeps them on one node; "
                "leave one of the two out"
            )
        if need.per_node > best:
            return (
                f"ranks_per_node={need.per_node} exceeds the {best} ranks of {_rank(need)} that a node holds; "
                f"ask for at most {best}"
            )
        full, rest = divmod(need.ranks, need.per_node)
        nodes = sum(number for shape, number in shapes.items() if need.capacity(shape) >= need.per_node)
        fit_rest = sum(number for shape, number in shapes.items() if need.capacity(shape) >= rest)
        if nodes < full or (rest and fit_rest < full + 1):
            return (
                f"{need.ranks} ranks with {need.per_node} on each node need {full + bool(rest)} nodes, more than the {nodes} "
                "nodes that can hold them; ask for fewer ranks or more ranks per node"
            )
        return None
    room = sum(number * need.capacity(shape) for shape, number in shapes.items())
    if need.ranks > room:
        return (
            f"{need.ranks} ranks of {_rank(need)} exceed the {room} that all {sum(shapes.values())} nodes hold; "
            f"ask for at most {room} ranks or a larger pilot"
        )
    return None


def _gpus(need: Need) -> str:
    if need.share:
        return f"{need.share}/{GPU_SHARES} of a GPU"
    return f"{need.whole} GPU" + "s" * (need.whole != 1)


def _rank(need: Need) -> str:
    parts = [f"{need.cores} core" + "s" * (need.cores != 1)]
    if need.whole or need.share:
        parts.append(_gpus(need))
    if need.memory:
        parts.append(f"{need.memory * BLOCK_MIB} MiB of memory")
    if need.disk:
        parts.append(f"{need.disk * BLOCK_MIB} MiB of disk")
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def describe(need: Need) -> str:
    """Return what is needed, in words: ``2 ranks of 7 cores and 1 GPU, 1 rank on each node``."""
    words = _rank(need) if need.ranks == 1 else f"{need.ranks} ranks of {_rank(need)}"
    if need.per_node:
        words += f", {need.per_node} rank{'s' * (need.per_node != 1)} on each node"
    elif need.ranks == 1 or need.follows:
        words += " on one node"
    if need.exclusive:
        words += " that nothing else uses"
    return words
