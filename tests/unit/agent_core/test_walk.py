"""Seeded random walks over the agent's core in a world of misfortunes, and faults planted to see that the walks bite.

``PILOTAGE_SEED=7 pytest tests/unit/agent_core/test_walk.py -k lives`` replays the walk that a failure names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import agent_world
import msgspec
import pytest
from agent_world import walk

from pilotage.core.agent import dispatch as dispatch_module
from pilotage.core.agent import endings as endings_module
from pilotage.core.agent import events, facts
from pilotage.core.agent import journal as journal_module
from pilotage.core.agent import staging as staging_module
from pilotage.core.agent import state as state_module
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.environments import Environments
from pilotage.core.agent.idleness import Idleness
from pilotage.core.agent.reports import Reports
from pilotage.core.agent.retry import runs_again
from pilotage.core.agent.services import Services
from pilotage.core.agent.staging import Staging
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.agent.waiting import Waiting
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.outcome import Ending
from planted_faults import require_noticed

WALKS = 250
BITES_WITHIN = 300

SEEDS = [int(os.environ["PILOTAGE_SEED"])] if "PILOTAGE_SEED" in os.environ else range(WALKS)


def test_every_task_lives_to_exactly_one_outcome_whatever_dies():
    deaths = tasks = 0
    for seed in SEEDS:
        world = walk(seed)
        deaths += world.deaths
        tasks += len(world.client.tasks)
    assert tasks
    assert deaths > WALKS or len(SEEDS) == 1, "the walks are too peaceful"


def test_a_long_walk():
    world = walk(77_001, length=1500)
    assert len(world.client.outcomes) == len(world.client.tasks) > 500


def test_the_walks_meet_what_they_are_for():
    worlds = [walk(seed) for seed in range(60)]
    assert sum(world.stagings for world in worlds) > 1000
    assert sum(bool(world.failed) for world in worlds) > 20, "files that could not be staged"
    assert sum(world.preparations for world in worlds) > 60
    assert sum(bool(world.unprepared) for world in worlds) > 20, "environments that could not be had"
    assert sum(world.pauses for world in worlds) > 20, "disks that were full"
    assert sum(world.put_off for world in worlds) > 40, "files that there was no room for"
    assert sum(len(world.ready) for world in worlds) > 100, "services that were ready"
    assert sum(len(world.unwell) for world in worlds) > 20, "services that were unwell"
    assert sum(attempt > 1 for world in worlds for _, attempt in world.ready) > 10, "services that were started again"
    assert sum(world.needs.launched for world in worlds) > 40, "tasks that were launched with an address"
    assert sum(world.needs.waited for world in worlds) > 1000, "tasks that waited for their service to be ready again"
    assert sum(world.needs.outdated for world in worlds) > 4, "addresses that changed before the task began"
    assert sum(len(world.needs.forsaken) for world in worlds) > 100, "tasks that ended with their service"
    assert sum(len(world.cleaned) for world in worlds) > 100, "sandboxes that were removed"
    assert sum(len(world.quarantined) for world in worlds) > 10
    assert sum(world.idle_ends for world in worlds) > 5, "pilots that were idle"
    assert sum(len(world.late) for world in worlds) > 100, "tasks that came when their pilot had begun to end"
    assert sum(world.barriers for world in worlds) > 100, "barriers"


def test_one_seed_is_one_log_under_any_hash_seed():
    program = "from agent_world import walk; print([walk(seed).fingerprint() for seed in (1, 2, 3, 5, 8)])"
    printed = set()
    for hash_seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([_here(), *sys.path])}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1


def _here() -> str:
    return str(Path(__file__).parent)


# ------------------------------------------------------------------------------------------------------- planted faults


def change_apply(patch: pytest.MonkeyPatch, kind: type, change: Callable[[AgentState, facts.Fact], None]) -> None:
    """Fold facts of this kind in another way, live and in recovery."""

    def faulty(state: AgentState, fact: facts.Fact) -> None:
        (change if isinstance(fact, kind) else apply)(state, fact)

    patch.setattr(journal_module, "apply", faulty)
    patch.setattr(agent_world, "apply", faulty)


def change_event(patch: pytest.MonkeyPatch, kind: type, change: Callable[[AgentState, events.Event], events.Event]) -> None:
    """Tell the core another event instead of those of this kind."""
    original = AgentCore.handle

    def handle(self, event):
        return original(self, change(self.state, event) if isinstance(event, kind) else event)

    patch.setattr(AgentCore, "handle", handle)


def the_lane_is_not_left(patch):
    def leave(state, uid):
        task = state.tasks[uid]
        task.lane, task.started = state_module.NO_LANE, 0.0
        return task

    patch.setattr(state_module, "_leave_lane", leave)


def closed_lanes_are_not_released(patch):
    patch.setattr(Scheduler, "release", lambda self, placement, request: None)


def a_retry_ignores_the_cancel(patch):
    def repeats(self, task, ending, exit_code):
        return runs_again(self._state.templates[task.row.template], task.failures, ending, exit_code)

    patch.setattr(Endings, "repeats", repeats)


def retries_are_not_counted(patch):
    def repeated(state, fact):
        apply(state, fact)
        for uid in fact.tasks:
            state.tasks[uid].failures = 0

    change_apply(patch, facts.Repeated, repeated)


def a_reconnect_misses_nothing(patch):
    def all_held(state, event):
        held = [(uid, task.attempt) for uid, task in state.tasks.items() if task.lane]
        return msgspec.structs.replace(event, holds=held)

    change_event(patch, events.RunnerReconciled, all_held)


def an_attempt_is_numbered_again_after_a_return(patch):
    def returned(state, fact):
        apply(state, fact)
        for uid in fact.tasks:
            state.tasks[uid].attempt -= 1

    change_apply(patch, facts.Returned, returned)


def a_late_end_is_taken_for_one_of_the_present_attempt(patch):
    def renamed(state, event):
        tasks = state.tasks
        ends = [
            msgspec.structs.replace(end, attempt=tasks[end.task].attempt) if end.task in tasks else end for end in event.ends
        ]
        return msgspec.structs.replace(event, ends=ends, number=event.number + 1000)

    change_event(patch, events.TasksEnded, renamed)


def outcomes_are_numbered_twice(patch):
    def numbered(state, fact):
        state.undelivered[fact.number] = state.unsent[: fact.count]
        state.numbered = fact.number
        del state.unsent[: fact.count - 1]

    change_apply(patch, facts.OutcomesNumbered, numbered)


def outcomes_are_forgotten_before_they_are_delivered(patch):
    def all_of_them(state, event):
        return msgspec.structs.replace(event, durable=state.numbered)

    change_event(patch, events.OutcomesReceived, all_of_them)


def a_task_cancelled_in_a_lane_is_lost_when_it_comes_back(patch):
    original = Reports._take_back

    def take_back(self, now, executions):
        finish, self._endings.finish = self._endings.finish, lambda *arguments: None
        original(self, now, executions)
        self._endings.finish = finish

    patch.setattr(Reports, "_take_back", take_back)


def what_a_dead_runner_never_began_is_lost(patch):
    change_event(patch, events.RunnerLost, lambda state, event: msgspec.structs.replace(event, not_begun=[]))


def what_is_about_to_be_launched_counts_as_handed_over(patch):
    patch.setattr(Dispatch, "not_handed_over", lambda self, runner: {})


def a_message_without_effect_is_not_logged(patch):
    original = AgentCore._end

    def end(self, now, number, drain, state, reason):
        if self.state.ending is None:
            original(self, now, number, drain, state, reason)

    patch.setattr(AgentCore, "_end", end)


def a_cancelled_task_still_waits(patch):
    patch.setattr(Scheduler, "withdraw", lambda self, task: True)


def a_name_twice_in_a_cancel_counts_twice(patch):
    def cancel(self, event):
        known = [uid for uid, _ in event.tasks if uid in self.state.tasks]
        self._endings.ask(event.time, event.number, known, Ending.CANCELLED, "cancelled by the user")

    patch.setattr(AgentCore, "_cancel_requested", cancel)


def recovery_takes_held_resources_for_free(patch):
    patch.setattr(Scheduler, "occupy", lambda self, placement, request, tasks=(), *, service=False: None)


def recovery_forgets_who_waits(patch):
    original = AgentCore.recover

    def recover(self, now):
        enqueue_each, self._waiting.enqueue_each = self._waiting.enqueue_each, lambda uids, now: None
        original(self, now)
        self._waiting.enqueue_each = enqueue_each

    patch.setattr(AgentCore, "recover", recover)


def a_hello_is_not_noted(patch):
    patch.setattr(Reports, "connected", lambda self, event: None)


def an_alarm_rings_for_a_later_attempt(patch):
    def runs(self, uid, attempt):
        return uid in self.tasks and bool(self.tasks[uid].lane)

    patch.setattr(AgentState, "runs", runs)


def a_timeout_shields_from_the_cancel(patch):
    original = Endings.ask

    def ask(self, now, number, uids, ending, message):
        original(self, now, number, [uid for uid in uids if self._state.tasks[uid].ending is None], ending, message)

    patch.setattr(Endings, "ask", ask)


def input_is_not_waited_for(patch):
    def accepted(state, fact):
        apply(state, fact)
        state.inputs.clear()

    change_apply(patch, facts.TasksAccepted, accepted)


def output_is_not_wanted_of_anything(patch):
    for module in (endings_module, staging_module):
        patch.setattr(module, "wants_output", lambda row, template, outcome: False)


def a_task_is_done_though_it_was_cancelled_while_its_output_was_staged(patch):
    patch.setattr(Endings, "_unless_ended", lambda self, task, outcome: outcome)


def an_outcome_does_not_wait_for_the_output(patch):
    patch.setattr(Endings, "sort", lambda self, task, outcome, final, staged: final.append(outcome))


def staging_is_not_asked_for_again_after_a_restart(patch):
    patch.setattr(Staging, "resume", lambda self, now: None)


def what_is_staged_is_let_into_the_queue_by_recovery(patch):
    original = AgentCore.recover

    def recover(self, now):
        inputs, self.state.inputs = self.state.inputs, {}
        original(self, now)
        self.state.inputs = inputs
        self._staging.recover()

    patch.setattr(AgentCore, "recover", recover)


def what_is_to_end_is_staged_all_the_same_after_a_restart(patch):
    def resume(self, now):
        (inputs, outputs), self._left_over = self._left_over, ([], [])
        self._endings.stage_outputs([self._state.outputs[uid] for uid in outputs if uid in self._state.outputs])
        self.stage_inputs(uid for uid in inputs if uid in self._state.tasks)

    patch.setattr(Staging, "resume", resume)


def a_task_that_is_staged_ends_at_once(patch):
    original = Endings.ask

    def ask(self, now, number, uids, ending, message):
        uids = list(uids)
        staged = [uid for uid in uids if uid in self._state.inputs and self._state.tasks[uid].ending is None]
        original(self, now, number, uids, ending, message)
        self.finish(now, staged, ending, message)

    patch.setattr(Endings, "ask", ask)


def an_environment_is_not_waited_for(patch):
    patch.setattr(Waiting, "_is_there", lambda self, name: True)


def a_preparation_is_not_asked_for_again_after_a_restart(patch):
    patch.setattr(Environments, "resume", lambda self: None)


def what_waits_for_an_environment_stays_when_it_is_cancelled(patch):
    patch.setattr(Waiting, "withdraw", lambda self, uid: self._policy.withdraw(uid))


def an_environment_that_cannot_be_had_is_waited_for(patch):
    original = Environments.settle

    def settle(self, now):
        broken = {name: self._waiting.held.pop(name) for name in list(self._waiting.held) if self._is_broken(name)}
        original(self, now)
        self._waiting.held.update(broken)

    def is_broken(self, name):
        return name in self._state.environments and bool(self._state.environments[name].error)

    patch.setattr(Environments, "settle", settle)
    patch.setattr(Environments, "_is_broken", is_broken, raising=False)


def services_are_not_watched_after_a_restart(patch):
    patch.setattr(Services, "recover", lambda self: None)


def services_run_on_when_nothing_else_does(patch):
    patch.setattr(Services, "stop", lambda self, now: None)


def services_are_stopped_while_other_tasks_want_them(patch):
    original = Services.stop

    def stop(self, now):
        tasks, self._state.tasks = self._state.tasks, {uid: self._state.tasks[uid] for uid in self._living()}
        original(self, now)
        self._state.tasks = {uid: task for uid, task in tasks.items() if uid in self._state.tasks or uid not in self._watched}

    patch.setattr(Services, "stop", stop)


def a_service_that_is_unwell_goes_on(patch):
    patch.setattr(Services, "unwell", lambda self, event: None)


def a_service_stays_ready_when_it_is_started_again(patch):
    original = state_module._leave_lane

    def leave(state, uid):
        info = state.services.get(uid)
        task = original(state, uid)
        if info is not None:
            state.services[uid] = info
        return task

    patch.setattr(state_module, "_leave_lane", leave)


def a_service_is_ready_whichever_attempt_answered(patch):
    def latest(state, event):
        task = state.tasks.get(event.service)
        return event if task is None else msgspec.structs.replace(event, attempt=task.attempt)

    change_event(patch, events.ServiceReady, latest)


def a_service_that_is_started_again_is_not_waited_for(patch):
    patch.setattr(Waiting, "_is_served", lambda self, uid: True)


def tasks_are_told_the_address_that_the_client_knew(patch):
    patch.setattr(dispatch_module, "told", lambda state, row: row)


def what_was_handed_over_stays_when_its_service_moves(patch):
    patch.setattr(Dispatch, "recall", lambda self, uids: None)


def only_what_was_handed_over_is_taken_back_when_its_service_moves(patch):
    dequeue = Waiting.dequeue
    patch.setattr(Waiting, "dequeue", lambda self, uid: uid in self.unserved and dequeue(self, uid))


def a_runner_that_did_not_hear_what_was_taken_back_is_trusted(patch):
    patch.setattr(Services, "mistrust", lambda self, runner: None)


def recovery_does_not_know_that_services_are_over(patch):
    original = Services.recover

    def recover(self):
        self._state.services_over.clear()
        original(self)

    patch.setattr(Services, "recover", recover)


def a_task_waits_on_when_its_service_is_ready_again(patch):
    patch.setattr(Services, "_go_on", lambda self, now, services: None)


def a_full_disk_is_no_reason_to_wait(patch):
    patch.setattr(Dispatch, "paused", property(lambda self: "", lambda self, reason: None), raising=False)


def lanes_are_refilled_while_the_disk_is_full(patch):
    original = Dispatch._draw

    def draw(self, pace, held):
        paused, self.paused = self.paused, ""
        drawn = original(self, pace, held)
        self.paused = paused
        return drawn

    patch.setattr(Dispatch, "_draw", draw)


def input_is_staged_while_the_disk_is_full(patch):
    original = Staging.stage_inputs

    def stage_inputs(self, uids):
        paused, self._dispatch.paused = self._dispatch.paused, ""
        original(self, uids)
        self._dispatch.paused = paused

    patch.setattr(Staging, "stage_inputs", stage_inputs)


def what_was_put_off_is_not_staged_when_there_is_room(patch):
    patch.setattr(Staging, "go_on", lambda self: None)


def only_input_that_was_put_off_is_staged_when_there_is_room(patch):
    original = Staging.go_on

    def go_on(self):
        put_off = self._endings.put_off
        self._endings.put_off = {uid: None for uid in put_off if uid in self._state.inputs}
        original(self)

    patch.setattr(Staging, "go_on", go_on)


def the_stagers_are_asked_to_give_up_what_was_put_off(patch):
    original = Endings.ask

    def ask(self, *arguments):
        put_off, self.put_off = self.put_off, {}
        original(self, *arguments)
        self.put_off = {uid: None for uid in put_off if uid in self._state.tasks}

    patch.setattr(Endings, "ask", ask)


def what_was_cancelled_before_it_was_put_off_waits_for_room(patch):
    original = Staging.ended

    def ended(self, event):
        give_up, self._endings.give_up = self._endings.give_up, lambda now, uids: None
        original(self, event)
        self._endings.give_up = give_up

    patch.setattr(Staging, "ended", ended)


def retries_are_for_any_failure(patch):
    def any_failure(template, failures, ending, exit_code):
        return runs_again(msgspec.structs.replace(template, retry_on=()), failures, ending, exit_code)

    patch.setattr(endings_module, "runs_again", any_failure)


def retries_are_not_for_exit_codes(patch):
    def words_only(template, failures, ending, exit_code):
        return runs_again(template, failures, ending, None)

    patch.setattr(endings_module, "runs_again", words_only)


def recovery_does_not_know_what_templates_want(patch):
    original = AgentCore.recover

    def recover(self, now):
        self._endings.learn = lambda templates: None
        original(self, now)
        del self._endings.learn

    patch.setattr(AgentCore, "recover", recover)


def a_barrier_is_forgotten_by_recovery(patch):
    original = AgentCore.recover

    def recover(self, now):
        self._waiting.barrier = 0
        original(self, now)

    patch.setattr(AgentCore, "recover", recover)


def what_is_cancelled_stays_behind_the_barrier(patch):
    original = Waiting.withdraw

    def withdraw(self, uid):
        if uid in self.barred:
            barred = dict(self.barred)
            original(self, uid)
            self.barred = barred
        else:
            original(self, uid)

    patch.setattr(Waiting, "withdraw", withdraw)


def a_pilot_is_idle_while_tasks_wait(patch):
    def look(self, now):
        if self._timeout_s and self._since is None and not self._state.lanes:
            self._since = now

    patch.setattr(Idleness, "look", look)


def what_came_too_late_is_answered(patch):
    def accepted(state, fact):
        ending, state.ending = state.ending, None
        apply(state, fact)
        state.ending = ending

    change_apply(patch, facts.TasksAccepted, accepted)


FAULTS = [
    a_barrier_is_forgotten_by_recovery,
    what_is_cancelled_stays_behind_the_barrier,
    a_pilot_is_idle_while_tasks_wait,
    what_came_too_late_is_answered,
    the_lane_is_not_left,
    closed_lanes_are_not_released,
    a_retry_ignores_the_cancel,
    retries_are_not_counted,
    a_reconnect_misses_nothing,
    an_attempt_is_numbered_again_after_a_return,
    a_late_end_is_taken_for_one_of_the_present_attempt,
    outcomes_are_numbered_twice,
    outcomes_are_forgotten_before_they_are_delivered,
    a_task_cancelled_in_a_lane_is_lost_when_it_comes_back,
    what_a_dead_runner_never_began_is_lost,
    what_is_about_to_be_launched_counts_as_handed_over,
    a_message_without_effect_is_not_logged,
    a_cancelled_task_still_waits,
    a_name_twice_in_a_cancel_counts_twice,
    recovery_takes_held_resources_for_free,
    recovery_forgets_who_waits,
    a_hello_is_not_noted,
    an_alarm_rings_for_a_later_attempt,
    a_timeout_shields_from_the_cancel,
    input_is_not_waited_for,
    output_is_not_wanted_of_anything,
    a_task_is_done_though_it_was_cancelled_while_its_output_was_staged,
    an_outcome_does_not_wait_for_the_output,
    staging_is_not_asked_for_again_after_a_restart,
    what_is_staged_is_let_into_the_queue_by_recovery,
    what_is_to_end_is_staged_all_the_same_after_a_restart,
    a_task_that_is_staged_ends_at_once,
    an_environment_is_not_waited_for,
    a_preparation_is_not_asked_for_again_after_a_restart,
    what_waits_for_an_environment_stays_when_it_is_cancelled,
    an_environment_that_cannot_be_had_is_waited_for,
    services_are_not_watched_after_a_restart,
    services_run_on_when_nothing_else_does,
    services_are_stopped_while_other_tasks_want_them,
    a_service_that_is_unwell_goes_on,
    a_service_stays_ready_when_it_is_started_again,
    a_service_is_ready_whichever_attempt_answered,
    a_service_that_is_started_again_is_not_waited_for,
    tasks_are_told_the_address_that_the_client_knew,
    what_was_handed_over_stays_when_its_service_moves,
    only_what_was_handed_over_is_taken_back_when_its_service_moves,
    a_runner_that_did_not_hear_what_was_taken_back_is_trusted,
    recovery_does_not_know_that_services_are_over,
    a_task_waits_on_when_its_service_is_ready_again,
    a_full_disk_is_no_reason_to_wait,
    lanes_are_refilled_while_the_disk_is_full,
    input_is_staged_while_the_disk_is_full,
    what_was_put_off_is_not_staged_when_there_is_room,
    only_input_that_was_put_off_is_staged_when_there_is_room,
    the_stagers_are_asked_to_give_up_what_was_put_off,
    what_was_cancelled_before_it_was_put_off_waits_for_room,
    retries_are_for_any_failure,
    retries_are_not_for_exit_codes,
    recovery_does_not_know_what_templates_want,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_catches_a_planted_fault(fault, monkeypatch):
    require_noticed(fault, monkeypatch, walk, BITES_WITHIN)
