"""Gangs: tasks that start together or not at all, whatever becomes of them, of the pilot and of its agent."""

from __future__ import annotations

import msgspec
import pytest
from agent_builders import (
    EXECUTABLE,
    WITH_INPUT,
    again,
    cancelled,
    end,
    ended,
    executions,
    launched_by,
    not_staged,
    outcomes_of,
    ready_core,
    staged,
    submitted,
    told_by,
    with_,
)
from agent_world_gangs import gang_walk

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.gangs import Gangs
from pilotage.core.agent.waiting import Waiting
from pilotage.model.ids import Binding, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.workload import Batch, Row, Template
from planted_faults import Patch, require_noticed

SPAWNER = RunnerId("spawner.0")


def member(size: int, cores: int = 1, gang: str = "g", **changes: object) -> Template:
    return with_(EXECUTABLE, request=Request(cores=cores, gang=gang, gang_size=size), **changes)


def messages(core: AgentCore) -> dict[str, str]:
    """What is said of the outcomes that are under way, by task."""
    outcomes = [*core.state.unsent, *(outcome for some in core.state.undelivered.values() for outcome in some)]
    return {outcome.task: outcome.message for outcome in outcomes}


def test_members_that_come_one_by_one_are_launched_in_one_step() -> None:
    core = ready_core(cores=4)
    assert launched_by(core.handle(submitted(1, ["a", "b"], member(3)))) == []
    assert core.why(TaskUid("a")) == "starts together with the other tasks of gang 'g': 2 of 3 wait here, 1 is missing"
    step = core.handle(submitted(2, ["c"], member(3, cores=2)))
    assert sorted(launched_by(step)) == [("a", 1), ("b", 1), ("c", 1)]
    assert sum(isinstance(fact, facts.LaunchRequested) for fact in step.facts) == 1


def test_they_wait_for_room_for_all() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["before"], with_(EXECUTABLE, request=Request(cores=2))))
    assert launched_by(core.handle(submitted(2, ["a", "b", "c"], member(3)))) == []
    step = core.handle(ended("spawner.0", 1, end("before")))
    assert sorted(launched_by(step)) == [("a", 1), ("b", 1), ("c", 1)]


def test_a_member_whose_input_is_staged_is_waited_for() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a"], member(2)))
    assert launched_by(core.handle(submitted(2, ["b"], member(2), extra=WITH_INPUT))) == []
    assert sorted(launched_by(core.handle(staged("input", "b")))) == [("a", 1), ("b", 1)]


def test_a_member_that_is_cancelled_before_they_begin_ends_all() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a", "b"], member(3)))
    step = core.handle(cancelled(2, "a"))
    assert outcomes_of(step) == [("a", Ending.CANCELLED), ("b", Ending.CANCELLED)]
    assert messages(core)["b"] == "its gang 'g' cannot begin, as task 'a' ended before: cancelled by the user"
    step = core.handle(submitted(3, ["c"], member(3)))
    assert (outcomes_of(step), launched_by(step)) == ([("c", Ending.CANCELLED)], [])
    assert "'a'" in messages(core)["c"]


def test_one_that_is_refused_ends_all_with_its_reason() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a"], member(2)))
    step = core.handle(submitted(2, ["b"], member(2, cores=5)))
    assert outcomes_of(step) == [("b", Ending.INFEASIBLE), ("a", Ending.CANCELLED)]
    assert "5 cores per rank exceed the 4 cores of a node" in messages(core)["a"]


def test_one_whose_input_cannot_be_staged_ends_all() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a"], member(2)))
    core.handle(submitted(2, ["b"], member(2), extra=WITH_INPUT))
    step = core.handle(not_staged("input", "b", "no such file"))
    assert outcomes_of(step) == [("b", Ending.STAGING_FAILED), ("a", Ending.CANCELLED)]
    assert "no such file" in messages(core)["a"]


def test_one_whose_input_is_being_staged_ends_when_the_stagers_are_done_with_it() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a"], member(2)))
    core.handle(submitted(2, ["b"], member(2), extra=WITH_INPUT))
    step = core.handle(cancelled(3, "a"))
    assert told_by(step, actions.EndStaging) == [actions.EndStaging([TaskUid("b")])]
    assert outcomes_of(core.handle(staged("input", "b"))) == [("b", Ending.CANCELLED)]


def test_what_fits_one_by_one_and_not_together_is_infeasible_at_once() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["before"]))
    step = core.handle(submitted(2, ["a", "b"], member(2, cores=3)))
    assert outcomes_of(step) == [("a", Ending.INFEASIBLE), ("b", Ending.INFEASIBLE)]
    assert "do not fit on the nodes of this pilot at once" in messages(core)["a"]
    assert core.next_deadline() is None


def test_members_that_began_are_on_their_own() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a", "b", "c"], member(3)))
    step = core.handle(cancelled(2, "a"))
    assert told_by(step, actions.EndExecutions) != []
    core.handle(ended("spawner.0", 1, end("a", ending=Ending.CANCELLED)))
    step = core.handle(ended("spawner.0", 2, end("b"), end("c")))
    assert outcomes_of(step) == [("b", Ending.DONE), ("c", Ending.DONE)]


def test_one_that_its_runner_gave_back_is_started_alone() -> None:
    core = ready_core(cores=4, spawners=2)
    core.handle(submitted(1, ["a", "b", "c"], member(3)))
    runner = core.state.lanes[core.state.tasks[TaskUid("b")].lane].runner
    step = core.handle(events.TasksReturned(3.0, runner, executions(("b", 1))))
    assert launched_by(step) == [("b", 2)]


def test_one_that_its_runner_gave_back_ends_alone() -> None:
    core = ready_core(cores=3)
    core.handle(submitted(1, ["a", "b", "c"], member(3)))
    core.handle(submitted(2, ["high"], with_(EXECUTABLE, priority=1)))
    core.handle(events.TasksReturned(3.0, SPAWNER, executions(("b", 1))))
    assert core.doing(TaskUid("b")) == "waiting"
    assert outcomes_of(core.handle(cancelled(3, "b"))) == [("b", Ending.CANCELLED)]
    assert core.state.gangs_over == {}


def test_another_agent_lets_those_that_wait_go_on_together() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a", "b"], member(3)))
    core, step = again(core, cores=4)
    assert launched_by(step) == []
    assert sorted(launched_by(core.handle(submitted(2, ["c"], member(3))))) == [("a", 1), ("b", 1), ("c", 1)]


def test_another_agent_starts_the_one_that_was_given_back_alone() -> None:
    core = ready_core(cores=3)
    core.handle(submitted(1, ["a", "b", "c"], member(3)))
    core.handle(submitted(2, ["high"], with_(EXECUTABLE, priority=1)))
    core.handle(events.TasksReturned(3.0, SPAWNER, executions(("b", 1))))
    core, _ = again(core, cores=3)
    assert launched_by(core.handle(ended("spawner.0", 1, end("high")))) == [("b", 2)]


def test_another_agent_ends_those_of_a_gang_that_was_over() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a", "b"], member(3)))
    core.state.gangs_over["g"] = "as the last agent wrote before it died"
    core, step = again(core, cores=4)
    assert outcomes_of(step) == [("a", Ending.CANCELLED), ("b", Ending.CANCELLED)]


def test_the_log_never_has_the_end_of_a_member_without_that_of_its_gang() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a", "b"], member(3)))
    kinds = [type(fact) for fact in core.handle(cancelled(2, "a")).facts]
    assert kinds.index(facts.GangOver) < kinds.index(facts.Ended)


def test_a_pilot_that_is_to_end_waits_for_no_members_that_cannot_come() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a", "b"], member(3)))
    core.handle(submitted(2, ["c", "d"], member(2, gang="all here")))
    core.handle(submitted(3, ["x"], member(1, gang="alone")))
    step = core.handle(events.EndRequested(2.0, 4, True, "enough"))
    assert outcomes_of(step) == [("a", Ending.INFEASIBLE), ("b", Ending.INFEASIBLE)]
    assert "1 of its 3 tasks had not come" in messages(core)["a"]


def test_a_member_that_is_staged_when_the_pilot_is_to_end_is_still_waited_for() -> None:
    core = ready_core(cores=4)
    core.handle(submitted(1, ["a"], member(2)))
    core.handle(submitted(2, ["b"], member(2), extra=WITH_INPUT))
    assert outcomes_of(core.handle(events.EndRequested(2.0, 3, True, "enough"))) == []
    assert sorted(launched_by(core.handle(staged("input", "b")))) == [("a", 1), ("b", 1)]


def test_members_that_come_in_turns_with_others_wait_together() -> None:
    core = ready_core(cores=4)
    templates = {TemplateId(1): EXECUTABLE, TemplateId(2): member(2, cores=2)}
    rows = [Row(TaskUid(uid), TemplateId(number)) for uid, number in (("x", 1), ("a", 2), ("y", 1), ("b", 2))]
    step = core.handle(events.TasksSubmitted(1.0, 1, Binding(1), Batch(templates, rows)))
    assert sorted(launched_by(step)) == [("x", 1), ("y", 1)]
    assert sorted(launched_by(core.handle(ended("spawner.0", 1, end("x"), end("y"))))) == [("a", 1), ("b", 1)]


def test_lost_nodes_end_a_gang_that_fits_no_more() -> None:
    core = ready_core(count=2, cores=2)
    core.handle(submitted(1, ["before"], with_(EXECUTABLE, request=Request(ranks=4))))
    core.handle(submitted(2, ["a", "b"], member(2, cores=2)))
    step = core.handle(events.NodesLost(2.0, [1]))
    assert {uid for uid, _ in outcomes_of(step)} >= {"a", "b"}


def test_old_snapshots_know_of_no_gangs() -> None:
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode([1, 2]), type=Request)
    assert (decoded.cores, decoded.gang, decoded.gang_size) == (2, "", 0)


@pytest.mark.parametrize("count", [1500])
def test_a_gang_larger_than_one_step_is_not_cut(count: int) -> None:
    core = ready_core(count=count // 4, cores=4)
    uids = [f"t{number}" for number in range(count)]
    step = core.handle(submitted(1, uids, member(count)))
    assert len(launched_by(step)) == count


# -------------------------------------------------------------------------------------------------------------- random walks


@pytest.mark.parametrize("seeds", [range(start, start + 20) for start in (0, 20, 40)], ids=str)
def test_gangs_begin_as_a_whole_or_not_at_all_whatever_dies(seeds: range) -> None:
    worlds = [gang_walk(seed) for seed in seeds]
    assert sum(len(world.whole) for world in worlds) > 10, "gangs that began"
    assert sum(len(world.core.state.gangs_over) for world in worlds) > 20, "gangs that could not begin"
    assert sum(world.deaths for world in worlds) > 20


def those_that_were_given_back_wait_for_their_gang(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Waiting, "_enqueue_begun", lambda self, uids, template, now: list(uids))


def members_go_alone_from_the_beginning(patch: pytest.MonkeyPatch) -> None:
    def enqueue_begun(self: Waiting, uids: list[TaskUid], template: TemplateId, now: float) -> list[TaskUid]:
        group = self.group(template)
        alone = msgspec.structs.replace(group.request, gang_size=1)
        self._policy.enqueue_many(uids, msgspec.structs.replace(group, request=alone), now)
        return []

    patch.setattr(Waiting, "_enqueue_begun", enqueue_begun)


def the_others_are_not_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Endings, "_note_gangs", lambda self, now, outcomes: None)


def nobody_looks_who_is_missing_at_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gangs, "_end_incomplete", lambda self, now: None)


@pytest.mark.parametrize(
    "fault",
    [
        those_that_were_given_back_wait_for_their_gang,
        members_go_alone_from_the_beginning,
        the_others_are_not_ended,
        nobody_looks_who_is_missing_at_the_end,
    ],
    ids=lambda fault: str(fault.__name__),
)
def test_the_walks_catch(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, gang_walk, 100)
