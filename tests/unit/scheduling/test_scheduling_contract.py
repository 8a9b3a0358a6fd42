"""All policies keep the contract, and the suite objects to policies that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest

from pilotage.core.scheduling import Assignment, GroupKey, Policy, Scheduler, make_policy
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import PolicySpec
from pilotage.model.resources import Node, Placement, Request
from pilotage.testing.contracts.policies import PolicyContract


class TestContinuous(PolicyContract):
    def make_policy(self, machine: Sequence[Node]) -> Policy:
        return Scheduler(machine)


class TestSpread(PolicyContract):
    def make_policy(self, machine: Sequence[Node]) -> Policy:
        return make_policy(PolicySpec(policy="spread"), machine)


class TestTorus(PolicyContract):
    def make_policy(self, machine: Sequence[Node]) -> Policy:
        return make_policy(PolicySpec(policy="torus", torus=(len(machine), 1)), machine)


class TestTagged(PolicyContract):
    def make_policy(self, machine: Sequence[Node]) -> Policy:
        return make_policy(PolicySpec(policy="tagged", groups={"first": (machine[0].name,)}), machine)


class TestPacked(PolicyContract):
    def make_policy(self, machine: Sequence[Node]) -> Policy:
        return make_policy(PolicySpec(policy="packed"), machine)


class TestHomogeneous(PolicyContract):
    takes_all_requests = False

    def make_policy(self, machine: Sequence[Node]) -> Policy:
        return make_policy(PolicySpec(policy="homogeneous"), machine)


class Forgetful(Scheduler):
    """Does not take back what is released."""

    def release(self, placement: Placement, request: Request) -> None:
        pass


class Generous(Scheduler):
    """Gives back at once what it hands out."""

    def schedule(self, now: float, limit: int) -> list[Assignment]:
        opened = super().schedule(now, limit)
        for assignment in opened:
            super().release(assignment.placement, assignment.group.request)
        return opened


class Stubborn(Scheduler):
    """Says that it withdrew a task, and keeps it."""

    def withdraw(self, task: TaskUid) -> bool:
        return self._queue.group_of(task) is not None


class Obliging(Scheduler):
    """Refuses nothing."""

    def refusal(self, request: Request) -> str | None:
        return None


class Levelling(Scheduler):
    """Does not know priorities."""

    def enqueue(self, task: TaskUid, group: GroupKey, now: float) -> None:
        super().enqueue(task, GroupKey(group.lane_kind, group.request), now)


class Clinging(Scheduler):
    """Goes on with nodes that were closed."""

    def close_node(self, index: int) -> bool:
        return True


class Hasty(Scheduler):
    """Uses nodes before they are resumed."""

    def suspend_nodes(self, indices: Iterable[int]) -> None:
        pass


class Finicky(Scheduler):
    """Takes suspended nodes for nodes that never come back."""

    def suspend_nodes(self, indices: Iterable[int]) -> None:
        for index in indices:
            self.close_node(index)


@pytest.mark.parametrize(
    ("policy", "objection"),
    [
        (Forgetful, PolicyContract.test_nothing_is_placed_without_room_until_something_is_released),
        (Generous, lambda suite: suite.test_whatever_comes_nothing_is_held_or_handed_out_twice_and_all_is_placed(0)),
        (Stubborn, PolicyContract.test_what_was_withdrawn_is_never_placed),
        (Obliging, lambda suite: suite.test_what_can_never_be_is_refused_with_value_and_limit({"cores": 9}, "9", "4")),
        (Clinging, PolicyContract.test_a_node_that_is_closed_while_idle_is_gone_at_once),
        (Hasty, PolicyContract.test_a_suspended_node_is_not_used_until_it_is_resumed),
        (Finicky, PolicyContract.test_what_only_suspended_nodes_have_room_for_waits_for_them_and_no_other_waits_with_it),
        (Levelling, PolicyContract.test_of_two_that_compete_the_higher_priority_goes_first),
    ],
)
def test_the_suite_objects_to(policy: type[Scheduler], objection: Callable[[PolicyContract], None]) -> None:
    class Suite(PolicyContract):
        def make_policy(self, machine: Sequence[Node]) -> Policy:
            return policy(machine)

    with pytest.raises((AssertionError, ValueError)):
        objection(Suite())
