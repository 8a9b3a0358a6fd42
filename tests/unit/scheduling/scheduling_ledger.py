"""A second set of books for the tests: it sees only what goes in and out of a scheduler, and objects to what breaks a promise.

It knows nothing of how the scheduler works, so a fault there can't hide here.
"""

from __future__ import annotations

import math
from collections import Counter

from pilotage.core.scheduling import OVERTAKE, Assignment, GroupKey, Scheduler
from pilotage.errors import InvariantViolated
from pilotage.model.ids import TaskUid
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, Placement, Request, core_indices


def nodes(count: int, cores: int = 8, gpus: int = 0, memory: int = 0, disk: int = 0, domain: int = 0) -> list[Node]:
    """Return ``count`` equal nodes."""
    return [Node(index, f"n{index}", NodeShape(cores, gpus, memory, disk), domain) for index in range(count)]


def group(request: Request | None = None, priority: int = 0, **amounts: int | str | bool) -> GroupKey:
    """Return the key of executables that ask for ``amounts``."""
    return GroupKey("executable", request or Request(**amounts), priority)  # type: ignore[arg-type]


def task(name: str | int) -> TaskUid:
    return TaskUid(str(name))


class Ledger:
    """Drives a scheduler over ``machine`` and checks all that comes out of it."""

    def __init__(self, machine: list[Node], scheduler: Scheduler | None = None, **bounds: float) -> None:
        self.machine = machine
        self.scheduler = scheduler or Scheduler(machine, **bounds)  # type: ignore[arg-type]
        self.running: dict[TaskUid, Assignment] = {}
        self.waiting: dict[TaskUid, tuple[int, GroupKey]] = {}
        self.lost: set[int] = set()
        self.closed: set[int] = set()
        self.absent: set[int] = set()
        self.suspended: set[int] = set()
        self.node_of_tag: dict[str, int] = {}
        self.node_of_task: dict[TaskUid, int] = {}
        self.groups: dict[str, set[int]] = {}
        self.overtake = OVERTAKE
        self.priorities = True
        self.latest = math.inf
        self.story: list[object] = []
        self.now = 0.0
        self._arrivals = 0
        self._checks = 0

    def enqueue(self, key: GroupKey, *names: str | int) -> None:
        uids = [task(name) for name in names]
        if len(uids) == 1:
            self.scheduler.enqueue(uids[0], key, self.now)
        else:
            self.scheduler.enqueue_many(uids, key, self.now)
        for uid in uids:
            self.waiting[uid] = (self._arrivals, key)
            self._arrivals += 1

    def withdraw(self, name: str | int) -> bool:
        withdrawn = self.scheduler.withdraw(task(name))
        assert withdrawn == (task(name) in self.waiting)
        self.waiting.pop(task(name), None)
        return withdrawn

    def schedule(self, limit: int = 1000) -> list[Assignment]:
        opened = self.scheduler.schedule(self.now, limit)
        self._check_gangs(opened, limit)
        for lane in opened:
            (uid,) = lane.tasks
            _, key = self.waiting.pop(uid)
            assert lane.group == key
            self.running[uid] = lane
            self.story.append((uid, lane.placement))
            self._check_layout(lane.placement, key.request)
            self.node_of_task[uid] = lane.placement[0].node
            assert not key.duration_s or self.now + key.duration_s <= self.latest, f"{uid} ends too late"
        self.check()
        return opened

    def _check_gangs(self, opened: list[Assignment], limit: int) -> None:
        members = Counter(lane.group.request.gang for lane in opened if lane.group.request.gang)
        for lane in opened:
            request = lane.group.request
            assert not request.gang or members[request.gang] % request.gang_size == 0, f"a part of {request.gang!r} starts"
        assert len(opened) <= limit + max(members.values(), default=1) - 1

    def draw(self, name: str | int, count: int) -> list[TaskUid]:
        """Draw for the lane on which ``name`` runs; the last of the drawn tasks then holds it."""
        lane = self.running[task(name)]
        stranded = {uid for uids, _ in self.scheduler.stranded() for uid in uids}
        # Tasks that wait for one beside which they are to run are set aside, too.
        oldest = [
            entry
            for uid, entry in self.waiting.items()
            if entry[1] != lane.group and uid not in stranded and not entry[1].request.beside and not entry[1].request.gang
        ]
        drawn = self.scheduler.draw(lane.group, count, lane.placement[0].node)
        assert len(drawn) <= count
        assert not drawn or not lane.group.request.gang, "a gang is drawn"
        for uid in drawn:
            arrival, key = self.waiting.pop(uid)
            assert key == lane.group
            self.node_of_task[uid] = lane.placement[0].node
            for other_arrival, other in oldest:
                rank, other_rank = (key.priority, other.priority) if self.priorities else (0, 0)
                assert other_rank <= rank, f"{uid} was drawn while {other} waited"
                assert other_rank < rank or arrival - other_arrival <= self.overtake, f"{uid} was drawn before {other}"
        if drawn:
            del self.running[task(name)]
            self.running[drawn[-1]] = lane
            self.story.append(tuple(drawn))
        return drawn

    def release(self, name: str | int) -> None:
        lane = self.running.pop(task(name))
        self.scheduler.release(lane.placement, lane.group.request)
        held = {share.node for other in self.running.values() for share in other.placement}
        idle = self.closed - held
        assert set(self.scheduler.closed_idle()) == idle
        self.closed -= idle
        self.absent |= idle

    def remove_node(self, index: int) -> None:
        self.scheduler.remove_node(index)
        self.lost.add(index)
        self.suspended.discard(index)
        self.closed.discard(index)
        self.absent.discard(index)
        self.node_of_tag = {tag: node for tag, node in self.node_of_tag.items() if node != index}

    def close_node(self, index: int) -> None:
        gone = self.scheduler.close_node(index)
        held = any(share.node == index for lane in self.running.values() for share in lane.placement)
        assert gone == (index in self.lost or not held), f"node {index} is gone: {gone}, something is held there: {held}"
        if index not in self.lost:
            (self.closed if held else self.absent).add(index)
            self.suspended.discard(index)
        self.node_of_tag = {tag: node for tag, node in self.node_of_tag.items() if node != index}

    def suspend_node(self, index: int) -> None:
        self.scheduler.suspend_nodes([index])
        if index not in self.lost | self.closed | self.absent:
            self.suspended.add(index)
        self._check_suspended()

    def resume_node(self, index: int) -> None:
        self.scheduler.resume_nodes([index])
        self.suspended.discard(index)
        self._check_suspended()

    def _check_suspended(self) -> None:
        assert self.scheduler.suspended() == sorted(self.suspended)

    def add_node(self, index: int) -> None:
        if index in self.lost:
            try:
                self.scheduler.add_nodes([index])
            except InvariantViolated:
                return
            raise AssertionError(f"node {index} is lost and comes back")
        self.scheduler.add_nodes([index])
        self.closed.discard(index)
        self.absent.discard(index)

    def check(self) -> None:
        """Object to a core, GPU, block of memory or disk that is held twice, and to books that differ from these."""
        cores: dict[int, int] = {}
        gpus: dict[tuple[int, int], int] = {}
        memory: dict[int, int] = {}
        disk: dict[int, int] = {}
        exclusive: set[int] = set()
        tenants: dict[int, int] = {}
        for lane in self.running.values():
            for share in lane.placement:
                mask = int.from_bytes(share.cores, "little")
                assert not cores.get(share.node, 0) & mask, f"cores of node {share.node} are held twice"
                cores[share.node] = cores.get(share.node, 0) | mask
                for gpu, parts in share.gpus:
                    gpus[share.node, gpu] = gpus.get((share.node, gpu), 0) + parts
                memory[share.node] = memory.get(share.node, 0) + share.memory
                disk[share.node] = disk.get(share.node, 0) + share.disk
                tenants[share.node] = tenants.get(share.node, 0) + 1
                if lane.group.request.exclusive:
                    exclusive.add(share.node)
        for node in self.machine:
            shape = node.shape
            assert cores.get(node.index, 0) < 1 << shape.cores
            assert memory.get(node.index, 0) <= shape.memory
            assert disk.get(node.index, 0) <= shape.disk
        assert all(parts <= GPU_SHARES for parts in gpus.values())
        assert all(tenants[node] == 1 for node in exclusive)
        gone = self.lost | self.closed | self.absent
        live = [node for node in self.machine if node.index not in gone]
        free = self.scheduler.free()
        alive = {node.index for node in live}
        assert free.nodes == len(alive)
        assert free.cores == sum(n.shape.cores - cores.get(n.index, 0).bit_count() for n in live)
        held_shares = sum(parts for (node, _), parts in gpus.items() if node in alive)
        assert free.gpu_shares == sum(n.shape.gpus for n in live) * GPU_SHARES - held_shares
        assert free.memory == sum(n.shape.memory - memory.get(n.index, 0) for n in live)
        assert free.disk == sum(n.shape.disk - disk.get(n.index, 0) for n in live)
        assert self.scheduler.waiting() == len(self.waiting)
        # The check mends the index on its way: done each time, it would hide an index that is read without being mended.
        self._checks += 1
        if self._checks % 5 == 0:
            self.scheduler.check(lane.placement for lane in self.running.values())

    def _check_layout(self, placement: Placement, request: Request) -> None:
        assert sum(share.ranks for share in placement) == request.ranks
        assert not {share.node for share in placement} & (self.lost | self.closed | self.absent | self.suspended)
        if request.slots:
            assert placement == request.slots, "the user has chosen the slots"
            return
        if request.pinned:
            named = {node.index for node in self.machine if node.name in request.pinned}
            named.update(*(self.groups.get(name, ()) for name in request.pinned))
            assert {share.node for share in placement} <= named
        if request.beside:
            assert {share.node for share in placement} == {self.node_of_task[TaskUid(request.beside)]}
        assert len({share.node for share in placement}) == len(placement)
        each = request.ranks_per_node
        if each:
            assert all(share.ranks == each for share in placement[:-1])
            assert placement[-1].ranks == (request.ranks - 1) % each + 1
        if request.colocate:
            (share,) = placement
            assert self.node_of_tag.setdefault(request.colocate, share.node) == share.node
        for share in placement:
            shape = self.machine[share.node].shape
            if request.exclusive:
                assert len(core_indices(share.cores)) == shape.cores
                assert sum(parts for _, parts in share.gpus) == shape.gpus * GPU_SHARES
                assert (share.memory, share.disk) == (shape.memory, shape.disk)
            else:
                assert len(core_indices(share.cores)) == share.ranks * request.cores
                assert (share.memory, share.disk) == (share.ranks * request.memory, share.ranks * request.disk)
            whole = -(-request.gpu_shares // GPU_SHARES) if request.gpu_shares >= GPU_SHARES else 0
            per_rank = whole or bool(request.gpu_shares)
            ranks_gpus = share.gpus[: share.ranks * per_rank]
            assert len(ranks_gpus) == share.ranks * per_rank
            if whole:
                assert all(parts == GPU_SHARES for _, parts in ranks_gpus)
                assert len({gpu for gpu, _ in ranks_gpus}) == len(ranks_gpus)
            else:
                assert all(parts == request.gpu_shares for _, parts in ranks_gpus)
            if not request.exclusive:
                assert len(ranks_gpus) == len(share.gpus)
