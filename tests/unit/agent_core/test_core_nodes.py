"""An agent of a partition: nodes that come and go, and tasks that have a past in another partition."""

from __future__ import annotations

import msgspec
import pytest
from agent_builders import EXECUTABLE, connected, end, ended, launched_by, nodes, outcomes_of, submitted, with_

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.hosts import RESPAWN_MOST_S, RESPAWN_S, SPAWNER_FAILURES
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import LOST_NODES, Load
from pilotage.model.resources import Request
from pilotage.model.workload import Extra

ALL = nodes(4, cores=1)
FIRST = (0, 1)


def core(first: tuple[int, ...] = FIRST, state: AgentState | None = None) -> AgentCore:
    """An agent of a partition of a pilot of four nodes of one core."""
    made = AgentCore(Scheduler(ALL, present=first), spawners=1, state=state, nodes=first)
    if state is not None:
        made.recover(9.0)
    made.start(0.0)
    made.handle(connected("spawner.0"))
    held = [(uid, task.attempt) for uid, task in made.state.tasks.items() if task.lane]
    made.handle(events.RunnerReconciled(0.0, RunnerId("spawner.0"), held))
    return made


def again(before: AgentCore) -> AgentCore:
    """Another agent, from what the log of this one says."""
    return core(state=msgspec.msgpack.decode(msgspec.msgpack.encode(before.state), type=AgentState))


def used(made: AgentCore) -> list[int]:
    """The nodes on which lanes are open."""
    return sorted(share.node for lane in made.state.lanes.values() for share in lane.placement)


def used_by(made: AgentCore, uid: str) -> list[int]:
    """The nodes of the lane that has this task."""
    return [share.node for share in made.state.lanes[made.state.tasks[TaskUid(uid)].lane].placement]


def granted(number: int, *indices: int) -> events.NodesGranted:
    return events.NodesGranted(2.0, number, list(indices))


def reclaimed(number: int, count: int, reclaim: int = 7) -> events.NodesReclaimed:
    return events.NodesReclaimed(3.0, number, reclaim, count)


def test_tasks_run_on_the_nodes_of_the_partition_and_on_those_that_it_is_given() -> None:
    made = core()
    made.handle(submitted(1, ["a", "b", "c"]))
    assert used(made) == [0, 1]
    step = made.handle(granted(2, 3))
    assert step.facts[0] == facts.NodesGranted(2.0, 2, [3]) and launched_by(step) == [("c", 1)]
    assert used(made) == [0, 1, 3]
    assert made.handle(granted(2, 3)).facts == [], "it is told once"


def test_idle_nodes_are_given_back_the_last_first() -> None:
    made = core((0, 1, 2, 3))
    made.handle(submitted(1, ["a"]))
    step = made.handle(reclaimed(2, 2))
    assert step.facts == [facts.NodesReturned(3.0, 2, 7, [3, 2])]
    assert made.has_news
    step = made.handle(events.LinkOpened(4.0))
    assert step.actions == [actions.SendNodes(1, 7, [3, 2])]
    made.handle(events.OutcomesReceived(5.0, 1))
    assert not made.state.undelivered_nodes
    made.handle(submitted(3, ["b", "c", "d"]))
    assert used(made) == [0, 1], "the others are not its own any more"


def test_what_cannot_be_given_back_is_answered_too() -> None:
    made = core()
    made.handle(submitted(1, ["a", "b"]))
    assert made.handle(reclaimed(2, 2)).facts == [facts.NodesReturned(3.0, 2, 7, [])]


def test_a_node_that_a_task_needs_stays() -> None:
    made = core((0, 1, 2, 3))
    made.handle(events.StorageFilled(0.5, "full"))
    made.handle(submitted(1, ["wide"], with_(EXECUTABLE, request=Request(ranks=3))))
    assert made.handle(reclaimed(2, 4)).facts == [facts.NodesReturned(3.0, 2, 7, [3])]
    assert launched_by(made.handle(events.StorageFreed(4.0))) == [("wide", 1)]
    assert used(made) == [0, 1, 2]


def test_another_agent_knows_which_nodes_are_its_own() -> None:
    made = core()
    made.handle(granted(1, 3))
    made.handle(submitted(2, ["a", "b"]))
    assert used(made) == [0, 1]
    made.handle(reclaimed(3, 1))
    made.handle(granted(4, 2))
    made.handle(ended("spawner.0", 1, end("b")))
    (busy,), (idle,) = used(made), [node for node in FIRST if node not in used(made)]
    made.handle(reclaimed(5, 2, reclaim=8))
    another = again(made)
    assert another.state.unsent_nodes == [(7, [3]), (8, [2, idle])]
    another.handle(submitted(6, ["c", "d"]))
    assert used(another) == [busy], "one of the first was given back, and what was granted, too"
    another.handle(granted(7, idle))
    assert used(another) == [0, 1]


def test_lost_nodes_are_told_like_nodes_that_are_given_back() -> None:
    made = core()
    made.handle(granted(1, 3))
    lost = events.NodesLost(4.0, [1, 2, 3])
    assert made.handle(lost).facts == [facts.NodesLost(4.0, [1, 3])], "node 2 is another's"
    assert made.handle(lost).facts == [], "it is told once"
    for one in (made, again(made)):
        assert one.handle(events.LinkOpened(5.0)).actions == [actions.SendNodes(1, LOST_NODES, [1, 3])]
        one.handle(submitted(2, ["a", "b"]))
        assert used(one) == [0]
        assert one.handle(reclaimed(3, 3)).facts == [facts.NodesReturned(3.0, 3, 7, [])], "what is lost is not given back"


def test_a_task_ends_on_a_node_that_is_lost_before_and_after_another_agent() -> None:
    made = core()
    made.handle(submitted(1, ["a", "b", "c"]))
    made.handle(events.NodesLost(4.0, [0]))
    other = again(made)
    for one in (made, other):
        (there,) = [uid for uid, task in one.state.tasks.items() if task.lane and used_by(one, uid) == [0]]
        assert launched_by(one.handle(ended("spawner.0", 1, end(there)))) == [], "nothing more is placed there"
        (left,) = [uid for uid, task in one.state.tasks.items() if task.lane]
        assert launched_by(one.handle(ended("spawner.0", 2, end(left)))) == [("c", 1)]
        assert used(one) == [1]


def test_a_pilot_without_partitions_tells_nobody_of_lost_nodes() -> None:
    made = AgentCore(Scheduler(ALL), spawners=1)
    made.start(0.0)
    made.handle(connected("spawner.0"))
    lost = events.NodesLost(4.0, [0, 1, 2], "it burnt down")
    assert made.handle(lost).facts == [facts.NodesLost(4.0, [0, 1, 2], "it burnt down", partition=False)]
    assert not made.has_news and made.handle(lost).facts == [], "it is noted once"
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(made.state), type=AgentState)
    another = AgentCore(Scheduler(ALL), spawners=1, state=state)
    another.recover(5.0)
    for one in (made, another):
        one.start(5.0)
        one.handle(submitted(1, ["a", "b"]))
        assert used(one) == [3]


def test_an_end_is_told_behind_the_nodes_that_are_given_back() -> None:
    made = core()
    made.handle(reclaimed(1, 1))
    made.handle(events.EndRequested(4.0, 2, True, "retired"))
    assert made.handle(events.LinkOpened(5.0)).actions == [actions.SendNodes(1, 7, [1])]
    assert made.handle(events.LinkOpened(5.0)).actions == [actions.SendPilotEnded(2, "DONE", "retired")]


def test_attempts_count_on_from_another_partition() -> None:
    made = core()
    template = with_(EXECUTABLE, retries=2)
    step = made.handle(submitted(1, ["t"], template, extra=Extra(attempts=4, failures=1)))
    assert launched_by(step) == [("t", 5)]
    assert launched_by(made.handle(ended("spawner.0", 1, end("t", 5, Ending.EXITED)))) == [("t", 6)]
    assert outcomes_of(made.handle(ended("spawner.0", 2, end("t", 6, Ending.EXITED)))) == [("t", Ending.EXITED)]


@pytest.mark.parametrize(("uids", "load"), [([], (0, 2, 2)), (["a"], (0, 1, 1)), (["a", "b", "c"], (1, 0, 0))])
def test_a_partition_tells_how_busy_it_is(uids: list[str], load: tuple[int, int, int]) -> None:
    made = core()
    made.handle(submitted(1, uids))
    told = made.load()
    assert isinstance(told, Load)
    assert (told.waiting, told.idle_nodes, told.free_cores) == load and told.waiting_cores == told.waiting


def spawners_fail(made: AgentCore, *, but: str = "") -> list[object]:
    """Let all spawners that are started end before they come up, until no more is started soon; return the last facts."""
    last: list[object] = []
    for _ in range(SPAWNER_FAILURES + 3):
        due = made.next_deadline()
        if due is not None and made.state.ending is None:
            made.handle(events.TimePassed(due))
        for runner, record in list(made.state.runners.items()):
            if runner != but and not record.pid:
                last = [*made.handle(events.RunnerLost(due or 0.0, runner, "exited with 1", 1)).facts] or last
                if made.state.ending is not None:
                    return last
    return last


def test_nodes_whose_spawners_do_not_come_up_any_more_are_lost_and_the_partition_ends() -> None:
    made = core()
    made.handle(submitted(1, ["a"]))
    made.handle(events.RunnerLost(2.0, RunnerId("spawner.0"), "was killed by signal 9", -9))
    last = spawners_fail(made)
    (lost,) = [fact for fact in last if isinstance(fact, facts.NodesLost)]
    assert lost.nodes == list(FIRST) and used(made) == []
    assert made.state.ending is not None and made.state.ending.state == "FAILED"
    assert made.state.ending.reason == "5 spawners in a row did not come up: exited with 1"


def test_a_node_with_a_spawner_that_works_is_not_lost_and_others_are_tried_less_and_less_often() -> None:
    made = AgentCore(Scheduler(nodes(cores=2)), spawners=2)
    made.start(0.0)
    made.handle(connected("spawner.0"))
    spawners_fail(made, but="spawner.0")
    assert made.state.ending is None
    due = made.next_deadline()
    assert due is not None
    (started,) = [action for action in made.handle(events.TimePassed(due)).actions if isinstance(action, actions.StartRunner)]
    made.handle(events.RunnerLost(due, started.runner, "exited with 1", 1))
    again_at = made.next_deadline()
    assert again_at is not None and RESPAWN_S < again_at - due <= RESPAWN_MOST_S
    made.handle(events.TimePassed(again_at))
    (last,) = [runner for runner, record in made.state.runners.items() if not record.pid]
    made.handle(connected(last))
    made.handle(events.RunnerLost(again_at + 1.0, last, "was killed by signal 9", -9))
    due = made.next_deadline()
    assert due is not None and due <= again_at + 1.0, "one that came up is replaced at once"
