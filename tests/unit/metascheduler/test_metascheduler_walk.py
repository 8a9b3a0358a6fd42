"""Seeded random walks over the metascheduler's core in a world of misfortunes, and faults planted to see that they bite.

``PILOTAGE_SEED=7 pytest tests/unit/metascheduler/test_metascheduler_walk.py -k lives`` replays the walk that a failure names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import metascheduler_world
import msgspec
import pytest
from metascheduler_world import World, walk

from pilotage.core.agent import events as agent_events
from pilotage.core.agent.partition import Recalls
from pilotage.core.metascheduler import events, facts
from pilotage.core.metascheduler import journal as journal_module
from pilotage.core.metascheduler import plan as plan_module
from pilotage.core.metascheduler import tasks as tasks_module
from pilotage.core.metascheduler.balance import Balance
from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.core.metascheduler.fitting import Fitting
from pilotage.core.metascheduler.partitions import NO_NODE_LEFT, Partitions
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.state import MetaschedulerState, apply
from pilotage.core.metascheduler.tasks import Tasks
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import LOST_NODES
from planted_faults import Patch, require_noticed

WALKS = 100
BITES_WITHIN = 200

SEEDS = [int(os.environ["PILOTAGE_SEED"])] if "PILOTAGE_SEED" in os.environ else range(WALKS)


def test_every_task_lives_to_exactly_one_outcome_whatever_dies() -> None:
    for seed in SEEDS:
        walk(seed)


@pytest.mark.parametrize("seed", [131, 204, 206, 306])
def test_what_only_services_or_refusals_stand_in_the_way_of_does_not_wait_for_ever(seed: int) -> None:
    """Such stalls were found here."""
    walk(seed)


def test_a_long_walk() -> None:
    world = walk(77_001, length=1000)
    assert len(world.client.outcomes) + len(world.head.state.late) == len(world.client.tasks) > 500


def read(world: World, kind: type) -> list[Any]:
    return [fact for record in world.records for fact in metascheduler_world._decode_record(record) if isinstance(fact, kind)]


def test_the_walks_meet_what_they_are_for() -> None:
    worlds = [walk(seed) for seed in range(80)]
    outcomes = [outcome for world in worlds for outcome in world.client.outcomes.values()]
    assert sum(world.head_deaths for world in worlds) > 100
    assert sum(world.agent_deaths for world in worlds) > 25
    assert sum(len(world.lost) for world in worlds) > 15, "partitions that were lost"
    assert sum(bool(world.tails_lost) for world in worlds) > 1, "partitions whose log lost its end"
    assert sum(world.failures_of_partitions for world in worlds) > 2, "partitions that ended by themselves"
    assert sum(world.retirements for world in worlds) > 8, "partitions that the user retired"
    awaited = {fact.spec.name for world in worlds for fact in read(world, facts.PartitionAwaited)}
    assert awaited and any(read(world, facts.PartitionRefused) for world in worlds), "partitions that had to wait"
    assert sum(world.releases for world in worlds) > 8, "partitions that were let go"
    assert sum(len(fact.nodes) for world in worlds for fact in read(world, facts.NodesTaken)) > 3, "nodes that moved"
    assert sum(world.node_moves for world in worlds) > 20, "nodes that were granted"
    told = [fact for world in worlds for fact in read(world, facts.NodesTaken) if fact.reclaim == LOST_NODES]
    assert sum(len(fact.nodes) for fact in told) > 8, "nodes that partitions lost"
    assert sum(world.missing for world in worlds) > 40, "nodes that never came"
    begun = [fact for world in worlds for fact in read(world, facts.PartitionAdded)]
    assert any(0 < len(fact.nodes) < fact.spec.nodes for fact in begun), "partitions that began with fewer nodes"
    assert any(not fact.nodes for fact in begun), "partitions that had none from the beginning"
    without = [fact for world in worlds for fact in read(world, facts.PartitionEnding) if fact.reason == NO_NODE_LEFT]
    assert without, "partitions that lost their last node"
    assert sum(world.given_back for world in worlds) > 10, "tasks that went from one partition to another before they began"
    assert sum(len(world.head.state.late) for world in worlds) > 20, "tasks that went back to the client"
    leased_again = [len(fact.tasks) for world in worlds for fact in read(world, facts.TasksLeased) if fact.lease > 1]
    assert sum(leased_again) > 30, "tasks that were leased again"
    several = [begins for world in worlds for begins in world.begins.values() if len({name for name, _ in begins}) > 1]
    assert several, "tasks that ran in one partition, and then in another"
    assert sum(outcome.ending is Ending.DONE for outcome in outcomes) > 2 * len(outcomes) // 5
    assert sum(outcome.ending is Ending.INFEASIBLE for outcome in outcomes) > 100
    assert sum(outcome.ending is Ending.LOST for outcome in outcomes) > 3


def test_one_seed_is_one_log_under_any_hash_seed() -> None:
    program = "from metascheduler_world import walk; print([walk(seed).fingerprint() for seed in range(12)])"
    here = Path(__file__).parent
    printed = set()
    for hash_seed in ("0", "4711"):
        path = os.pathsep.join([str(here), str(here.parent / "agent_core"), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1


# ------------------------------------------------------------------------------------------------------- planted faults


def change_apply(patch: pytest.MonkeyPatch, kind: type, change: Callable[[MetaschedulerState, Any], None]) -> None:
    """Fold facts of this kind in another way, live and in recovery."""

    def faulty(state: MetaschedulerState, fact: facts.Fact, **hints: Any) -> None:
        if isinstance(fact, kind):
            change(state, fact)
        else:
            apply(state, fact, **hints)

    patch.setattr(journal_module, "apply", faulty)
    patch.setattr(metascheduler_world, "apply", faulty)


def change_event(patch: pytest.MonkeyPatch, kind: type, change: Callable[[Any], Any]) -> None:
    """Tell the core another event instead of those of this kind."""
    original = MetaschedulerCore.handle

    def handle(self: MetaschedulerCore, event: events.Event) -> Any:
        return original(self, change(event) if isinstance(event, kind) else event)

    patch.setattr(MetaschedulerCore, "handle", handle)


def what_may_have_run_runs_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tasks_module, "runs_again", lambda template, failures, ending, exit_code: True)


def attempts_made_elsewhere_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    def released(state: MetaschedulerState, fact: facts.TasksReleased) -> None:
        apply(state, fact)
        for uid, _, _ in fact.tasks:
            state.tasks[uid].attempt = 0

    change_apply(patch, facts.TasksReleased, released)


def retries_made_elsewhere_do_not_count(patch: pytest.MonkeyPatch) -> None:
    def released(state: MetaschedulerState, fact: facts.TasksReleased) -> None:
        apply(state, fact)
        for uid, _, _ in fact.tasks:
            state.tasks[uid].failures = 0

    change_apply(patch, facts.TasksReleased, released)


def what_comes_back_forgets_that_it_was_cancelled(patch: pytest.MonkeyPatch) -> None:
    original = Tasks.go_on

    def go_on(self: Tasks, now: float, never_began: Any, *rest: Any) -> None:
        uids = list(never_began)
        for uid in uids:
            self._state.tasks[uid].ending = None
        original(self, now, uids, *rest)

    patch.setattr(Tasks, "go_on", go_on)


def nodes_are_free_when_they_are_asked_back(patch: pytest.MonkeyPatch) -> None:
    def reclaimed(state: MetaschedulerState, fact: facts.NodesReclaimed) -> None:
        apply(state, fact)
        partition = state.partitions[fact.partition]
        for node in list(partition.nodes)[: fact.count]:
            del partition.nodes[node]
            state.free_nodes[node] = fact.time

    change_apply(patch, facts.NodesReclaimed, reclaimed)


def nobody_looks_at_the_rules_of_partitions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fitting, "against", lambda self, wish, partition, shapes, likes: "")


def messages_are_forgotten_before_they_are_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def one_more(event: Any) -> Any:
        return msgspec.structs.replace(event, durable=event.durable + 1)

    change_event(patch, events.PartitionAcknowledged, one_more)


def recovery_forgets_who_waits(patch: pytest.MonkeyPatch) -> None:
    original = Tasks.recover

    def recover(self: Tasks) -> None:
        enqueue, self._queue.enqueue = self._queue.enqueue, lambda *arguments, **options: ""  # type: ignore[method-assign]
        original(self)
        self._queue.enqueue = enqueue  # type: ignore[method-assign]

    patch.setattr(Tasks, "recover", recover)


def partitions_shrink_below_their_least(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fitting, "least_nodes", lambda self, name, partition: 0)


def partitions_are_let_go_while_they_work(patch: pytest.MonkeyPatch) -> None:
    def idle(self: Balance) -> Any:
        return [(each, 0.0) for each in self._backlogs.values() if each.record.life == "active"]

    patch.setattr(Balance, "_idle", idle)


def later_partitions_do_not_hear_of_environments(patch: pytest.MonkeyPatch) -> None:
    def added(state: MetaschedulerState, fact: facts.PartitionAdded) -> None:
        apply(state, fact)
        state.partitions[fact.partition].outbox.clear()

    change_apply(patch, facts.PartitionAdded, added)


def what_nobody_can_run_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queue, "_hopeless", lambda self, group: "")


def tasks_of_a_lost_partition_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = Tasks.leased_to
    patch.setattr(Tasks, "leased_to", lambda self, partition: original(self, partition)[1:])


def what_never_began_counts_as_run(patch: pytest.MonkeyPatch) -> None:
    original = Tasks.go_on

    def go_on(self: Tasks, now: float, never_began: Any, may_have_run: Any, tries: Any, how: str) -> None:
        both = {uid: (self._state.tasks[uid].attempt, self._state.tasks[uid].failures) for uid in never_began}
        original(self, now, [], {**both, **may_have_run}, tries, how)

    patch.setattr(Tasks, "go_on", go_on)


def what_is_recalled_is_taken_for_given_back(patch: pytest.MonkeyPatch) -> None:
    def recalled(state: MetaschedulerState, fact: facts.TasksRecalled) -> None:
        apply(state, fact)
        for uid in fact.tasks:
            state.tasks[uid].partition = ""
            state.partitions[fact.partition].leased -= 1

    change_apply(patch, facts.TasksRecalled, recalled)


def answers_to_recalls_are_not_believed(patch: pytest.MonkeyPatch) -> None:
    change_event(patch, events.TasksGivenBack, lambda event: msgspec.structs.replace(event, tasks=[]))


def agents_keep_what_they_give_back(patch: pytest.MonkeyPatch) -> None:
    original = Recalls.recalled

    def recalled(self: Recalls, event: agent_events.TasksRecalled) -> None:
        before = dict(self._state.tasks)
        original(self, event)
        gone = [uid for uid in before if uid not in self._state.tasks]
        self._state.tasks.update((uid, before[uid]) for uid in gone)
        self._waiting.enqueue_each(gone, event.time)

    patch.setattr(Recalls, "recalled", recalled)


def agents_give_back_what_they_have_handed_over(patch: pytest.MonkeyPatch) -> None:
    def merely_waits(self: Recalls, uid: TaskUid, task: Any) -> bool:
        if task.lane:
            task.lane, lane = 0, self._state.lanes[task.lane]
            del lane.tasks[uid]
        return True

    patch.setattr(Recalls, "_merely_waits", merely_waits)


def what_was_given_back_counts_as_begun(patch: pytest.MonkeyPatch) -> None:
    def one_more(event: events.TasksGivenBack) -> events.TasksGivenBack:
        tasks = [(uid, lease, Attempt(attempt + 1), failures + 1) for uid, lease, attempt, failures in event.tasks]
        return msgspec.structs.replace(event, tasks=tasks)

    change_event(patch, events.TasksGivenBack, one_more)


def what_goes_back_to_the_client_is_said_to_have_never_begun(patch: pytest.MonkeyPatch) -> None:
    def given_up(state: MetaschedulerState, fact: facts.TasksGivenUp) -> None:
        apply(state, fact)
        state.begun_tasks.clear()

    change_apply(patch, facts.TasksGivenUp, given_up)


def plans_are_not_shrunk_if_nodes_do_not_come(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plan_module, "_sizes", plan_module.shares)


def partitions_go_on_without_their_last_node(patch: pytest.MonkeyPatch) -> None:
    original = Partitions.retire

    def retire(self: Partitions, now: float, number: int, name: str, drain: bool, reason: str, **options: Any) -> bool:
        return reason != NO_NODE_LEFT and original(self, now, number, name, drain, reason, **options)

    patch.setattr(Partitions, "retire", retire)


def lost_nodes_are_given_to_others(patch: pytest.MonkeyPatch) -> None:
    def taken(state: MetaschedulerState, fact: facts.NodesTaken) -> None:
        apply(state, fact)
        if fact.reclaim == LOST_NODES:
            for node in fact.nodes:
                state.lost_nodes.pop(node)
                state.free_nodes[node] = fact.time

    change_apply(patch, facts.NodesTaken, taken)


FAULTS: list[Patch] = [
    what_may_have_run_runs_again,
    attempts_made_elsewhere_are_forgotten,
    retries_made_elsewhere_do_not_count,
    what_comes_back_forgets_that_it_was_cancelled,
    nodes_are_free_when_they_are_asked_back,
    nobody_looks_at_the_rules_of_partitions,
    messages_are_forgotten_before_they_are_acknowledged,
    recovery_forgets_who_waits,
    partitions_shrink_below_their_least,
    partitions_are_let_go_while_they_work,
    later_partitions_do_not_hear_of_environments,
    what_nobody_can_run_waits,
    tasks_of_a_lost_partition_are_forgotten,
    what_never_began_counts_as_run,
    what_is_recalled_is_taken_for_given_back,
    answers_to_recalls_are_not_believed,
    agents_keep_what_they_give_back,
    agents_give_back_what_they_have_handed_over,
    what_was_given_back_counts_as_begun,
    what_goes_back_to_the_client_is_said_to_have_never_begun,
    plans_are_not_shrunk_if_nodes_do_not_come,
    partitions_go_on_without_their_last_node,
    lost_nodes_are_given_to_others,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, walk, BITES_WITHIN)
