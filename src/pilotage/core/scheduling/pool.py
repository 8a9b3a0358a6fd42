"""The books of free resources: which cores, 64ths of GPUs, blocks of memory and disk each node has free.

Cores are one integer per node with a bit for each free core. ``carve`` takes ranks of a need out of a node's books and
``give_back`` puts a share back; both only note that the index is out of date for the node. ``refresh`` mends that before
the index is read: a node on which tasks come and go is moved once in many changes, or never.

A node is *open*; *reserved* (its resources are kept for one waiting task: it is in the books, not in the index); *suspended*
(as reserved, but for nobody: nothing can be started there for now); *closed* (it leaves when nothing is held there); *absent*
(it belongs to another policy, and may come back); or *lost*, which it stays: what is held there is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilotage.core.scheduling.carving import choose_cores, domain_masks, parts_of, take_shares, take_whole
from pilotage.core.scheduling.index import NodeIndex
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.partials import StartedGpus
from pilotage.errors import InvariantViolated
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, NodeShare, core_indices, core_mask

OPEN, RESERVED, SUSPENDED, CLOSED, LOST, ABSENT = range(6)


class Pool:
    """What is free on ``nodes``, whose indices must count from 0."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        self.shape: list[NodeShape] = [node.shape for node in nodes]
        self._full = [(1 << shape.cores) - 1 for shape in self.shape]
        self.cores = list(self._full)
        self.count = [shape.cores for shape in self.shape]
        self.gpus = [[GPU_SHARES] * shape.gpus for shape in self.shape]
        self.whole = [shape.gpus for shape in self.shape]
        self.part = [0] * len(self.nodes)
        """The largest free part of a GPU that is in use, in 64ths, by node."""
        self.memory = [shape.memory for shape in self.shape]
        self.disk = [shape.disk for shape in self.shape]
        self.state = [OPEN] * len(self.nodes)
        self.index = NodeIndex(self.shape)
        self._views: list[NodeIndex] = []
        self._views_of: dict[int, list[NodeIndex]] = {}
        self._stale: dict[int, None] = {}
        # The bucket of a node less its free cores; -1 after its GPUs or memory have changed.
        self._base = [self.index.base(shape.gpus, shape.memory) for shape in self.shape]
        self.started = StartedGpus(len(self.nodes))
        widest = max(shape.cores for shape in self.shape)
        self._mask_bytes = {1 << core: core_mask(1 << core) for core in range(widest)}
        self._domains = domain_masks(nodes)

    def capacity(self, need: Need, node: int) -> int:
        """Return how many ranks of ``need`` the node can take now, whether it is open or not."""
        if need.cpu_only:
            fit = self.count[node] // need.cores
            if need.memory:
                held = self.memory[node] // need.memory
                return fit if fit < held else held
            return fit
        if need.exclusive:
            if self.count[node] < self.shape[node].cores:
                return 0
            return need.capacity(self.shape[node])
        fit = self.count[node] // need.cores
        if need.whole:
            other = self.whole[node] // need.whole
        elif need.share:
            other = sum([free // need.share for free in self.gpus[node]])
        else:
            other = fit
        if other < fit:
            fit = other
        if need.memory:
            other = self.memory[node] // need.memory
            if other < fit:
                fit = other
        if need.disk:
            other = self.disk[node] // need.disk
            if other < fit:
                fit = other
        return fit

    def carve(self, need: Need, node: int, ranks: int) -> NodeShare:
        """Take ``ranks`` ranks out of the books of the node, which must have room for them."""
        if need.exclusive:
            return self._carve_node(need, node, ranks)
        free = self.cores[node]
        wanted = need.cores * ranks
        if wanted == 1:
            mask = free & -free
            named = self._mask_bytes[mask]
        else:
            mask = choose_cores(free, wanted, self._domains[node] if need.ranks == 1 else ())
            named = mask.to_bytes((mask.bit_length() + 7) >> 3, "little")
        self.cores[node] = free ^ mask
        self.count[node] -= wanted
        self._stale[node] = None
        memory = need.memory * ranks
        if memory:
            self.memory[node] -= memory
            self._base[node] = -1
        if need.cpu_only:
            return NodeShare(node, ranks, named, (), memory)
        self._base[node] = -1
        gpus: tuple[tuple[int, int], ...] = ()
        if need.whole:
            gpus = self._take_whole(node, need.whole * ranks)
        elif need.share:
            gpus = self._take_shares(node, need.share, ranks)
        disk = need.disk * ranks
        self.disk[node] -= disk
        return NodeShare(node, ranks, named, gpus, memory, disk)

    def carve_cores(self, node: int, count: int) -> list[NodeShare]:
        """Take ``count`` single cores, each a share of its own: the hot path of short tasks."""
        free = self.cores[node]
        named = self._mask_bytes
        shares = []
        for _ in range(count):
            mask = free & -free
            free ^= mask
            shares.append(NodeShare(node, 1, named[mask]))
        self.cores[node] = free
        self.count[node] -= count
        self._stale[node] = None
        return shares

    def view(self, only: Iterable[int]) -> NodeIndex:
        """Return an index of some nodes only, which is kept up to date until it is dropped."""
        self.refresh()
        view = NodeIndex(self.shape, only)
        # Put in backwards, the first node is used first.
        for node in sorted(view.bucket_of, reverse=True):
            view.move(node, self.index.bucket_of[node])
            self._views_of.setdefault(node, []).append(view)
        self._views.append(view)
        return view

    def drop_view(self, view: NodeIndex) -> None:
        """Keep this view up to date no more."""
        self._views.remove(view)
        for node in view.only or ():
            self._views_of[node].remove(view)

    def refresh(self) -> None:
        """Put all nodes that changed where their free resources belong in the index."""
        stale = self._stale
        if not stale:
            return
        count, state, bases, part, noted = self.count, self.state, self._base, self.part, self.started.noted
        whole, memory, index = self.whole, self.memory, self.index
        classes, class_of, width = index.classes, index.class_of, index.width
        buckets = []
        for node in stale:
            free = 0 if state[node] else count[node]
            if free:
                base = bases[node]
                if base < 0:
                    base = bases[node] = (whole[node] * classes + class_of[memory[node]]) * width
                buckets.append(base + free)
                if part[node] != noted[node]:
                    self.started.note(node, part[node])
            else:
                buckets.append(-1)
                if noted[node]:
                    self.started.note(node, 0)
        index.move_all(stale, buckets)
        if self._views:
            for node, bucket in zip(stale, buckets, strict=True):
                for view in self._views_of.get(node, ()):
                    view.move(node, bucket)
        stale.clear()

    def give_back(self, share: NodeShare) -> int:
        """Put a share back, or drop it if its node is lost; return its state. Raises InvariantViolated if it was free."""
        node = share.node
        state = self.state[node]
        if state >= LOST:
            if state == ABSENT:
                raise InvariantViolated(f"node {node}: {share} is released, but the node is not of this policy")
            return state
        mask = int.from_bytes(share.cores, "little")
        free = self.cores[node]
        if free & mask or mask > self._full[node]:
            raise InvariantViolated(
                f"node {node}: cores {core_indices(share.cores)} are released, but {core_indices(core_mask(free & mask))} of "
                f"them are free, on a node of {self.shape[node].cores}"
            )
        self.cores[node] = free | mask
        self.count[node] += mask.bit_count()
        if share.gpus or share.disk:
            self._give_back_more(share)
        elif share.memory:
            self._base[node] = -1
            memory = self.memory[node] = self.memory[node] + share.memory
            if memory > self.shape[node].memory:
                raise self._surplus(share)
        self._stale[node] = None
        return state

    def has(self, share: NodeShare) -> bool:
        """Tell whether all of this share is free."""
        node, gpus = share.node, self.gpus[share.node]
        return not (
            int.from_bytes(share.cores, "little") & ~self.cores[node]
            or any(gpu >= len(gpus) or gpus[gpu] < parts for gpu, parts in parts_of(share).items())
            or share.memory > self.memory[node]
            or share.disk > self.disk[node]
        )

    def occupy(self, share: NodeShare) -> None:
        """Take exactly this share. Raises InvariantViolated, with nothing taken, if it is not free."""
        node, gpus = share.node, self.gpus[share.node]
        if self.state[node] == LOST:
            return
        if self.state[node] == ABSENT or not self.has(share):
            raise InvariantViolated(
                f"node {node}: {share} is to be occupied, but free are only cores {core_indices(core_mask(self.cores[node]))}, "
                f"GPUs {gpus}, memory {self.memory[node]} and disk {self.disk[node]}"
            )
        mask = int.from_bytes(share.cores, "little")
        self.cores[node] ^= mask
        self.count[node] -= mask.bit_count()
        if share.gpus:
            for gpu, parts in share.gpus:
                gpus[gpu] -= parts
            self._count_gpus(node)
        self.memory[node] -= share.memory
        self.disk[node] -= share.disk
        self._base[node] = -1
        self._stale[node] = None

    def set_state(self, node: int, state: int) -> None:
        """Change the node's state. One that is lost or absent has nothing free; a lost one stays lost."""
        old = self.state[node]
        if old == LOST:
            return
        self.state[node] = state
        if state >= LOST:
            self.cores[node] = self.count[node] = self.memory[node] = self.disk[node] = 0
            self.whole[node] = self.part[node] = 0
            self.gpus[node] = [0] * len(self.gpus[node])
        elif old == ABSENT:
            shape = self.shape[node]
            self.cores[node], self.count[node] = self._full[node], shape.cores
            self.memory[node], self.disk[node], self.whole[node] = shape.memory, shape.disk, shape.gpus
            self.gpus[node] = [GPU_SHARES] * shape.gpus
        self._base[node] = -1
        self._stale[node] = None

    def is_idle(self, node: int) -> bool:
        """Tell whether nothing is held on the node. (Whatever is held takes a core.)"""
        return self.count[node] == self.shape[node].cores

    def _take_whole(self, node: int, wanted: int) -> tuple[tuple[int, int], ...]:
        self.whole[node] -= wanted
        return take_whole(self.gpus[node], wanted)

    def _take_shares(self, node: int, share: int, ranks: int) -> tuple[tuple[int, int], ...]:
        taken = take_shares(self.gpus[node], share, ranks)
        self._count_gpus(node)
        return taken

    def _carve_node(self, need: Need, node: int, ranks: int) -> NodeShare:
        """Take the whole node. The ranks' GPUs come first, then what is left of them, which is held all the same."""
        gpus: list[tuple[int, int]] = []
        if need.whole:
            gpus.extend(self._take_whole(node, need.whole * ranks))
        elif need.share:
            gpus.extend(self._take_shares(node, need.share, ranks))
        gpus.extend((gpu, free) for gpu, free in enumerate(self.gpus[node]) if free)
        shape = self.shape[node]
        taken = NodeShare(node, ranks, core_mask(self.cores[node]), tuple(gpus), shape.memory, shape.disk)
        self.cores[node] = self.count[node] = self.memory[node] = self.disk[node] = 0
        self.gpus[node] = [0] * shape.gpus
        self.whole[node] = self.part[node] = 0
        self._base[node] = -1
        self._stale[node] = None
        return taken

    def _give_back_more(self, share: NodeShare) -> None:
        node = share.node
        self._base[node] = -1
        gpus = self.gpus[node]
        if share.gpus:
            entire = 0
            for gpu, parts in share.gpus:
                gpus[gpu] += parts
                entire += parts == GPU_SHARES
            if entire == len(share.gpus):
                self.whole[node] += entire
            else:
                self._count_gpus(node)
        memory = self.memory[node] = self.memory[node] + share.memory
        disk = self.disk[node] = self.disk[node] + share.disk
        shape = self.shape[node]
        if memory > shape.memory or disk > shape.disk or (share.gpus and max(gpus) > GPU_SHARES):
            raise self._surplus(share)

    def _surplus(self, share: NodeShare) -> InvariantViolated:
        node, shape = share.node, self.shape[share.node]
        return InvariantViolated(
            f"node {node}: after the release of {share} more is free than there is: GPUs {self.gpus[node]}, memory "
            f"{self.memory[node]} of {shape.memory}, disk {self.disk[node]} of {shape.disk}"
        )

    def _count_gpus(self, node: int) -> None:
        gpus = self.gpus[node]
        self.whole[node] = gpus.count(GPU_SHARES)
        self.part[node] = max([free for free in gpus if free < GPU_SHARES], default=0)

    def faults(self) -> list[str]:
        """Return what is inconsistent in the books (test aid)."""
        self.refresh()
        faults = self.index.faults()
        for view in self._views:
            faults += view.faults()
            for node in view.only or ():
                if view.bucket_of[node] != self.index.bucket_of[node]:
                    faults.append(f"node {node} stands in bucket {view.bucket_of[node]} of a view of some nodes")
        for node, shape in enumerate(self.shape):
            gpus = self.gpus[node]
            right = (
                self.count[node] == self.cores[node].bit_count()
                and 0 <= self.cores[node] <= self._full[node]
                and all(0 <= free <= GPU_SHARES for free in gpus)
                and self.whole[node] == gpus.count(GPU_SHARES)
                and self.part[node] == max([free for free in gpus if free < GPU_SHARES], default=0)
                and 0 <= self.memory[node] <= shape.memory
                and 0 <= self.disk[node] <= shape.disk
            )
            listed = self.state[node] == OPEN and self.count[node] > 0
            bucket = self.index.base(self.whole[node], self.memory[node]) + self.count[node] if listed else -1
            part = self.part[node] if listed else 0
            if not right or self.index.bucket_of[node] != bucket or self.started.noted[node] != part:
                faults.append(
                    f"node {node} (state {self.state[node]}): cores {self.cores[node]:b} counted as {self.count[node]}, GPUs "
                    f"{gpus} counted as {self.whole[node]} whole and a part of {self.part[node]} (noted "
                    f"{self.started.noted[node]}), memory {self.memory[node]}, disk {self.disk[node]}, bucket "
                    f"{self.index.bucket_of[node]}, belongs in {bucket}"
                )
        faults += self.started.faults()
        return faults
