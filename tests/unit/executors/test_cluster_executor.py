"""Tasks on hosts of nodes whose hosts, connections and agents are lost. Hosts are processes of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from breakable import BreakableWay
from cluster_support import Cluster

from pilotage.errors import BackendError, InvariantViolated
from pilotage.executors import cluster as cluster_module
from pilotage.executors import host_starts
from pilotage.executors.hosts import HostsEnded
from pilotage.executors.lobby import HostLobby
from pilotage.executors.orphans import end_orphans, end_runners, marks_of, orphans, runners_of
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Row, Template
from pilotage.system.processes import boot_id
from pilotage.testing.contracts.executors import DEADLINE_S, LONG, SHORT, Agent, KnownRunner
from pilotage.testing.host_processes import HostProcesses
from pilotage.wire.addresses import HERE

TEMPLATES = {SHORT: Template(executable="/bin/true"), LONG: Template(executable="/bin/sleep", grace_s=0.2)}
FIRST, SECOND, THIRD = (RunnerId(f"spawner.{number}") for number in range(3))


class Crowd:
    """A cluster and its agent; at the end nothing is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster: Cluster | None = None
        self.agent: Agent | None = None

    def begin(
        self,
        count: int,
        *,
        all_gone: bool = False,
        breakable: bool = False,
        orphan_timeout_s: float = 60.0,
        on_demand: Sequence[int] | None = None,
        **patience: float,
    ) -> Agent:
        """Start an agent, and a spawner on each of so many hosts, or on these alone."""
        self.cluster = Cluster(
            self.folder, count, all_gone=all_gone, orphan_timeout_s=orphan_timeout_s, on_demand=on_demand is not None
        )
        self.cluster.breakable = breakable
        agent = self.agent = Agent(self.cluster.executor(**patience), TEMPLATES, ("1000",))
        agent.start()
        if on_demand is not None:
            self.start_at_once({number: f"spawner.{number}" for number in on_demand})
            return agent
        for agent.host in range(count):
            agent.start_runner(RunnerId(f"spawner.{agent.host}"))
        return agent

    def start_at_once(self, runners: Mapping[int, str]) -> None:
        """Start spawners of these names on these hosts, in one step of the agent's."""
        assert self.agent is not None
        for number, name in runners.items():
            self.agent.executor.start_runner(RunnerId(name), None, {}, number)

    def next_agent(self, **patience: float) -> Agent:
        """Have another agent in place of one that died."""
        assert self.cluster is not None and self.agent is not None
        before = self.agent
        before.executor.leave()
        agent = self.agent = Agent(self.cluster.executor(**patience), TEMPLATES, ("1000",))
        known = {}
        for name, runner in before.told.connected.items():
            node = int(name.rpartition(".")[2])
            known[name] = KnownRunner(None, runner.pid, runner.started_ticks, runner.boot_id, before.released(name), node)
        agent.start(known)
        return agent

    @property
    def way(self) -> BreakableWay:
        """Between the agent and all its hosts."""
        assert self.cluster is not None
        return self.cluster.ways[-1]

    @property
    def starter(self) -> HostProcesses:
        assert self.cluster is not None
        return self.cluster.starter

    def launch_on(self, host: int, *names: str, runner: str = "") -> list[Execution]:
        """Launch tasks that run until they are ended."""
        assert self.agent is not None
        self.agent.host = host
        return self.agent.launch(*names, template=LONG, runner=RunnerId(runner or f"spawner.{host}"))

    def is_there(self, execution: Execution, host: int) -> None:
        """See that a long task still runs, under an agent that may end it."""
        assert self.agent is not None
        self.agent.executor.end(RunnerId(f"spawner.{host}"), [execution], Ending.CANCELLED, "seen enough")
        self.agent.until(lambda: execution in self.agent.told.ended)
        assert self.agent.told.ended[execution].ending is Ending.CANCELLED

    def runs(self, host: int) -> bool:
        """Tell whether anything of a host's tasks or runners is there."""
        assert self.cluster is not None
        settings = self.cluster.settings
        marked = marks_of("", self.cluster.names[host])
        folders = (self.folder / self.cluster.names[host]).glob("pilotage-*/*")
        return bool(orphans(settings.session, settings.pilot, (), marked=marked)) or any(map(runners_of, folders))

    def close(self) -> None:
        if self.agent is not None:
            self.agent.executor.close(0.2)
        assert self.cluster is not None
        for way in self.cluster.ways:
            way.close()
        left = [host for host in range(len(self.cluster.names)) if self.runs(host)]
        for folder in self.folder.glob("node*/pilotage-*/*"):
            end_runners(folder, 0.0, DEADLINE_S)
        end_orphans(self.cluster.settings.session, self.cluster.settings.pilot, (), DEADLINE_S)
        assert not left, f"something is left of hosts {left}"


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    monkeypatch.setattr(cluster_module, "PING_S", 0.2)
    folder = Path(tempfile.mkdtemp(prefix="pilotage-"))
    crowd = Crowd(folder)
    try:
        yield crowd
        crowd.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what comes without the agent."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "it does not come to that"
        time.sleep(0.01)


def test_a_killed_host_is_started_again_and_what_ran_is_adopted(crowd: Crowd) -> None:
    agent = crowd.begin(2, away_s=0.1)
    (here,) = crowd.launch_on(0, "here")
    (there,) = crowd.launch_on(1, "there")
    agent.until(lambda: {here, there} <= agent.told.started.keys())
    agent.told.reconciled.clear()
    crowd.starter.kill("node1")
    agent.until(lambda: SECOND in agent.told.reconciled)
    assert crowd.starter.started[1:] == [("node1",)]
    assert agent.told.reconciled == {SECOND: [there]}
    assert not agent.told.lost
    crowd.is_there(there, 1)
    crowd.is_there(here, 0)
    (again,) = agent.launch("again", runner=SECOND)
    agent.until(lambda: again in agent.told.ended)


def test_what_is_launched_while_a_host_is_away_waits_for_it(crowd: Crowd) -> None:
    agent = crowd.begin(1, away_s=0.1)
    (running,) = crowd.launch_on(0, "running")
    agent.until(lambda: running in agent.told.started)
    crowd.starter.kill("node0")
    agent.until(lambda: not agent.executor._by_name["node0"].is_connected)  # type: ignore[attr-defined]
    agent.told.reconciled.clear()
    (late,) = agent.launch("late", template=SHORT, runner=FIRST)
    agent.executor.start_runner(SECOND, None, {}, 0)
    (other,) = agent.launch("other", template=SHORT, runner=SECOND)
    agent.until(lambda: {late, other} <= agent.told.ended.keys())
    assert set(agent.told.reconciled[FIRST]) >= {running}
    crowd.is_there(running, 0)


def test_when_a_step_ends_with_all_it_had_started_its_runners_are_lost_at_once(crowd: Crowd) -> None:
    agent = crowd.begin(2, all_gone=True)
    executions = crowd.launch_on(0, "first") + crowd.launch_on(1, "second")
    agent.until(lambda: set(executions) <= agent.told.started.keys())
    for name in ("node0", "node1"):
        crowd.starter.kill(name)
    agent.until(lambda: {FIRST, SECOND} <= agent.told.lost.keys())
    assert "lost nodes" not in " ".join(agent.told.story), "another step may serve them"
    agent.host = 1
    agent.start_runner(THIRD)
    (execution,) = agent.launch("after", runner=THIRD)
    agent.until(lambda: execution in agent.told.ended)
    assert set(crowd.starter.started[-1]) <= {"node0", "node1"}


def test_a_host_whose_steps_keep_ending_is_given_up_with_its_nodes(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_starts, "START_PAUSES_S", (0.0,))
    agent = crowd.begin(1, all_gone=True)
    crowd.starter.kill("node0")
    agent.until(lambda: len(crowd.starter.started) == 2)
    crowd.starter.kill("node0")
    agent.until(lambda: "lost nodes [0]" in agent.told.story)
    assert agent.told.story[-2:] == [f"lost {FIRST}", "lost nodes [0]"] or agent.told.story.index(
        f"lost {FIRST}"
    ) < agent.told.story.index("lost nodes [0]")
    agent.executor.start_runner(SECOND, None, {}, 0)
    (execution,) = agent.launch("nowhere", runner=SECOND)
    agent.until(lambda: SECOND in agent.told.lost)
    assert agent.told.lost[SECOND] == [execution]


def test_a_host_that_is_silent_for_too_long_is_lost_when_it_has_ended_by_its_own_rule(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_starts, "START_PAUSES_S", ())
    agent = crowd.begin(2, orphan_timeout_s=0.5, margin_s=8.0)
    (gone,) = crowd.launch_on(1, "gone")
    (stays,) = crowd.launch_on(0, "stays")
    agent.until(lambda: {gone, stays} <= agent.told.started.keys())
    crowd.starter.kill("node1")
    agent.until(lambda: "lost nodes [1]" in agent.told.story)
    assert agent.told.lost == {SECOND: []}, "the task had begun"
    assert agent.told.story.index(f"lost {SECOND}") < agent.told.story.index("lost nodes [1]")
    assert not crowd.runs(1)
    crowd.is_there(stays, 0)


def test_a_host_without_its_agent_for_too_long_ends_its_tasks_and_itself(crowd: Crowd) -> None:
    agent = crowd.begin(1, orphan_timeout_s=0.5)
    (execution,) = crowd.launch_on(0, "long")
    agent.until(lambda: execution in agent.told.started)
    host = crowd.starter.host("node0")
    private = host.private_folder
    agent.executor.leave()
    wait_for(lambda: host.process.poll() is not None)
    assert host.process.returncode == 0
    assert not crowd.runs(0)
    assert private is not None and not private.exists()
    assert "no agent for 0.5 s" in (crowd.folder / "pilot" / "host.node0.err").read_text()
    crowd.agent = None
    crowd.starter.end()


def test_a_host_that_is_told_to_end_says_so_and_its_nodes_are_lost(crowd: Crowd) -> None:
    agent = crowd.begin(2)
    (execution,) = crowd.launch_on(1, "ended")
    agent.until(lambda: execution in agent.told.started)
    crowd.starter.host("node1").process.send_signal(signal.SIGTERM)
    agent.until(lambda: "lost nodes [1]" in agent.told.story)
    assert agent.told.lost == {SECOND: []}
    assert not crowd.runs(1)


def test_a_broken_connection_is_made_anew_and_nothing_is_lost(crowd: Crowd) -> None:
    agent = crowd.begin(2, breakable=True)
    (long,) = crowd.launch_on(1, "long")
    agent.until(lambda: long in agent.told.started)
    for number in range(3):
        agent.told.reconciled.clear()
        crowd.way.cut()
        agent.host = 1
        (execution,) = agent.launch(f"t{number}", runner=SECOND)
        agent.until(lambda: {FIRST, SECOND} <= agent.told.reconciled.keys())
        if execution not in agent.told.reconciled[SECOND] and execution not in agent.told.ended:
            # It was under way when the connection broke: an agent launches it again.
            (execution,) = agent.launch(f"t{number}.again", runner=SECOND)
        agent.until(lambda execution=execution: execution in agent.told.ended)  # type: ignore[misc]
        assert long in agent.told.reconciled[SECOND]
    assert not agent.told.lost and crowd.starter.started == [("node0", "node1")]
    crowd.is_there(long, 1)


def test_a_given_up_host_that_comes_back_is_told_to_end(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_starts, "START_PAUSES_S", ())
    agent = crowd.begin(1, breakable=True)
    (execution,) = crowd.launch_on(0, "long")
    agent.until(lambda: execution in agent.told.started)
    # The agent thinks that no host can live for so long without it, and is wrong.
    monkeypatch.setattr(agent.executor._starts, "_margin_s", -59.0)  # type: ignore[attr-defined]
    crowd.way.cut(keep_broken=True)
    agent.until(lambda: "lost nodes [0]" in agent.told.story)
    host = crowd.starter.host("node0")
    assert crowd.runs(0)
    crowd.way.broken = False
    agent.until(lambda: host.process.poll() is not None)
    assert not crowd.runs(0)
    assert agent.told.lost.keys() == {FIRST}


def test_a_host_that_is_cut_off_for_too_long_has_ended_when_it_is_lost(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_starts, "START_PAUSES_S", ())
    agent = crowd.begin(1, breakable=True, orphan_timeout_s=0.5, margin_s=12.0)
    (execution,) = crowd.launch_on(0, "long")
    agent.until(lambda: execution in agent.told.started)
    host = crowd.starter.host("node0")
    crowd.way.cut(keep_broken=True)
    agent.until(lambda: "lost nodes [0]" in agent.told.story)
    assert host.process.poll() == 0 and not crowd.runs(0)


def test_the_next_agent_finds_what_ran_on_all_hosts(crowd: Crowd) -> None:
    agent = crowd.begin(3)
    executions = [crowd.launch_on(host, f"on{host}")[0] for host in range(3)]
    agent.until(lambda: set(executions) <= agent.told.started.keys())
    agent = crowd.next_agent()
    agent.until(lambda: len(agent.told.reconciled) == 3)
    assert agent.told.reconciled == {RunnerId(f"spawner.{host}"): [executions[host]] for host in range(3)}
    assert crowd.starter.started == [], "none was started again"
    for host in range(3):
        crowd.is_there(executions[host], host)


def test_a_host_that_outlives_its_step_stays(crowd: Crowd) -> None:
    agent = crowd.begin(1)
    (execution,) = crowd.launch_on(0, "long")
    agent.until(lambda: execution in agent.told.started)
    # What had started it has gone away, and it has not.
    told = [HostsEnded(("node0",), 255, "connection closed")]
    crowd.starter.ended = lambda: told.pop() if told else None  # type: ignore[method-assign]
    agent.until(lambda: not told)
    agent.told.reconciled.clear()
    (other,) = agent.launch("other", template=SHORT, runner=FIRST)
    agent.until(lambda: other in agent.told.ended)
    assert agent.told.reconciled == {} and crowd.starter.started == [("node0",)]
    crowd.is_there(execution, 0)


def test_the_next_agent_starts_a_host_that_died_with_the_last_one(crowd: Crowd) -> None:
    agent = crowd.begin(2)
    executions = [crowd.launch_on(host, f"on{host}")[0] for host in range(2)]
    agent.until(lambda: set(executions) <= agent.told.started.keys())
    crowd.starter.kill("node0")
    agent = crowd.next_agent(away_s=0.5)
    agent.until(lambda: len(agent.told.reconciled) == 2)
    assert crowd.starter.started == [("node0",)]
    crowd.is_there(executions[0], 0)


def test_a_node_has_one_host_at_a_time(crowd: Crowd) -> None:
    agent = crowd.begin(1, breakable=True, away_s=0.1)
    (execution,) = crowd.launch_on(0, "long")
    agent.until(lambda: execution in agent.told.started)
    crowd.way.cut(keep_broken=True)
    agent.until(lambda: len(crowd.starter.started) == 2)
    first, second = (step[0].process for step in crowd.starter.steps)
    wait_for(lambda: second.poll() is not None)
    assert second.returncode == 1
    crowd.way.broken = False
    agent.told.reconciled.clear()
    agent.until(lambda: FIRST in agent.told.reconciled)
    assert first.poll() is None and not agent.told.lost
    crowd.is_there(execution, 0)


def test_a_spawner_that_dies_is_lost_and_its_tasks_end_but_not_those_of_others(crowd: Crowd) -> None:
    agent = crowd.begin(2)
    executions = [crowd.launch_on(host, f"on{host}")[0] for host in range(2)]
    agent.until(lambda: set(executions) <= agent.told.started.keys())
    os.kill(agent.told.connected[SECOND].pid, signal.SIGKILL)
    agent.until(lambda: SECOND in agent.told.lost)
    assert agent.told.lost.keys() == {SECOND}
    assert not crowd.runs(1)
    agent.host = 1
    agent.start_runner(THIRD)
    (execution,) = agent.launch("next", runner=THIRD)
    agent.until(lambda: execution in agent.told.ended)
    crowd.is_there(executions[0], 0)


def test_a_function_worker_is_on_the_host_of_its_spawner_and_is_lost_with_it(crowd: Crowd) -> None:
    agent = crowd.begin(2)
    worker, unborn = RunnerId("worker.7"), RunnerId("worker.8")
    agent.executor.start_runner(worker, SECOND, {"MARK": "1"}, 1)
    agent.until(lambda: worker in agent.told.reconciled)
    variables = Path(f"/proc/{agent.told.connected[worker].pid}/environ").read_bytes().split(b"\0")
    assert {b"MARK=1", b"PILOTAGE_HOST=node1", b"PILOTAGE_WORKER_ID=worker.7"} <= set(variables)
    crowd.starter.host("node1").process.send_signal(signal.SIGTERM)
    agent.until(lambda: "lost nodes [1]" in agent.told.story)
    assert agent.told.lost.keys() == {SECOND, worker}
    agent.executor.start_runner(unborn, SECOND, {}, 1)
    agent.until(lambda: unborn in agent.told.lost)


def test_environments_are_known_on_all_hosts_also_after_a_broken_connection(crowd: Crowd) -> None:
    agent = crowd.begin(2, breakable=True)
    agent.executor.define_environment("named", EnvironmentDifference({"NAMED": "1"}))
    crowd.way.cut()
    agent.told.reconciled.clear()
    agent.until(lambda: {FIRST, SECOND} <= agent.told.reconciled.keys())
    template = Template(executable="/usr/bin/printenv", named_env="named")
    executions = []
    for agent.host in range(2):
        row = Row(TaskUid(f"env{agent.host}"), TemplateId(9), ("NAMED",))
        lane = LaneTasks(LaneId(90 + agent.host), agent.placement, [(Attempt(1), row)])
        agent.executor.launch(RunnerId(f"spawner.{agent.host}"), [lane], {TemplateId(9): template})
        executions.append((row.uid, Attempt(1)))
    agent.until(lambda: set(executions) <= agent.told.ended.keys())
    assert {agent.told.ended[execution].ending for execution in executions} == {Ending.DONE}


def test_a_step_that_cannot_be_started_is_part_of_the_reason(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_starts, "START_PAUSES_S", (0.0,))
    agent = crowd.begin(1, away_s=0.1, orphan_timeout_s=0.5, margin_s=8.0)
    reasons: list[str] = []
    agent.told.nodes_lost = lambda nodes, reason: reasons.append(reason)  # type: ignore[method-assign]

    def refuse(nodes: object) -> None:
        raise BackendError("srun: no such partition")

    monkeypatch.setattr(crowd.starter, "start", refuse)
    crowd.starter.kill("node0")
    agent.until(lambda: bool(reasons))
    assert "node node0" in reasons[0] and "srun: no such partition" in reasons[0]


def test_runners_of_a_node_that_no_host_has_are_a_mistake(crowd: Crowd) -> None:
    crowd.cluster = Cluster(crowd.folder, 1)
    executor = crowd.cluster.executor()
    agent = crowd.agent = Agent(executor, TEMPLATES, ())
    with pytest.raises(InvariantViolated, match="was on node 7"):
        agent.start({FIRST: KnownRunner(None, 1, 1, boot_id(), 0, 7)})


def test_arguments_larger_than_a_frame_arrive(crowd: Crowd) -> None:
    agent = crowd.begin(1)
    lanes = [
        LaneTasks(LaneId(number), agent.placement, [(1, Row(f"large{number}", SHORT, ("x" * 100_000,)))])  # type: ignore[arg-type]
        for number in range(1, 201)
    ]
    agent.executor.launch(FIRST, lanes, TEMPLATES)
    agent.until(lambda: len(agent.told.ended) == 200)
    assert {end.ending for end in agent.told.ended.values()} == {Ending.DONE}


def test_hosts_on_demand_come_by_one_step_and_go_with_their_last_runner(crowd: Crowd) -> None:
    agent = crowd.begin(4, on_demand=[1, 2])
    agent.until(lambda: len(agent.told.connected) == 2)
    assert crowd.starter.started == [("node1", "node2")]
    (execution,) = crowd.launch_on(2, "long")
    agent.until(lambda: execution in agent.told.started)
    gone = crowd.starter.host("node1")
    agent.executor.stop_runner(RunnerId("spawner.1"))
    agent.until(lambda: gone.process.poll() is not None)
    assert gone.process.poll() == 0 and not crowd.runs(1)
    crowd.is_there(execution, 2)
    # It is wanted again, and another one with it.
    crowd.start_at_once({1: "spawner.1.again", 3: "spawner.3"})
    agent.until(lambda: len(agent.told.connected) == 4)
    assert crowd.starter.started == [("node1", "node2"), ("node1", "node3")]
    assert not agent.told.lost and not any("lost nodes" in told for told in agent.told.story)


def test_a_host_on_demand_that_is_wanted_again_at_once_comes_when_the_one_before_has_ended(crowd: Crowd) -> None:
    agent = crowd.begin(2, on_demand=[0, 1])
    agent.until(lambda: len(agent.told.connected) == 2)
    before = crowd.starter.host("node1")
    agent.executor.stop_runner(RunnerId("spawner.1"))
    agent.turn()
    crowd.start_at_once({1: "spawner.1.again"})
    agent.until(lambda: "spawner.1.again" in agent.told.connected)
    agent.until(lambda: before.process.poll() is not None)
    (execution,) = crowd.launch_on(1, "long", runner="spawner.1.again")
    agent.until(lambda: execution in agent.told.started)
    agent.executor.end(RunnerId("spawner.1.again"), [execution], Ending.CANCELLED, "seen enough")
    agent.until(lambda: execution in agent.told.ended)
    assert crowd.starter.started == [("node0", "node1"), ("node1",)]


def test_the_next_agent_has_the_hosts_on_demand_whose_runners_it_knows(crowd: Crowd) -> None:
    agent = crowd.begin(3, on_demand=[0, 2])
    agent.until(lambda: len(agent.told.connected) == 2)
    (execution,) = crowd.launch_on(2, "long")
    agent.until(lambda: execution in agent.told.started)
    forgotten = crowd.starter.host("node0")
    # The log says that this one is to go, and nobody has told its host.
    del agent.told.connected[RunnerId("spawner.0")]
    agent = crowd.next_agent()
    agent.until(lambda: RunnerId("spawner.2") in agent.told.connected and forgotten.process.poll() is not None)
    assert not crowd.runs(0)
    crowd.is_there(execution, 2)
    assert crowd.starter.started == []


def test_hosts_of_two_partitions_on_one_node_leave_each_others_tasks_alone(crowd: Crowd) -> None:
    agent = crowd.begin(1)
    (execution,) = crowd.launch_on(0, "long")
    agent.until(lambda: execution in agent.told.started)
    assert crowd.cluster is not None
    settings = crowd.cluster.settings
    other = crowd.folder / "other"
    other.mkdir(mode=0o700)
    lobby = HostLobby.open(other, settings.session, settings.pilot, ["node0"], [HERE], partition="other")
    starter = HostProcesses(other, crowd.folder, settings.session, settings.pilot)
    starter.start(["node0"])
    assert lobby.gather(["node0"], DEADLINE_S, lambda: False).keys() == {"node0"}
    lobby.dismiss("node0", "its node is known")
    wait_for(lambda: starter.host("node0").process.poll() is not None)
    lobby.close()
    starter.leave()
    crowd.is_there(execution, 0)
