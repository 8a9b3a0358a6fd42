"""What every scheduling policy does, whatever its way of choosing: the contract of ``core.scheduling.policy`` as a suite.

Give your policy's tests a subclass::

    class TestLottery(PolicyContract):
        def make_policy(self, nodes: Sequence[Node]) -> Policy:
            return Lottery(nodes, seed=7)

The suite keeps books of its own (``Books``) of what goes in and out, and objects to whatever is held twice or handed out twice.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import pytest

from pilotage.core.scheduling.policy import SERVICE, Assignment, Demand, GroupKey, Policy
from pilotage.errors import InvariantViolated
from pilotage.model.ids import TaskUid
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, Placement, Request, core_indices

PLENTY = 1000


def nodes(count: int = 2, cores: int = 4, gpus: int = 0, memory: int = 0, disk: int = 0) -> list[Node]:
    """Return ``count`` equal nodes."""
    return [Node(index, f"node{index}", NodeShape(cores, gpus, memory, disk)) for index in range(count)]


def group(priority: int = 0, **amounts: int | str | bool) -> GroupKey:
    """Return the key of executables that ask for ``amounts`` (fields of ``Request``)."""
    return GroupKey("executable", Request(**amounts), priority)  # type: ignore[arg-type]


def uids(first: int, count: int) -> list[TaskUid]:
    """Return ``count`` names of tasks."""
    return [TaskUid(f"task.{number:06d}") for number in range(first, first + count)]


class Books:
    """What is held of each node, according to what a policy handed out; raises AssertionError when that cannot be."""

    def __init__(self, machine: Sequence[Node]) -> None:
        self.machine = {node.index: node.shape for node in machine}
        self._cores: dict[int, int] = dict.fromkeys(self.machine, 0)
        self._gpus: dict[tuple[int, int], int] = {}
        self._memory: dict[int, int] = dict.fromkeys(self.machine, 0)
        self._disk: dict[int, int] = dict.fromkeys(self.machine, 0)

    def take(self, placement: Placement, request: Request) -> None:
        """Note what is held from now on."""
        assert sum(share.ranks for share in placement) == request.ranks, f"{placement} is not for {request.ranks} ranks"
        for share in placement:
            shape = self.machine[share.node]
            mask = int.from_bytes(share.cores, "little")
            held = core_indices(share.cores)
            assert len(held) >= share.ranks * request.cores, f"{share} has too few cores for {request}"
            assert held[-1] < shape.cores, f"{share} names a core that the node does not have"
            assert not self._cores[share.node] & mask, f"cores of {share} are held already"
            self._cores[share.node] |= mask
            for gpu, parts in share.gpus:
                total = self._gpus.get((share.node, gpu), 0) + parts
                assert gpu < shape.gpus and total <= GPU_SHARES, f"GPU {gpu} of node {share.node} is held {total}/64 times"
                self._gpus[share.node, gpu] = total
            assert sum(parts for _, parts in share.gpus) >= share.ranks * request.gpu_shares
            self._memory[share.node] += share.memory
            self._disk[share.node] += share.disk
            assert share.memory >= share.ranks * request.memory and self._memory[share.node] <= shape.memory
            assert share.disk >= share.ranks * request.disk and self._disk[share.node] <= shape.disk

    def give_back(self, placement: Placement) -> None:
        """Note what is held no longer."""
        for share in placement:
            self._cores[share.node] &= ~int.from_bytes(share.cores, "little")
            for gpu, parts in share.gpus:
                self._gpus[share.node, gpu] -= parts
            self._memory[share.node] -= share.memory
            self._disk[share.node] -= share.disk


class PolicyContract(ABC):
    """Subclass it under a name that begins with ``Test``, and say how a policy is made."""

    takes_all_requests = True
    """Whether tasks may differ in what they ask for; of one that says no, only like tasks are asked."""

    def _require_mixture(self) -> None:
        if not self.takes_all_requests:
            pytest.skip("its tasks are all alike")

    @abstractmethod
    def make_policy(self, machine: Sequence[Node]) -> Policy:
        """Return a fresh policy over these nodes."""

    def test_what_waits_is_placed_when_there_is_room(self) -> None:
        policy = self.make_policy(nodes(2, cores=4))
        policy.enqueue_many(uids(0, 8), group(), 0.0)
        assert policy.waiting() == policy.waiting_in(group()) == 8
        placed = policy.schedule(0.0, PLENTY)
        assert sorted(uid for assignment in placed for uid in assignment.tasks) == uids(0, 8)
        assert policy.waiting() == 0
        policy.check()

    def test_nothing_is_placed_without_room_until_something_is_released(self) -> None:
        machine = nodes(1, cores=2)
        policy = self.make_policy(machine)
        policy.enqueue_many(uids(0, 3), group(), 0.0)
        first = policy.schedule(0.0, PLENTY)
        assert len(first) == 2 and policy.schedule(1.0, PLENTY) == []
        policy.release(first[0].placement, first[0].group.request)
        (third,) = policy.schedule(2.0, PLENTY)
        assert third.tasks == uids(2, 1)
        assert third.placement == first[0].placement

    def test_no_more_lanes_than_asked_for_are_opened(self) -> None:
        policy = self.make_policy(nodes(2, cores=4))
        policy.enqueue_many(uids(0, 8), group(), 0.0)
        assert policy.schedule(0.0, 0) == []
        assert len(policy.schedule(0.0, 3)) == 3

    def test_each_lane_is_opened_with_one_task_of_its_group(self) -> None:
        self._require_mixture()
        policy = self.make_policy(nodes(2, cores=4))
        policy.enqueue(TaskUid("narrow"), group(), 0.0)
        policy.enqueue(TaskUid("wide"), group(ranks=2, cores=2), 0.0)
        found = {assignment.tasks[0]: assignment for assignment in policy.schedule(0.0, PLENTY)}
        assert found[TaskUid("narrow")].group == group()
        assert found[TaskUid("wide")].group == group(ranks=2, cores=2)
        assert all(len(assignment.tasks) == 1 for assignment in found.values())

    def test_of_two_that_compete_the_higher_priority_goes_first(self) -> None:
        policy = self.make_policy(nodes(1, cores=1))
        policy.enqueue(TaskUid("low"), group(), 0.0)
        policy.enqueue(TaskUid("high"), group(priority=5), 0.0)
        (placed,) = policy.schedule(0.0, PLENTY)
        assert placed.tasks == ["high"]

    def test_what_was_withdrawn_is_never_placed(self) -> None:
        policy = self.make_policy(nodes(1, cores=2))
        policy.enqueue_many(uids(0, 2), group(), 0.0)
        assert policy.withdraw(uids(0, 1)[0]) is True
        assert policy.withdraw(uids(0, 1)[0]) is False
        assert policy.withdraw(TaskUid("unknown")) is False
        assert [assignment.tasks for assignment in policy.schedule(0.0, PLENTY)] == [uids(1, 1)]
        assert policy.withdraw(uids(1, 1)[0]) is False, "it does not wait any more"

    def test_what_is_drawn_waits_no_more(self) -> None:
        policy = self.make_policy(nodes(1, cores=1))
        policy.enqueue_many(uids(0, 5), group(), 0.0)
        policy.schedule(0.0, 1)
        drawn = policy.draw(group(), 2)
        assert len(drawn) <= 2 and set(drawn) <= set(uids(1, 4))
        assert policy.waiting() == 4 - len(drawn)
        assert policy.draw(group(cores=2), 2) == [], "nothing of this group waits"

    def test_nothing_is_drawn_while_a_higher_priority_waits(self) -> None:
        policy = self.make_policy(nodes(1, cores=1))
        policy.enqueue_many(uids(0, 3), group(), 0.0)
        policy.schedule(0.0, 1)
        policy.enqueue(TaskUid("high"), group(priority=1), 0.0)
        assert policy.draw(group(), 2) == []

    @pytest.mark.parametrize(
        ("amounts", "value", "limit"),
        [
            ({"cores": 9}, "9", "4"),
            ({"gpu_shares": 3 * GPU_SHARES}, "3", "1"),
            ({"memory": 100}, "6400", "640"),
            ({"disk": 100}, "6400", "320"),
            ({"ranks": 9}, "9", "8"),
        ],
    )
    def test_what_can_never_be_is_refused_with_value_and_limit(self, amounts: dict[str, int], value: str, limit: str) -> None:
        policy = self.make_policy(nodes(2, cores=4, gpus=1, memory=10, disk=5))
        reason = policy.refusal(Request(**amounts))  # type: ignore[arg-type]
        assert reason is not None and value in reason and limit in reason, reason
        assert policy.refusal(Request()) is None

    def test_what_is_occupied_is_not_placed_upon(self) -> None:
        machine = nodes(1, cores=2)
        (before,) = self._placed(self.make_policy(machine), group())
        policy = self.make_policy(machine)
        policy.occupy(before.placement, before.group.request)
        with pytest.raises(InvariantViolated):
            policy.occupy(before.placement, before.group.request)
        books = Books(machine)
        books.take(before.placement, Request())
        policy.enqueue_many(uids(0, 3), group(), 0.0)
        (placed,) = policy.schedule(0.0, PLENTY)
        books.take(placed.placement, Request())

    def test_a_double_release_is_no_quiet_matter(self) -> None:
        policy = self.make_policy(nodes(1, cores=2))
        (placed,) = self._placed(policy, group())
        policy.release(placed.placement, Request())
        with pytest.raises(InvariantViolated):
            policy.release(placed.placement, Request())

    def test_a_lost_node_is_not_used_and_what_it_held_may_come_back(self) -> None:
        policy = self.make_policy(nodes(2, cores=1))
        placed = self._placed(policy, group(), count=2)
        policy.remove_node(0)
        for assignment in placed:
            policy.release(assignment.placement, Request())
        policy.enqueue_many(uids(10, 3), group(), 0.0)
        assert [assignment.placement[0].node for assignment in policy.schedule(0.0, PLENTY)] == [1]
        policy.check()

    def test_what_waits_can_be_asked_why(self) -> None:
        policy = self.make_policy(nodes(1, cores=1))
        policy.enqueue_many(uids(0, 2), group(), 0.0)
        policy.schedule(0.0, PLENTY)
        assert policy.why(uids(1, 1)[0])
        assert policy.why(group())

    def test_a_closed_node_leaves_when_nothing_is_held_there(self) -> None:
        policy = self.make_policy(nodes(2, cores=1))
        held = {assignment.placement[0].node: assignment for assignment in self._placed(policy, group(), count=2)}
        assert policy.close_node(0) is False and policy.closed_idle() == []
        policy.release(held[0].placement, Request())
        assert policy.closed_idle() == [0] and policy.closed_idle() == []
        policy.enqueue_many(uids(10, 1), group(), 0.0)
        assert policy.schedule(0.0, PLENTY) == [], "the node is not its own any more"
        policy.release(held[1].placement, Request())
        assert policy.free().nodes == 1
        assert [assignment.placement[0].node for assignment in policy.schedule(0.0, PLENTY)] == [1]
        policy.check()

    def test_a_node_that_is_closed_while_idle_is_gone_at_once(self) -> None:
        policy = self.make_policy(nodes(2, cores=1))
        assert policy.close_node(1) is True and policy.closed_idle() == []
        assert policy.free().nodes == 1
        policy.enqueue_many(uids(0, 2), group(), 0.0)
        assert [assignment.placement[0].node for assignment in policy.schedule(0.0, PLENTY)] == [0]

    def test_a_node_that_comes_back_is_used(self) -> None:
        policy = self.make_policy(nodes(2, cores=1))
        policy.close_node(0)
        policy.enqueue_many(uids(0, 2), group(), 0.0)
        (first,) = policy.schedule(0.0, PLENTY)
        policy.close_node(1)
        policy.add_nodes([0, 1])
        (second,) = policy.schedule(0.0, PLENTY)
        assert {first.placement[0].node, second.placement[0].node} == {0, 1}
        policy.check()

    def test_a_lost_node_does_not_come_back(self) -> None:
        policy = self.make_policy(nodes(2, cores=1))
        policy.remove_node(0)
        assert policy.close_node(0) is True
        with pytest.raises(InvariantViolated):
            policy.add_nodes([0])

    def test_a_suspended_node_is_not_used_until_it_is_resumed(self) -> None:
        policy = self.make_policy(nodes(2, cores=1))
        held = {assignment.placement[0].node: assignment for assignment in self._placed(policy, group(), count=2)}
        policy.suspend_nodes([0])
        policy.suspend_nodes([0])
        assert policy.suspended() == [0]
        policy.enqueue_many(uids(10, 3), group(), 0.0)
        for assignment in held.values():
            policy.release(assignment.placement, Request())
        assert [assignment.placement[0].node for assignment in policy.schedule(0.0, PLENTY)] == [1]
        policy.resume_nodes([0, 1])
        assert policy.suspended() == []
        assert [assignment.placement[0].node for assignment in policy.schedule(0.0, PLENTY)] == [0]
        policy.check()

    def test_what_only_suspended_nodes_have_room_for_waits_for_them_and_no_other_waits_with_it(self) -> None:
        policy = self.make_policy(nodes(2, cores=2))
        wide = group(ranks=2, cores=2)
        policy.suspend_nodes([1])
        assert policy.refusal(wide.request) is None
        policy.enqueue_many(uids(0, 1), wide, 0.0)
        assert policy.schedule(0.0, PLENTY) == [] and policy.stranded() == []
        assert policy.name_of(1) in policy.why(uids(0, 1)[0])
        if self.takes_all_requests:
            policy.enqueue_many(uids(1, 2), group(), 0.0)
            small = policy.schedule(1e6, PLENTY)
            assert [assignment.placement[0].node for assignment in small] == [0, 0]
            for assignment in small:
                policy.release(assignment.placement, Request())
        policy.resume_nodes([1])
        (placed,) = policy.schedule(2e6, PLENTY)
        assert sorted(share.node for share in placed.placement) == [0, 1]
        policy.check()

    def test_a_suspended_node_can_be_lost_and_given_away(self) -> None:
        policy = self.make_policy(nodes(3, cores=1))
        policy.suspend_nodes([0, 1])
        policy.remove_node(0)
        assert policy.close_node(1) is True and policy.suspended() == []
        policy.resume_nodes([0, 1])
        policy.enqueue_many(uids(0, 2), group(), 0.0)
        assert [assignment.placement[0].node for assignment in policy.schedule(0.0, PLENTY)] == [2]
        policy.add_nodes([1])
        assert [assignment.placement[0].node for assignment in policy.schedule(0.0, PLENTY)] == [1]
        policy.check()

    def test_what_is_released_on_a_node_that_left_is_no_quiet_matter(self) -> None:
        policy = self.make_policy(nodes(2, cores=1))
        (placed,) = self._placed(policy, group())
        policy.release(placed.placement, Request())
        policy.close_node(placed.placement[0].node)
        with pytest.raises(InvariantViolated):
            policy.release(placed.placement, Request())

    def test_demand_sums_up_what_waits(self) -> None:
        policy = self.make_policy(nodes(2, cores=4, gpus=1))
        assert policy.demand() == Demand()
        wide = group(ranks=2, cores=4, gpu_shares=GPU_SHARES)
        policy.enqueue_many(uids(0, 3), wide, 0.0)
        assert policy.demand() == Demand(tasks=3, cores=24, gpu_shares=6 * GPU_SHARES, nodes=2)
        assert len(policy.schedule(0.0, PLENTY)) == 1
        assert policy.demand() == Demand(tasks=2, cores=16, gpu_shares=4 * GPU_SHARES, nodes=2)

    def test_a_large_task_starts_though_small_ones_keep_coming(self) -> None:
        """The policy may take its time, but it must not take forever."""
        self._require_mixture()
        policy = self.make_policy(nodes(4, cores=4))
        running = {assignment.tasks[0]: assignment for assignment in self._placed(policy, group(), count=16)}
        policy.enqueue(TaskUid("large"), group(ranks=4, cores=4), 0.0)
        now, number = 0.0, 100
        while TaskUid("large") not in running:
            now += 1.0
            assert now < 20_000, "the large task starves"
            policy.enqueue_many(uids(number, 2), group(), now)
            number += 2
            for uid in list(running)[:2]:
                done = running.pop(uid)
                policy.release(done.placement, done.group.request)
            running.update((assignment.tasks[0], assignment) for assignment in policy.schedule(now, PLENTY))

    @pytest.mark.parametrize("read_back", [False, True])
    def test_nothing_is_kept_for_a_task_that_only_the_end_of_a_service_could_make_room_for(self, read_back: bool) -> None:
        self._require_mixture()
        policy = self.make_policy(nodes(1, cores=8))
        service = GroupKey(SERVICE, Request())
        (held,) = self._placed(policy, service)
        if read_back:
            policy = self.make_policy(nodes(1, cores=8))
            policy.occupy(held.placement, Request(), held.tasks, service=True)
        policy.enqueue(TaskUid("large"), group(cores=8), 0.0)
        running: list[Assignment] = []
        placed, now = 0, 0.0
        while placed < 5_000:
            now += 1.0
            assert now < 3_000, f"{placed} small tasks ran, and no more do"
            policy.enqueue_many(uids(10 * round(now), 4), group(), now)
            for done in running[:4]:
                policy.release(done.placement, Request())
            opened = policy.schedule(now, PLENTY)
            running = running[4:] + opened
            placed += len(opened)
        policy.release(held.placement, Request())
        while not any(done.tasks == ["large"] for done in running):
            assert running, "the large task has room, and is not placed"
            for done in running:
                policy.release(done.placement, Request())
            now += 1.0
            running = policy.schedule(now, PLENTY)

    @pytest.mark.parametrize("seed", range(10))
    def test_whatever_comes_nothing_is_held_or_handed_out_twice_and_all_is_placed(self, seed: int) -> None:
        chance = random.Random(seed)
        machine = nodes(chance.randint(1, 5), cores=8, gpus=2, memory=20, disk=10)
        policy, books = self.make_policy(machine), Books(machine)
        running: dict[TaskUid, Assignment] = {}
        waiting: set[TaskUid] = set()
        now = 0.0

        def place(found: Iterable[Assignment]) -> None:
            for assignment in found:
                (uid,) = assignment.tasks
                waiting.remove(uid)
                books.take(assignment.placement, assignment.group.request)
                running[uid] = assignment

        def finish(count: int) -> None:
            for uid in chance.sample(list(running), min(count, len(running))):
                done = running.pop(uid)
                books.give_back(done.placement)
                policy.release(done.placement, done.group.request)

        for step in range(200):
            now += chance.random()
            request = Request() if not self.takes_all_requests else Request(
                chance.choice((1, 1, 2, 4)), chance.choice((1, 2, 3)), chance.choice((0, 0, 32, 64)), chance.choice((0, 3)),
                chance.choice((0, 2)),
            )  # fmt: skip
            if policy.refusal(request) is None:
                new = uids(10 * step, chance.randint(1, 5))
                waiting.update(new)
                policy.enqueue_many(new, GroupKey("executable", request, chance.choice((0, 0, 1))), now)
            place(policy.schedule(now, chance.choice((1, 5, PLENTY))))
            if waiting and chance.random() < 0.2:
                uid = chance.choice(sorted(waiting))
                assert policy.withdraw(uid)
                waiting.remove(uid)
            finish(chance.randint(0, 4))
            assert policy.waiting() == len(waiting)
        while waiting or running:
            now += 1.0
            before = len(waiting) + len(running)
            place(policy.schedule(now, PLENTY))
            finish(4)
            assert len(waiting) + len(running) < before, f"{len(waiting)} tasks are never placed"
        policy.check()

    def test_the_same_calls_give_the_same_answers(self) -> None:
        def decisions() -> list[list[Assignment]]:
            chance = random.Random(1)
            policy = self.make_policy(nodes(3, cores=8, gpus=2))
            found = []
            for step in range(50):
                key = group(chance.choice((0, 1)), cores=chance.choice((1, 2)), gpu_shares=chance.choice((0, 32)))
                if not self.takes_all_requests:
                    key = group(key.priority)
                policy.enqueue_many(uids(10 * step, 4), key, float(step))
                found.append(policy.schedule(float(step), 3))
                for assignment in found[-1][:2]:
                    policy.release(assignment.placement, assignment.group.request)
            return found

        assert decisions() == decisions()

    def _placed(self, policy: Policy, key: GroupKey, count: int = 1) -> list[Assignment]:
        policy.enqueue_many([TaskUid(f"before.{number}") for number in range(count)], key, 0.0)
        placed = policy.schedule(0.0, PLENTY)
        assert len(placed) == count
        return placed
