"""Jobs that the batch system ends around a pilot with partitions: what goes on and what stands still; walks, planted faults."""

from __future__ import annotations

import random

import pytest
from metascheduler_builders import (
    again,
    arrived,
    cancelled,
    ended_by,
    leased_by,
    names,
    outcome,
    part,
    ready_head,
    submitted,
)
from metascheduler_world import World
from metascheduler_world_partitions import Partition

from pilotage.core.agent import events as agent_events
from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.core.metascheduler.job_end import JobEnd
from pilotage.model.outcome import Ending
from planted_faults import Patch, require_noticed

REASON = "the agent was told to end by SIGTERM"


def job_ends(head: MetaschedulerCore, at: float = 10.0) -> Step:
    return head.handle(events.JobEnding(at, REASON))


def test_outcomes_are_taken_and_nothing_is_given_out_and_the_log_says_nothing_of_an_end() -> None:
    head = ready_head(part("a"), part("b"), drain_s=20.0)
    head.handle(submitted(1, names("t", 40)))
    step = job_ends(head)
    assert (step.facts, step.actions, head.next_deadline(), head.is_left(29.0)) == ([], [], 30.0, False)
    step = head.handle(arrived("a", 1, outcome("t0"), at=11.0))
    assert [type(fact) for fact in step.facts] == [facts.OutcomesTaken] and "t0" not in head.state.tasks
    assert head.handle(events.TimePassed(25.0)).facts == [] and head.state.ending is None
    assert head.is_left(30.0)


@pytest.mark.parametrize(("until", "over"), [(None, 30.0), (22.0, 22.0), (90.0, 30.0)])
def test_partitions_are_waited_for_no_longer_than_the_batch_system_lets_them(until: float | None, over: float) -> None:
    head = ready_head(part("a"), drain_s=20.0)
    head.handle(submitted(1, ["x"]))
    head.handle(events.JobEnding(10.0, REASON, until))
    assert (head.next_deadline(), head.is_left(over - 1.0), head.is_left(over)) == (over, False, True)


def test_tasks_that_come_wait_and_those_that_the_user_cancels_end() -> None:
    head = ready_head(part("a"), drain_s=20.0)
    job_ends(head)
    assert leased_by(head.handle(submitted(1, ["x", "y"], at=11.0))) == {}
    assert ended_by(head.handle(cancelled(2, "x", at=12.0))) == {"x": (Ending.CANCELLED, "cancelled by the user")}
    later = again(head, part("a"), drain_s=20.0)
    assert later.state.tasks["y"].partition == "a", "a later run of the job goes on"


def test_nothing_is_concluded_from_a_partition_that_goes_nor_from_the_time() -> None:
    head = ready_head(part("a"), part("b"), drain_s=20.0, deadline=15.0, idle_timeout_s=3.0)
    head.handle(submitted(1, ["x"]))
    job_ends(head)
    assert head.handle(events.PartitionLost(11.0, "a", "its agent ended 4 times")).facts == []
    assert head.handle(events.TimePassed(16.0)).facts == []
    assert head.state.partitions["a"].living and head.state.tasks["x"].partition == "a"


def test_partitions_are_not_waited_for_when_the_pilot_ends_anyway() -> None:
    head = ready_head(part("a"), drain_s=20.0)
    head.handle(submitted(1, ["x"]))
    job_ends(head)
    head.handle(events.EndRequested(11.0, 2, False, "ended by the user"))
    assert head.is_left(11.0)
    head = ready_head(part("a"), drain_s=20.0)
    head.handle(events.EndRequested(5.0, 1, True, "ended by the user"))
    job_ends(head)
    assert head.is_left(10.0)


def test_the_time_of_a_job_that_ends_does_not_begin_anew() -> None:
    head = ready_head(part("a"), drain_s=20.0)
    job_ends(head, 10.0)
    job_ends(head, 25.0)
    assert head.is_left(30.0) and not head.is_left(29.0)


def test_a_partition_that_is_added_as_the_job_ends_begins_in_a_later_run() -> None:
    head = ready_head(part("a"), count=2, drain_s=20.0)
    job_ends(head)
    head.handle(events.PartitionAsked(11.0, 0, part("b")))
    assert head.state.partitions["b"].life == "starting"
    state = head.state
    later = MetaschedulerCore([part("a")], head._partitions._nodes, state=state)
    later.recover(40.0)
    started = [action.partition for action in later.start(40.0).actions if isinstance(action, actions.StartPartition)]
    assert started == ["a", "b"]


# ----------------------------------------------------------------------------------------------------------------- walks

WALKS = 100
BITES_WITHIN = 200


class InJob(World):
    """A world in which a batch system ends the job at times, and begins it again."""

    in_job = True

    def __init__(self, seed: int, length: int = 150) -> None:
        self.batch = random.Random(f"batch system of {seed}")
        self.drain_s = self.batch.choice((0.0, 3.0, 20.0))
        self.end_job_at = {self.batch.randrange(20, length) for _ in range(self.batch.choice((1, 1, 2)))}
        self.head_knows = False
        self.runs = 1
        self.outcomes_at_the_end = 0
        super().__init__(seed, length)

    def walk(self) -> None:
        for number in range(self.length):
            self.step()
            if number in self.end_job_at and not self.head.finished:
                self.end_job()
        self.settle()
        self.check_end()

    def end_job(self) -> None:
        """Head and agents get the signal, each at its time; then the job is killed, and another run begins."""
        mishaps = self.head_mishaps, self.partition_mishaps
        self.head_mishaps = self.partition_mishaps = 0.0
        going = [partition for partition in self.partitions.values() if partition.core is not None]
        waiting: list[Partition | None] = [*going, None]
        self.batch.shuffle(waiting)
        for each in waiting:
            self.tell_job_ends(each)
            if self.batch.random() < 0.5:
                self.turn()
        for _ in range(self.batch.choice((0, 3, 10, 30))):
            if self.head.is_left(self.now):
                break
            self.now += self.batch.choice((0.0, 0.2, 1.0))
            for partition in going:
                self.live_on(partition)
            if self.batch.random() < 0.3:
                self.client.submit()
            if self.batch.random() < 0.05:
                for partition in self.some_partition():
                    partition.lose(False)
            self.turn()
        for partition in self.partitions.values():
            if not partition.over:
                partition.end_agent()
                partition.kill_runners()
        self.head_knows = False
        self.head_mishaps, self.partition_mishaps = mishaps
        self.runs += 1
        self.start_head()

    def tell_job_ends(self, partition: Partition | None) -> None:
        if partition is None:
            self.commit()
            self.head_knows = True
            self.handle(events.JobEnding(self.now, REASON))
            self.commit()
        elif partition.core is not None:
            partition.commit()
            partition.handle(agent_events.JobEnding(self.now, REASON))
            partition.commit()

    def live_on(self, partition: Partition) -> None:
        """An agent that has nothing left to wait for goes, and what it ran; nobody comes in its place."""
        if partition.over or partition.core is None:
            return
        partition.run()
        partition.turn()
        if partition.core is not None and partition.core.is_left(self.now):
            up = [*partition.up]
            partition.end_agent()
            partition.kill_runners()
            # What was sent before is read when the agent is gone.
            partition.connected, partition.up = True, partition.up.__class__(up)

    def read_fact(self, fact: facts.Fact) -> None:
        if self.head_knows:
            self.outcomes_at_the_end += len(facts.tasks_named(fact)) if isinstance(fact, facts.OutcomesTaken) else 0
            still = (
                facts.TasksLeased
                | facts.NodesGranted
                | facts.NodesReclaimed
                | facts.TasksRecalled
                | facts.PartitionAdded
                | facts.PartitionEnding
                | facts.TasksGivenUp
            )
            assert not isinstance(fact, still), f"{fact}, though the job ends"
            assert not isinstance(fact, facts.PilotEnding), "the pilot ends with its job"
            assert not (isinstance(fact, facts.PartitionOver) and not fact.number), f"{fact}, though the job ends"
        super().read_fact(fact)

    def check_outcome(self, uid, outcome):  # type: ignore[no-untyped-def]
        self.lost.add("what ran when the job was killed")
        super().check_outcome(uid, outcome)


def walk(seed: int) -> InJob:
    """Walk through one world; the error of a walk that fails names its seed."""
    try:
        world = InJob(seed)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed: walk({seed}) replays it: {error!r}") from error
    return world


def test_a_job_that_ends_is_no_end_of_the_pilot_and_a_later_run_goes_on() -> None:
    worlds = [walk(seed) for seed in range(WALKS)]
    assert sum(world.runs for world in worlds) > 2 * WALKS, "jobs that were begun again"
    assert sum(world.outcomes_at_the_end for world in worlds) > WALKS // 2, "tasks that ended well as the job ended"


def tasks_are_given_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JobEnd, "came", property(lambda self: False))


def partitions_that_go_are_lost(patch: pytest.MonkeyPatch) -> None:
    original = MetaschedulerCore.handle

    def handle(self: MetaschedulerCore, event: events.Event) -> Step:
        if isinstance(event, events.PartitionLost):
            self._partitions.lost(event)
        return original(self, event)

    patch.setattr(MetaschedulerCore, "handle", handle)


def the_log_is_told_of_an_end(patch: pytest.MonkeyPatch) -> None:
    original = MetaschedulerCore.handle

    def handle(self: MetaschedulerCore, event: events.Event) -> Step:
        step = original(self, event)
        if isinstance(event, events.JobEnding):
            self._end(event.time, 0, False, "DONE", event.reason)
            more = self._journal.take()
            return Step([*step.facts, *more.facts], [*step.actions, *more.actions])
        return step

    patch.setattr(MetaschedulerCore, "handle", handle)


def outcomes_are_not_taken_any_more(patch: pytest.MonkeyPatch) -> None:
    """They are acknowledged, and in no log."""
    original = MetaschedulerCore.handle

    def handle(self: MetaschedulerCore, event: events.Event) -> Step:
        if isinstance(event, events.OutcomesArrived) and self._job_end.came:
            record = self.state.partitions[event.partition]
            record.received = max(record.received, event.number)
        return original(self, event)

    patch.setattr(MetaschedulerCore, "handle", handle)


FAULTS: list[Patch] = [
    tasks_are_given_out,
    partitions_that_go_are_lost,
    the_log_is_told_of_an_end,
    outcomes_are_not_taken_any_more,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, walk, BITES_WITHIN)
