"""An agent of several hosts: which runner gets what, hosts that are not up, and hosts that are lost."""

from __future__ import annotations

import msgspec
import pytest
from agent_builders import (
    EXECUTABLE,
    FUNCTION,
    connected,
    end,
    ended,
    executions,
    launched_by,
    nodes,
    outcomes_of,
    service,
    started,
    submitted,
    told_by,
    with_,
)

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.hosts import RESPAWN_MOST_S, SPAWNER_FAILURES, WORKER_FAILURES
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request

TWO = (0, 1)
BOTH_NODES = with_(EXECUTABLE, request=Request(ranks=2, cores=2))


class Cluster(AgentCore):
    """A core of several hosts whose actions are performed at once, as is what its runners are asked for."""

    def __init__(self, hosts: tuple[int, ...] = TWO, *, cores: int = 2, gpus: int = 0, **more: object) -> None:
        present = more.get("nodes") or None
        machine = nodes(len(hosts), cores, gpus)
        super().__init__(Scheduler(machine, present=present), spawners=1, hosts=hosts, **more)  # type: ignore[arg-type]
        self.begun: dict[RunnerId, actions.StartRunner] = {}

    def handle(self, event: events.Event) -> Step:
        step = super().handle(event)
        self.performed()
        for action in step.actions:
            if isinstance(action, actions.StartRunner):
                self.begun[action.runner] = action
        return step

    def come_up(self, *hosts: int, at: float = 0.0) -> Step:
        """Let the spawners of these hosts connect, who hold nothing; return what the last of them leads to."""
        step = Step([], [])
        for runner, action in list(self.begun.items()):
            if action.beside is None and action.host in hosts and runner in self.state.runners:
                step = self.handle_all([connected(runner, at=at), events.RunnerReconciled(at, runner, [])])
                self.performed()
        return step

    def runner_of(self, uid: str) -> RunnerId:
        return self.state.lanes[self.state.tasks[TaskUid(uid)].lane].runner

    def host_of(self, uid: str) -> int:
        return self.begun[self.runner_of(uid)].host

    def nodes_of(self, uid: str) -> list[int]:
        return [share.node for share in self.state.lanes[self.state.tasks[TaskUid(uid)].lane].placement]

    def lose(self, *runners: str, at: float = 5.0, came_up: bool = True) -> Step:
        step = Step([], [])
        for runner in runners:
            step = self.handle(events.RunnerLost(at, RunnerId(runner), "its host is gone"))
        return step


def cluster(hosts: tuple[int, ...] = TWO, **more: object) -> Cluster:
    """A core that has asked for its spawners."""
    core = Cluster(hosts, **more)  # type: ignore[arg-type]
    core.start(0.0)
    for action in told_by(core.handle(events.TimePassed(0.0)), actions.StartRunner):
        assert isinstance(action, actions.StartRunner)
    return core


def ready(hosts: tuple[int, ...] = TWO, **more: object) -> Cluster:
    """A core whose hosts are all up."""
    core = cluster(hosts, **more)
    core.come_up(*hosts)
    return core


def again(before: Cluster, hosts: tuple[int, ...] = TWO, **more: object) -> Cluster:
    """Another agent, from what the log of this one says; its runners have not said hello yet."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(before.state), type=AgentState)
    core = Cluster(hosts, state=state, **more)  # type: ignore[arg-type]
    core.begun = dict(before.begun)
    core.recover(9.0)
    core.start(9.0)
    return core


def test_spawners_are_started_on_each_host() -> None:
    core = Cluster((3, 3, 5))
    step = core.start(0.0)
    assert told_by(step, actions.StartRunner) == [
        actions.StartRunner(RunnerId("spawner.0"), None, {}, 3),
        actions.StartRunner(RunnerId("spawner.1"), None, {}, 5),
    ]
    assert [fact.node for fact in step.facts if isinstance(fact, facts.RunnerAdded)] == [0, 2]


def test_one_host_alone_is_given_tasks_before_it_is_up() -> None:
    core = cluster((4, 4))
    assert launched_by(core.handle(submitted(1, ["a"]))) == [("a", 1)]
    assert core.host_of("a") == 4


def test_tasks_go_to_hosts_that_are_up_and_do_not_wait_for_the_others() -> None:
    core = cluster()
    assert launched_by(core.handle(submitted(1, ["a", "b", "c", "d"]))) == []
    assert core.why(TaskUid("a")).endswith("nothing can be started for now on 2 nodes: node0, node1; 0 tasks are before it")
    assert core.summary()["nodes that are not up"] == ["node0", "node1"]
    assert launched_by(core.come_up(1)) == [("a", 1), ("b", 1)] and core.nodes_of("a") == core.nodes_of("b") == [1]
    assert "on 1 node: node0" in core.why(TaskUid("c"))
    core.come_up(0)
    assert core.nodes_of("c") == core.nodes_of("d") == [0] and core.host_of("c") == 0
    assert "nodes that are not up" not in core.summary()


def test_what_only_a_late_host_has_room_for_waits_for_it_alone() -> None:
    core = cluster()
    core.come_up(1)
    core.handle(submitted(1, ["wide"], BOTH_NODES))
    assert launched_by(core.handle(submitted(2, ["a"]))) == [("a", 1)]
    assert outcomes_of(core.handle(ended("spawner.1", 1, end("a")))) == [("a", Ending.DONE)]
    assert core.doing(TaskUid("wide")) == "waiting"
    core.come_up(0)
    assert sorted(core.nodes_of("wide")) == [0, 1]


def test_a_lane_goes_to_the_host_of_its_first_node() -> None:
    core = ready((7, 8))
    core.handle(submitted(1, ["wide"], BOTH_NODES))
    assert core.host_of("wide") == (7, 8)[core.nodes_of("wide")[0]]


def test_function_workers_are_started_beside_a_spawner_of_their_host_and_kept_for_it() -> None:
    core = ready(cores=1)
    core.handle(submitted(1, ["f", "g"], FUNCTION))
    for uid in "fg":
        runner = core.runner_of(uid)
        assert core.why(TaskUid(uid)).endswith(f"attempt 1; {runner} is not up yet on node{core.nodes_of(uid)[0]}")
        beside = core.begun[runner].beside
        assert beside is not None and core.begun[beside].host == core.begun[runner].host == core.nodes_of(uid)[0]
        core.handle(connected(runner))
    before = {core.nodes_of(uid)[0]: core.runner_of(uid) for uid in "fg"}
    for number, uid in ((1, "f"), (1, "g")):
        core.handle(ended(core.runner_of(uid), number, end(uid)))
    core.handle(submitted(2, ["h", "i"], FUNCTION))
    assert {core.nodes_of(uid)[0]: core.runner_of(uid) for uid in "hi"} == before


def test_without_its_only_spawner_a_host_gets_nothing_until_there_is_another() -> None:
    core = ready(cores=1)
    core.handle(submitted(1, ["a", "b", "c"]))
    core.lose("spawner.0")
    assert "c" in (uid for uid, task in core.state.tasks.items() if not task.lane)
    other = next(uid for uid, task in core.state.tasks.items() if task.lane)
    assert launched_by(core.handle(ended("spawner.1", 1, end(other)))) != []
    due = core.next_deadline()
    assert due is not None
    (start,) = told_by(core.handle(events.TimePassed(max(due, 6.0))), actions.StartRunner)
    assert isinstance(start, actions.StartRunner) and start.host == 0
    core.handle(submitted(2, ["d"]))
    assert not core.state.tasks[TaskUid("d")].lane
    assert launched_by(core.handle(connected(start.runner, at=7.0))) == [("d", 1)]


def test_what_runs_on_a_lost_node_and_others_is_ended_and_runs_again_if_it_may() -> None:
    core = ready((0, 1, 2))
    core.handle(submitted(1, ["wide"], with_(BOTH_NODES, restartable=True)))
    runner, (_, second) = core.runner_of("wide"), core.nodes_of("wide")
    core.handle(started(runner, "wide"))
    (asked,) = told_by(core.handle(events.NodesLost(3.0, [second], "it burnt down")), actions.EndExecutions)
    message = "one of its nodes was lost: it burnt down"
    assert asked == actions.EndExecutions(runner, executions(("wide", 1)), Ending.NODE_FAILED, message)
    assert f"one of its nodes was lost, node{second}" in core.why(TaskUid("wide"))
    assert core.summary()["lost nodes"] == [f"node{second}"]
    assert launched_by(core.handle(ended(runner, 1, end("wide", 1, Ending.NODE_FAILED)))) == [("wide", 2)]
    assert second not in core.nodes_of("wide")


def test_what_may_not_run_again_has_lost_its_node() -> None:
    core = ready((0, 1, 2))
    core.handle(submitted(1, ["wide"], BOTH_NODES))
    core.handle(events.NodesLost(3.0, [core.nodes_of("wide")[1]], "it burnt down"))
    runner = core.runner_of("wide")
    assert outcomes_of(core.handle(ended(runner, 1, end("wide", 1, Ending.NODE_FAILED)))) == [("wide", Ending.NODE_FAILED)]


def test_what_had_not_begun_on_a_lost_node_comes_back_and_its_spawner_is_not_shunned() -> None:
    core = ready((0, 1, 2))
    core.handle(submitted(1, ["wide"], BOTH_NODES))
    runner = core.runner_of("wide")
    core.handle(events.NodesLost(3.0, [core.nodes_of("wide")[1]], "it burnt down"))
    step = core.handle(events.TasksReturned(4.0, runner, executions(("wide", 1))))
    assert launched_by(step) == [("wide", 2)]
    assert runner in core._pool._load, "it was asked back, so the spawner is as good as before"


def test_a_result_that_was_under_way_counts() -> None:
    core = ready((0, 1, 2))
    core.handle(submitted(1, ["wide"], BOTH_NODES))
    core.handle(events.NodesLost(3.0, [core.nodes_of("wide")[1]], "it burnt down"))
    assert outcomes_of(core.handle(ended(core.runner_of("wide"), 1, end("wide")))) == [("wide", Ending.DONE)]


def test_another_agent_ends_what_runs_on_a_lost_node_as_soon_as_its_runner_is_back() -> None:
    core = ready((0, 1, 2))
    core.handle(submitted(1, ["wide"], BOTH_NODES))
    runner, first, second = core.runner_of("wide"), *core.nodes_of("wide")
    core.handle(events.NodesLost(3.0, [second], "it burnt down"))
    other = again(core, (0, 1, 2))
    other.handle(connected(runner, at=9.5))
    step = other.handle(events.RunnerReconciled(9.5, runner, executions(("wide", 1))))
    (asked,) = told_by(step, actions.EndExecutions)
    assert isinstance(asked, actions.EndExecutions)
    assert (asked.runner, asked.executions, asked.ending) == (runner, executions(("wide", 1)), Ending.NODE_FAILED)
    other.come_up(*({0, 1, 2} - {first}), at=10.0)
    other.handle(submitted(2, [f"t{number}" for number in range(9)]))
    used = {share.node for lane in other.state.lanes.values() for share in lane.placement if lane.template == 2}
    assert used == {0, 1, 2} - {first, second}, "nothing is placed on the lost node, nor beside what still runs"


def test_what_fits_nowhere_any_more_ends_when_it_comes_back() -> None:
    core = ready()
    core.handle(submitted(1, ["wide"], with_(BOTH_NODES, restartable=True)))
    runner, (first, second) = core.runner_of("wide"), core.nodes_of("wide")
    core.handle(submitted(2, ["busy"]))
    assert outcomes_of(core.handle(events.NodesLost(3.0, [second], "it burnt down"))) == []
    step = core.handle(ended(runner, 1, end("wide", 1, Ending.NODE_FAILED)))
    assert outcomes_of(step) == [("wide", Ending.INFEASIBLE)] and core.nodes_of("busy") == [first]


def test_what_waits_and_fits_nowhere_any_more_ends_with_the_node() -> None:
    core = cluster()
    core.handle(submitted(1, ["wide"], BOTH_NODES))
    assert outcomes_of(core.handle(events.NodesLost(3.0, [0], "it never came"))) == [("wide", Ending.INFEASIBLE)]


def test_the_pilot_ends_with_its_last_node_and_not_before() -> None:
    core = ready()
    core.handle(submitted(1, ["a"]))
    core.handle(events.NodesLost(3.0, [0], "it burnt down"))
    assert core.state.ending is None
    core.lose("spawner.1", at=4.0)
    step = core.handle(events.NodesLost(4.0, [1], "it was flooded"))
    assert core.state.ending is not None and core.state.ending.state == "FAILED"
    assert core.state.ending.reason == "no node is left; the last was lost: it was flooded"
    assert not told_by(step, actions.StartRunner) and core.finished == (not core.state.tasks)


def fail_spawners(core: Cluster, host: int, but: int = 0) -> list[facts.Fact]:
    """Let the spawners of this host end before they come up, until no more is started; return the facts of all that."""
    told: list[facts.Fact] = []
    for _ in range(SPAWNER_FAILURES - but):
        for runner, record in list(core.state.runners.items()):
            if core.begun[runner].host == host and not record.pid:
                told += core.handle(events.RunnerLost(1.0, runner, "exited with 1", 1)).facts
        due = core.next_deadline()
        if due is not None and core.state.ending is None:
            told += core.handle(events.TimePassed(max(due, 1.0))).facts
    return told


def test_a_host_whose_spawners_do_not_come_up_loses_its_nodes_and_the_others_go_on() -> None:
    core = cluster((0, 0, 1))
    core.come_up(1)
    core.handle(submitted(1, ["a", "b", "c"]))
    (lost,) = [fact for fact in fail_spawners(core, 0) if isinstance(fact, facts.NodesLost)]
    assert lost.nodes == [0, 1] and not lost.partition
    assert lost.reason == "5 spawners in a row did not come up on node0, node1: exited with 1"
    assert core.state.ending is None and core.next_deadline() is None, "no more is started there"
    assert core.nodes_of("a") == core.nodes_of("b") == [2]


def test_a_pilot_none_of_whose_hosts_comes_up_ends() -> None:
    core = cluster()
    core.handle(submitted(1, ["a"]))
    fail_spawners(core, 0)
    assert core.state.ending is None
    fail_spawners(core, 1)
    assert core.state.ending is not None and core.state.ending.state == "FAILED"
    assert core.state.ending.reason == "5 spawners in a row did not come up on node1: exited with 1"


def test_failures_of_one_host_are_not_those_of_another() -> None:
    core = cluster()
    fail_spawners(core, 0, but=2)
    fail_spawners(core, 1, but=2)
    assert not core.state.lost_nodes and core.state.ending is None
    core.come_up(1)
    fail_spawners(core, 0, but=SPAWNER_FAILURES - 2)
    assert list(core.state.lost_nodes) == [0]


def test_a_host_that_was_found_again_is_not_given_up_for_spawners_that_did_not_come_up() -> None:
    core = ready((0, 1))
    core.handle(submitted(1, ["a", "b", "c", "d"]))
    other = again(core)
    assert launched_by(other.handle(submitted(2, ["e"]))) == []
    fail_spawners(other, 0)
    assert not other.state.lost_nodes, "its spawner of before may still say hello"


def fail_workers(core: Cluster, *uids: str, host: int) -> list[tuple[str, Ending]]:
    """Let function workers of this host end before they come up while tasks are given to them; return the outcomes."""
    told: list[tuple[str, Ending]] = []
    for _ in range(WORKER_FAILURES):
        for uid in uids:
            if uid in core.state.tasks and core.state.tasks[TaskUid(uid)].lane and core.host_of(uid) == host:
                told += outcomes_of(core.handle(events.RunnerLost(2.0, core.runner_of(uid), "exited with 1", 1)))
    return told


def test_a_host_where_no_function_worker_comes_up_rests_while_they_do_on_others() -> None:
    core = ready(cores=1)
    core.handle(submitted(1, ["f", "g"], FUNCTION))
    well, ill = sorted("fg", key=lambda uid: core.host_of(uid) == 0)
    core.handle(connected(core.runner_of(well)))
    assert fail_workers(core, ill, host=0) == []
    core.handle(submitted(2, ["x"]))
    assert not core.state.tasks[TaskUid(ill)].lane and "on 1 node: node0" in core.why(TaskUid(ill))
    assert core.next_deadline() == 2.0 + RESPAWN_MOST_S
    again_at = WORKER_FAILURES + 1
    assert launched_by(core.handle(events.TimePassed(2.0 + RESPAWN_MOST_S))) == [(ill, again_at)], "the host has rested"


def test_where_no_function_worker_comes_up_at_all_functions_fail_to_launch() -> None:
    core = ready(cores=1)
    core.handle(submitted(1, ["f", "g"], FUNCTION))
    assert Ending.LAUNCH_FAILED in {ending for _, ending in fail_workers(core, "f", "g", host=0)}


def test_what_a_lost_host_was_about_to_call_is_called_elsewhere() -> None:
    core = ready(cores=WORKER_FAILURES + 2)
    uids = [f"f{number}" for number in range(2 * (WORKER_FAILURES + 2))]
    core.handle(submitted(1, uids, FUNCTION))
    there = [uid for uid in uids if core.host_of(uid) == 0]
    assert len(there) > WORKER_FAILURES
    workers = [core.runner_of(uid) for uid in there]
    assert outcomes_of(core.lose("spawner.0")) == []
    assert [outcomes_of(core.lose(runner)) for runner in workers] == [[]] * len(workers)
    core.handle(events.NodesLost(5.0, [0], "it burnt down"))
    assert {core.doing(TaskUid(uid)) for uid in there} == {"waiting"}


@pytest.mark.parametrize("in_job", [False, True])
@pytest.mark.parametrize("first", ["spawner", "workers"])
def test_calls_of_a_lost_host_go_on_elsewhere_whatever_of_it_is_told_first(first: str, in_job: bool) -> None:
    core = ready(cores=WORKER_FAILURES + 2, in_job=in_job)
    uids = [f"f{number}" for number in range(2 * (WORKER_FAILURES + 2))]
    core.handle(submitted(1, uids, FUNCTION))
    there = [uid for uid in uids if core.host_of(uid) == 0]
    workers = [core.runner_of(uid) for uid in there]
    assert len(workers) > WORKER_FAILURES
    told = outcomes_of(core.lose("spawner.0")) if first == "spawner" else []
    for worker in workers:
        told += outcomes_of(core.lose(worker))
    if first == "workers":
        told += outcomes_of(core.lose("spawner.0"))
    # As long as the spawner was not told as lost it was to start others in their place.
    for runner, record in list(core.state.runners.items()):
        if record.beside == "spawner.0" and not record.pid:
            told += outcomes_of(core.lose(runner))
    core.handle(events.NodesLost(5.0, [0], "it burnt down"))
    assert told == [] and {core.doing(TaskUid(uid)) for uid in there} == {"waiting"}


def test_function_workers_that_fail_at_a_time_count_as_one_and_in_the_end_functions_fail_to_launch() -> None:
    core = ready((0,), cores=WORKER_FAILURES + 2)
    uids = [f"f{number}" for number in range(WORKER_FAILURES + 2)]
    core.handle(submitted(1, uids, FUNCTION))
    for number in range(1, WORKER_FAILURES + 1):
        told: list[tuple[str, Ending]] = []
        for worker in [core.runner_of(uid) for uid in uids]:
            told += outcomes_of(core.lose(worker))
        assert sorted(told) == ([(uid, Ending.LAUNCH_FAILED) for uid in uids] if number == WORKER_FAILURES else [])


def test_what_had_not_come_up_with_an_earlier_agent_is_no_sign_that_nothing_does() -> None:
    core = ready((0,), cores=WORKER_FAILURES + 2)
    uids = [f"f{number}" for number in range(WORKER_FAILURES + 2)]
    core.handle(submitted(1, uids, FUNCTION))
    workers = [core.runner_of(uid) for uid in uids]
    other = again(core, (0,), cores=WORKER_FAILURES + 2)
    assert [outcomes_of(other.lose(runner)) for runner in workers] == [[]] * len(workers)
    assert {uid: task.attempt for uid, task in other.state.tasks.items()} == dict.fromkeys(uids, 2)


def test_functions_whose_workers_take_their_spawners_with_them_fail_to_launch() -> None:
    core = ready((0,), cores=1)
    core.handle(submitted(1, ["f"], FUNCTION))
    told: list[tuple[str, Ending]] = []
    for turn in range(WORKER_FAILURES):
        worker = core.runner_of("f")
        core.lose(core.begun[worker].beside or "", at=5.0 + turn)
        assert not told
        told = outcomes_of(core.lose(worker, at=5.0 + turn))
        for action in told_by(core.handle(events.TimePassed(5.9 + turn)), actions.StartRunner):
            assert isinstance(action, actions.StartRunner)
            if action.beside is None:
                core.handle(connected(action.runner, at=5.9 + turn))
    assert told == [("f", Ending.LAUNCH_FAILED)]


def test_a_call_of_a_worker_is_ended_with_the_other_node_of_its_lane() -> None:
    core = ready((0, 1, 2))
    core.handle(submitted(1, ["f"], with_(FUNCTION, request=Request(ranks=2, cores=2), restartable=True)))
    runner, second = core.runner_of("f"), core.nodes_of("f")[1]
    core.handle(connected(runner))
    core.handle(started(runner, "f"))
    assert told_by(core.handle(events.NodesLost(3.0, [second], "it burnt down")), actions.EndExecutions)
    # A call is ended with its worker, and another may have it.
    lost = events.RunnerLost(4.0, runner, "killed by signal 9", -9, executions(("f", 1))[0])
    assert launched_by(core.handle(lost)) == [("f", 2)]


def test_services_do_not_starve_others_while_hosts_are_missing() -> None:
    core = cluster(cores=1)
    core.come_up(0)
    core.handle(submitted(1, ["s"], service()))
    core.handle(started("spawner.0", "s"))
    core.handle(submitted(2, ["a"]))
    assert not core.starved, "a host is still to come"
    core.come_up(1)
    core.handle(submitted(3, ["b"]))
    core.handle(ended("spawner.1", 1, end("a")))
    core.handle(ended("spawner.1", 2, end("b")))
    core.handle(submitted(4, ["u", "v"], service()))
    assert core.starved


def test_a_partition_starts_spawners_on_hosts_of_nodes_that_it_is_given_and_stops_them_when_it_gives_these_back() -> None:
    core = Cluster((0, 1, 2), cores=1, nodes=(0,))
    (start,) = told_by(core.start(0.0), actions.StartRunner)
    assert isinstance(start, actions.StartRunner) and start.host == 0
    core.begun[start.runner] = start
    core.come_up(0)
    core.handle(submitted(1, ["a", "b"]))
    core.handle(events.NodesGranted(2.0, 2, [2]))
    due = core.next_deadline()
    assert due is not None
    (start,) = told_by(core.handle(events.TimePassed(2.0)), actions.StartRunner)
    assert isinstance(start, actions.StartRunner) and start.host == 2
    assert launched_by(core.handle(connected(start.runner, at=2.5))) == [("b", 1)]
    core.handle(ended(start.runner, 1, end("b")))
    step = core.handle(events.NodesReclaimed(3.0, 3, 7, 1))
    assert told_by(step, actions.StopRunner) == [actions.StopRunner(start.runner)]
    assert core.next_deadline() is None, "none is missing"


@pytest.mark.parametrize("restarted", [False, True])
def test_nodes_of_a_partition_that_are_lost_are_told_and_others_may_come(restarted: bool) -> None:
    core = Cluster((0, 1, 2), cores=1, nodes=(0, 1))
    core.start(0.0)
    step = core.handle(events.NodesLost(1.0, [0, 1, 2], "the rack burnt down"))
    assert facts.NodesLost(1.0, [0, 1], "the rack burnt down", partition=True) in step.facts
    assert core.state.ending is None
    if restarted:
        core = again(core, (0, 1, 2), cores=1, nodes=(0, 1))
    (sent,) = told_by(core.handle(events.LinkOpened(2.0)), actions.SendNodes)
    assert isinstance(sent, actions.SendNodes) and sent.nodes == [0, 1]


def test_a_partition_without_a_node_keeps_no_task() -> None:
    core = ready((0, 1, 2), nodes=(1, 2))
    core.handle(submitted(1, ["a", "b", "c", "d", "e"]))
    step = core.handle(events.NodesLost(4.0, [1], "it is gone"))
    assert outcomes_of(step) == [], "one is left, and the metascheduler may give it another"
    step = core.handle(events.NodesLost(5.0, [2], "it is gone"))
    refused = [uid for uid, ending in outcomes_of(step) if ending is Ending.INFEASIBLE]
    step = core.handle(submitted(2, ["late"], at=6.0))
    assert outcomes_of(step) == [("late", Ending.INFEASIBLE)]
    for runner in [*core.state.runners]:
        step = core.lose(runner, at=7.0)
    assert not core.state.tasks and "e" in refused
    assert core.state.ending is None, "it is told to end, or given a node, by its metascheduler"
