"""A job that was begun again: the agent goes on from its log, on other nodes, without any runner of before."""

from __future__ import annotations

import msgspec
import pytest

from pilotage.agent.recovery import leave_nodes
from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.scheduling import make_policy
from pilotage.model.ids import Binding, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PolicySpec
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Row, Template

REASON = "begun again"


def nodes(count: int, cores: int, name: str = "n") -> list[Node]:
    return [Node(index, f"{name}{index}", NodeShape(cores, 0, 64, 64)) for index in range(count)]


class Pilot:
    """An agent's core, and its log."""

    def __init__(self, machine: list[Node], log: list[facts.Fact]) -> None:
        self.log = log
        state = AgentState()
        for fact in log:
            apply(state, fact)
        self.core = AgentCore(
            make_policy(PolicySpec(), machine), spawners=1, state=state, hosts=list(range(len(machine))) if machine[1:] else ()
        )
        self.core.recover(0.0)
        self.started: list[actions.StartRunner] = []
        self.launched: list[TaskUid] = []
        self.do(self.core.start(0.0))

    def do(self, step: Step) -> None:
        self.log += step.facts
        self.core.performed()
        for action in step.actions:
            if isinstance(action, actions.StartRunner):
                self.started.append(action)
            elif isinstance(action, actions.LaunchTasks):
                self.launched += [row.uid for lane in action.lanes for _, row in lane.tasks]

    def come_up(self) -> None:
        while self.started:
            runner = self.started.pop(0).runner
            self.do(self.core.handle(events.RunnerConnected(1.0, runner, 7, 7, "boot")))
            self.do(self.core.handle(events.RunnerReconciled(1.0, runner, [])))

    def submit(self, number: int, template: Template, *uids: str) -> None:
        rows = [Row(TaskUid(uid), TemplateId(number)) for uid in uids]
        batch = Batch({TemplateId(number): template}, rows)
        self.do(self.core.handle(events.TasksSubmitted(1.0, number, Binding(1), batch)))


def in_a_later_run(pilot: Pilot, before: list[Node], now: list[Node]) -> Pilot:
    """Return the pilot as the agent of a later run has it."""
    state = AgentState()
    for fact in pilot.log:
        apply(state, fact)
    noted = leave_nodes(state, PolicySpec(), before, list(range(len(before))), REASON)
    # What was noted in the state is what the log says.
    log = [*pilot.log, *noted]
    replayed = AgentState()
    for fact in log:
        apply(replayed, fact)
    assert msgspec.msgpack.encode(replayed) == msgspec.msgpack.encode(state)
    assert not state.runners and not state.lanes
    return Pilot(now, log)


@pytest.mark.parametrize(("count", "cores"), [(3, 4), (2, 16), (5, 4)])
def test_tasks_that_may_run_again_do_so_on_the_nodes_that_there_are(count: int, cores: int) -> None:
    before = nodes(3, 8)
    pilot = Pilot(before, [])
    pilot.come_up()
    wide = Template(executable="/bin/true", restartable=True, request=Request(ranks=2, ranks_per_node=1, cores=4))
    pilot.submit(1, wide, "again.0", "again.1", "again.2")
    pilot.submit(2, Template(executable="/bin/true", request=Request(cores=4)), "once.0")
    assert set(pilot.launched) >= {"again.0", "once.0"}
    began = list(pilot.launched)

    later = in_a_later_run(pilot, before, nodes(count, cores, "other"))
    later.come_up()
    assert set(later.launched) <= {"again.0", "again.1", "again.2"}
    assert "again.0" in later.launched
    assert later.core.state.tasks[TaskUid("again.0")].attempt == 2
    lost = [outcome for fact in later.log if isinstance(fact, facts.Ended) for outcome in fact.outcomes]
    assert [(outcome.task, outcome.ending) for outcome in lost] == [("once.0", Ending.LOST)]
    assert REASON in lost[0].message
    assert "once.0" in began


def test_nodes_that_were_lost_before_are_forgotten() -> None:
    before = nodes(3, 8)
    pilot = Pilot(before, [])
    pilot.come_up()
    pilot.do(pilot.core.handle(events.NodesLost(2.0, [1], "its host is gone")))
    assert list(pilot.core.state.lost_nodes) == [1]

    later = in_a_later_run(pilot, before, nodes(2, 8))
    later.come_up()
    later.submit(1, Template(executable="/bin/true", request=Request(ranks=2, ranks_per_node=1, cores=8)), "on both")
    assert later.launched == ["on both"]


def test_runners_that_never_came_up_do_not_end_the_pilot() -> None:
    before = nodes(8, 8)
    pilot = Pilot(before, [])
    assert len(pilot.started) == 8
    pilot.submit(1, Template(executable="/bin/true"), "task.0")
    later = in_a_later_run(pilot, before, nodes(1, 8))
    later.come_up()
    assert (set(later.launched), later.core.state.ending) == ({"task.0"}, None)
    assert RunnerId("spawner.0") not in later.core.state.runners
