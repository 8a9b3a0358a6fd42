"""A seeded random walk over everything a scheduler can be asked, checked by the ledger after each step.

Run as a program, ``python scheduling_walk.py SEED POLICY``, it prints a digest of all decisions.
"""

from __future__ import annotations

import hashlib
import math
import random
import sys
from typing import Any, cast

import msgspec
from scheduling_ledger import Ledger, group, task

from pilotage.core.scheduling import OVERTAKE, Demand, GroupKey, Scheduler
from pilotage.core.scheduling.policies import build
from pilotage.core.scheduling.policy import SERVICE
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import PolicyName, PolicySpec
from pilotage.model.resources import Node, NodeShape, NodeShare, Request, core_mask


def random_machine(chance: random.Random) -> list[Node]:
    shapes = [
        NodeShape(chance.choice((4, 8, 56)), chance.choice((0, 2, 8)), chance.choice((0, 40, 8192)), chance.choice((0, 30)))
        for _ in range(chance.choice((1, 1, 2, 3)))
    ]
    return [Node(index, f"n{index}", chance.choice(shapes), chance.choice((0, 4))) for index in range(chance.randint(1, 12))]


def random_request(chance: random.Random) -> Request:
    return Request(
        ranks=chance.choice((1, 1, 1, 2, 3, 8, 16)),
        cores=chance.choice((1, 1, 2, 3, 7)),
        gpu_shares=chance.choice((0, 0, 0, 1, 16, 32, 40, 64, 100, 128)),
        memory=chance.choice((0, 0, 1, 5, 13, 20)),
        disk=chance.choice((0, 0, 0, 3, 10)),
        ranks_per_node=chance.choice((0, 0, 0, 0, 1, 2, 4)),
        colocate=chance.choice(("", "", "", "", "red", "blue")),
        exclusive=chance.random() < 0.08,
        pinned=chance.choice(((), (), (), ("n0",), ("some",), ("n1", "some"))),
        beside=chance.choice(("", "", "", "", "", "0", "1", "7")),
    )


def random_slots(chance: random.Random, machine: list[Node]) -> Request:
    """Ranks on places of their own choice, some of them on one node; not all of these can be."""
    ranks, cores = chance.choice((1, 1, 2, 3)), chance.choice((1, 2, 3))
    shares = []
    for _ in range(ranks):
        node = chance.choice(machine)
        shape = node.shape
        named = sum(1 << core for core in chance.sample(range(shape.cores), min(cores, shape.cores)))
        gpus = ((chance.randrange(shape.gpus), chance.choice((16, 64))),) if shape.gpus and chance.random() < 0.5 else ()
        shares.append(NodeShare(node.index, 1, core_mask(named), gpus, chance.choice((0, 5)), chance.choice((0, 3))))
    return Request(ranks, cores, slots=tuple(shares))


def random_groups(chance: random.Random, machine: list[Node], scheduler: Scheduler) -> list[GroupKey]:
    """Return groups that the machine can satisfy, the simplest among them in any case."""
    found = [group(Request())]
    for number in range(50):
        request = random_request(chance) if number < 40 else random_slots(chance, machine)
        if scheduler.refusal(request) is None:
            priority, duration_s = chance.choice((0, 0, 0, 1, 5)), chance.choice((0.0, 0.0, 3.0, 50.0))
            found.append(GroupKey(chance.choice(("executable",) * 5 + (SERVICE,)), request, priority, duration_s))
    return found


def random_policy(chance: random.Random, policy: PolicyName, machine: list[Node]) -> Ledger:
    """Return a ledger over a policy of this name, with bounds and an order by chance."""
    spec = PolicySpec(
        policy=policy,
        order=chance.choice(("first_come", "backfill", "priority", "priority")),
        torus=random_torus(chance, len(machine)),
        groups={"some": tuple(node.name for node in machine if chance.random() < 0.5) or ("n0",)},
    )
    bounds: dict[str, Any] = {
        "look_ahead": chance.choice((1, 4, 128)),
        "search_bound": chance.choice((1, 4, 256)),
        "overtake_limit": chance.choice((3, 20, 1024)),
        "patience_s": chance.choice((5.0, 1000.0)),
        "retry_bound": chance.choice((1, 64)),
    }
    latest = chance.choice((math.inf, 100.0))
    absent = {chance.randrange(len(machine))} if len(machine) > 3 and chance.random() < 0.5 else set()
    present = [node.index for node in machine if node.index not in absent]
    if policy == "homogeneous":
        bounds = {}
    ledger = Ledger(
        machine, build(spec, machine, order=spec.order, groups=spec.groups, present=present, latest=latest, **bounds)
    )
    ledger.absent = absent
    ledger.latest = latest
    ledger.groups = {name: {node.index for node in machine if node.name in names} for name, names in spec.groups.items()}
    ledger.overtake = 0 if spec.order == "first_come" else OVERTAKE
    ledger.priorities = spec.order == "priority"
    return ledger


def random_torus(chance: random.Random, size: int) -> tuple[int, ...]:
    sides = []
    while size > 1:
        side = chance.choice([side for side in range(2, size + 1) if size % side == 0])
        sides.append(side)
        size //= side
    return tuple(sides) or (1,)


def walk(seed: int, policy: PolicyName = "continuous", steps: int = 300, *, gangs: bool = False) -> Ledger:
    """Walk, then let everything end; raise AssertionError or InvariantViolated if a promise is broken.

    With ``gangs`` some tasks start together.
    """
    chance = random.Random(seed)
    machine = random_machine(chance)
    ledger = random_policy(chance, policy, machine)
    groups = random_groups(chance, machine, ledger.scheduler)
    if policy == "homogeneous":
        only = chance.choice([key for key in groups if ledger.scheduler.refusal(key.request) is None])
        groups = [GroupKey("executable", only.request, priority) for priority in (0, 1)]
    number = 0
    losses = chance.choice((0, 0, 1)) if len(machine) > 3 else 0
    whims = random.Random(f"suspensions {seed}")
    parties = Gangs(seed, groups, ledger) if gangs else None
    for _ in range(steps):
        ledger.now += chance.random()
        if parties is not None:
            parties.step()
        if whims.random() < 0.1:
            (ledger.suspend_node if whims.random() < 0.5 else ledger.resume_node)(whims.randrange(len(machine)))
        step = chance.randrange(22)
        if step < 7:
            count = chance.choice((1, 1, 2, 5, 20))
            ledger.enqueue(chance.choice(groups), *range(number, number + count))
            number += count
        elif step < 12:
            ledger.schedule(chance.choice((1, 3, 100)))
        elif step < 17 and ledger.running:
            for uid in chance.sample(list(ledger.running), chance.randint(1, len(ledger.running))):
                ledger.release(uid)
        elif step == 17 and number:
            name = chance.randrange(number)
            # A task that comes back to its group may get its old place, which the strictest check would object to.
            if ledger.withdraw(name) and chance.random() < 0.3 and ledger.overtake:
                ledger.enqueue(chance.choice(groups), name)
        elif step == 18 and ledger.running:
            ledger.draw(chance.choice(list(ledger.running)), chance.choice((1, 2, 50)))
        elif step == 19 and losses:
            losses -= 1
            ledger.remove_node(chance.randrange(len(machine)))
        elif step == 20 and len(machine) > 1:
            ledger.close_node(chance.randrange(len(machine)))
        elif step == 21:
            ledger.add_node(chance.randrange(len(machine)))
        ledger.check()
    for node in machine:
        ledger.add_node(node.index)
    # What is to be found on nodes that are resumed is found for that alone.
    ledger.schedule()
    for node in machine:
        ledger.resume_node(node.index)
    if parties is not None:
        parties.complete()
    drop_stranded(ledger)
    if ledger.overtake and policy != "homogeneous":
        outlast(ledger)
    drain(ledger)
    assert ledger.scheduler.demand() == Demand()
    return ledger


class Gangs:
    """Gangs whose members come one by one, some of them late, and from which some are withdrawn."""

    def __init__(self, seed: int, groups: list[GroupKey], ledger: Ledger) -> None:
        self._chance = random.Random(f"gangs {seed}")
        self._ledger = ledger
        self._shapes = [key for key in groups if not (key.request.colocate or key.request.beside or key.lane_kind == SERVICE)]
        self._coming: list[tuple[str, GroupKey]] = []
        self._begun = 0

    def step(self) -> None:
        chance, ledger = self._chance, self._ledger
        if chance.random() < 0.08:
            self._begin()
        if self._coming and chance.random() < 0.5:
            self._arrive(chance.randrange(len(self._coming)))
        members = [uid for uid, (_, key) in ledger.waiting.items() if key.request.gang]
        if members and chance.random() < 0.03:
            ledger.withdraw(chance.choice(members))

    def complete(self) -> None:
        """Let all come that are still to come, and give those up that miss one that was withdrawn."""
        while self._coming:
            self._arrive(0)
        drop_incomplete(self._ledger)

    def _begin(self) -> None:
        chance = self._chance
        size, priority = chance.choice((1, 2, 2, 3, 5, 8)), chance.choice((0, 0, 1))
        self._begun += 1
        for number in range(size):
            shape = chance.choice(self._shapes)
            request = msgspec.structs.replace(shape.request, gang=f"gang {self._begun}", gang_size=size)
            key = GroupKey(shape.lane_kind, request, priority, shape.duration_s)
            self._coming.append((f"gang {self._begun} member {number}", key))
        for _ in range(size if chance.random() < 0.7 else chance.randrange(size)):
            self._arrive(len(self._coming) - 1)

    def _arrive(self, place: int) -> None:
        name, key = self._coming.pop(place)
        self._ledger.enqueue(key, name)


def drop_incomplete(ledger: Ledger) -> None:
    """Withdraw the members of gangs of which not all wait, as nobody comes any more."""
    members: dict[str, list[TaskUid]] = {}
    for uid, (_, key) in ledger.waiting.items():
        if key.request.gang:
            members.setdefault(key.request.gang, []).append(uid)
    for uids in members.values():
        if len(uids) < ledger.waiting[uids[0]][1].request.gang_size:
            for uid in uids:
                ledger.withdraw(uid)


def drop_stranded(ledger: Ledger) -> None:
    for uids, reason in ledger.scheduler.too_late(ledger.now):
        assert reason
        for uid in uids:
            ledger.withdraw(uid)
    for uids, reason in ledger.scheduler.stranded():
        assert reason
        for uid in uids:
            ledger.withdraw(uid)
    drop_incomplete(ledger)


def outlast(ledger: Ledger) -> None:
    """Let all but services end. Whatever waits for their end, tasks of one core must run where there is one."""
    idle = number = 0
    while ledger.scheduler.free().cores and number < 10_000:
        number += 1
        ended = [uid for uid, lane in ledger.running.items() if lane.group.lane_kind != SERVICE]
        for uid in ended:
            ledger.release(uid)
        small = task(f"small {number}")
        ledger.enqueue(group(Request()), small)
        # Longer than anybody's patience: who can get a reservation at all gets it, one after the other.
        ledger.now += 2000.0
        opened = ledger.schedule()
        drop_stranded(ledger)
        if small in ledger.running:
            return
        ledger.withdraw(small)
        idle = 0 if opened or ended else idle + 1
        assert idle <= 3 * len(ledger.waiting) + 3, [ledger.scheduler.why(uid) for uid in list(ledger.waiting)[:5]]


def drain(ledger: Ledger) -> None:
    """Let everything end; what became stranded meanwhile is withdrawn, anything else must have run."""
    for _ in range(20 * (len(ledger.waiting) + len(ledger.running) + 10)):
        ledger.schedule()
        drop_stranded(ledger)
        if not ledger.waiting and not ledger.running:
            free = ledger.scheduler.free()
            assert free.idle_nodes == free.nodes
            return
        for uid in list(ledger.running)[: max(1, len(ledger.running) // 2)]:
            ledger.release(uid)
        ledger.now += 1.0
    raise AssertionError(f"never placed: {[ledger.scheduler.why(uid) for uid in list(ledger.waiting)[:5]]}")


def digest(seed: int, policy: PolicyName) -> str:
    """Return a digest of every decision of a walk."""
    return hashlib.sha256(repr(walk(seed, policy).story).encode()).hexdigest()


if __name__ == "__main__":
    print(digest(int(sys.argv[1]), cast(PolicyName, sys.argv[2])))
