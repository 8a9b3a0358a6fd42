"""Several hosts in ``agent_world``: some come late, or never, some are lost, and on some no function worker comes up.

What needs two nodes runs on both: when one is lost it goes on, as nobody tells the other, until it is ended. A host that is
lost is told as such once all its runners are, in each life of the agent anew.
"""

from __future__ import annotations

import random

from agent_world import AgentDied, World
from agent_world_client import MENU
from agent_world_runners import Executor, Known

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Node, NodeShape, Request

PATIENCE = 150
"""So many turns after all misfortune has ended hosts that are not up count as lost."""


class HostsExecutor(Executor):
    """Runners on several hosts."""

    world: HostsWorld

    def __init__(self, world: HostsWorld, tell: object, state: AgentState) -> None:
        super().__init__(world, tell, state)  # type: ignore[arg-type]
        self.told: set[int] = set()
        """Hosts of which this agent knows that they are lost."""

    def perform(self, action: actions.Action) -> None:
        world = self.world
        if isinstance(action, actions.StartRunner):
            world.note_start(action)
            if action.beside is None and action.host not in world.up:
                self.known[action.runner] = Known(None, 0, None)
                return
        elif isinstance(action, actions.LaunchTasks):
            world.note_handed(action)
        super().perform(action)

    def turn(self) -> None:
        world = self.world
        for name, known in self.known.items():
            if world.host_of[name] in world.gone and known.beside not in self.known:
                known.gone |= world.chance.random() < world.haste
        super().turn()
        for host in sorted(world.gone - self.told):
            if not any(world.host_of[name] == host for name in self.known):
                self.told.add(host)
                world.losses_told += 1
                self.tell(events.NodesLost(world.now, world.nodes_of(host), f"host {host} is gone"))

    def host_came_up(self, host: int) -> None:
        """Start what has waited for it."""
        for name, known in self.known.items():
            if self.world.host_of[name] == host and known.beside is None and not known.gone:
                self.world.spawn(name, None)


class HostsWorld(World):
    """Four nodes on two hosts or more."""

    nodes = [Node(index, f"node{index}", NodeShape(3, 1, 8, 8)) for index in range(4)]

    def __init__(self, seed: int, length: int = 150) -> None:
        self.chance = random.Random(f"hosts of {seed}")
        self.hosts = self.chance.choice(((0, 0, 1, 2), (2, 0, 1, 0), (0, 1, 2, 3), (1, 0, 1, 0)))
        self.spawners = self.chance.choice((1, 1, 2))
        self.up = {host for host in set(self.hosts) if self.chance.random() < 0.7}
        self.gone: set[int] = set()
        self.sick: set[int] = {2} if self.chance.random() < 0.3 else set()
        """Hosts on which no function worker comes up."""
        self.restlessness = self.chance.choice((0.0, 0.01, 0.04))
        self.host_of: dict[RunnerId, int] = {}
        self.handed: dict[Execution, set[int]] = {}
        """The nodes of what was handed over."""
        self.rests = 0
        self.calm_turns = self.losses_told = self.came_late = self.cut_short = 0
        super().__init__(seed, length)
        kinds = range(len(MENU))
        self.menu = sorted({*self.menu, *(kind for kind in kinds if MENU[kind].request.ranks > 1)})
        if self.sick:
            self.menu = [kind for kind in kinds if MENU[kind].mode == "function" and not MENU[kind].named_env]
        self.quickness = self.chance.choice((0.02, self.quickness))

    def nodes_of(self, host: int) -> list[int]:
        return [node for node, number in enumerate(self.hosts) if number == host]

    @property
    def lost(self) -> set[int]:
        return {node for node, host in enumerate(self.hosts) if host in self.gone}

    def make_executor(self, state: AgentState) -> Executor:
        return HostsExecutor(self, self.handle, state)

    # What happens.

    def step(self) -> None:
        behind = self.busy_behind() if self.chance.random() < 8 * self.restlessness else []
        if behind or self.chance.random() < self.restlessness:
            host = self.chance.choice(behind or sorted(set(self.hosts)))
            if host in self.up and self.chance.random() < (0.8 if behind else 0.3 if len(self.up) > 1 else 0.1):
                self.lose_host(host)
            elif host not in self.up | self.gone and self.chance.random() < 0.6:
                self.come_up(host)
        super().step()

    def busy_behind(self) -> list[int]:
        """Return the hosts on which tasks run whose runner is on another."""
        running = [execution for process in self.processes.values() for execution in process.running]
        behind = {(each, self.hosts[node]) for each in running for node in self.handed[each]}
        return sorted({host for each, host in behind if self.host_of[self.begun[each]] != host})

    def turn(self) -> None:
        self.rests += bool(self.core._pool._resting)
        if self.calm:
            self.calm_turns += 1
            self.sick.clear()
            if self.calm_turns == PATIENCE:
                self.check_that_nobody_waits_for_hosts()
                for host in set(self.hosts) - self.up - self.gone:
                    self.lose_host(host)
        super().turn()

    def come_up(self, host: int) -> None:
        self.up.add(host)
        self.came_late += 1
        executor = self.executor
        assert isinstance(executor, HostsExecutor)
        executor.host_came_up(host)

    def lose_host(self, host: int) -> None:
        """All that ran there is gone."""
        self.up.discard(host)
        self.gone.add(host)
        for process in [process for process in self.processes.values() if process.alive]:
            if self.host_of[process.name] == host:
                process.die()
                process.kill_tasks()
            else:
                self.cut_short += sum(bool(self.handed[each] & self.lost) for each in process.running)

    def spawn(self, name: RunnerId, beside: RunnerId | None) -> None:
        if self.host_of[name] not in self.up:
            return
        super().spawn(name, beside)
        if beside is not None and self.host_of[name] in self.sick:
            self.processes[name].die()

    def lasts(self, execution: Execution, ending: Ending | None) -> bool:
        if ending is None and self.handed[execution] & self.lost:
            return True
        return super().lasts(execution, ending)

    # The witness.

    def note_start(self, action: actions.StartRunner) -> None:
        """A runner is to be started."""
        assert self.host_of[action.runner] == action.host
        if action.beside is not None:
            assert self.host_of[action.beside] == action.host, f"{action} beside a spawner of another host"

    def note_handed(self, action: actions.LaunchTasks) -> None:
        """Tasks are handed to a runner, with their places."""
        for lane in action.lanes:
            assert lane.placement is not None
            assert self.hosts[lane.placement[0].node] == self.host_of[action.runner], f"{lane} is handed to {action.runner}"
            for attempt, row in lane.tasks:
                self.handed[row.uid, attempt] = {share.node for share in lane.placement}

    def read_fact(self, fact: facts.Fact) -> None:
        if isinstance(fact, facts.RunnerAdded):
            self.host_of[fact.runner] = host = self.hosts[fact.node]
            assert not self.shadow.lost_nodes.keys() >= set(self.nodes_of(host)), f"{fact} is started on a lost host"
        elif isinstance(fact, facts.LaunchRequested):
            shadow = self.shadow
            for launch in fact.lanes:
                placement = shadow.lanes[launch.lane].placement if launch.placement is None else launch.placement
                assert not {share.node for share in placement} & shadow.lost_nodes.keys(), f"{launch} goes to a lost node"
                record = shadow.runners[launch.runner]
                spawner = record if record.beside is None or record.pid else shadow.runners[record.beside]
                assert spawner.pid, f"{launch} is given to a host that has not come up"
        elif isinstance(fact, facts.Ended):
            for outcome in fact.outcomes:
                self.judge_launch_failure(outcome)
        super().read_fact(fact)

    def judge_launch_failure(self, outcome: Outcome) -> None:
        """No function fails to launch while function workers come up on another host."""
        shadow, template = self.shadow, self.client.tasks[outcome.task]
        if outcome.ending is not Ending.LAUNCH_FAILED or template.mode != "function" or self.deaths or template.named_env:
            return
        lane = shadow.tasks[outcome.task].lane
        assert lane, f"{outcome.task} was given to no worker"
        here = self.host_of[shadow.lanes[lane].runner]
        there = [name for name, record in shadow.runners.items() if record.beside and record.pid and self.host_of[name] != here]
        assert not there, f"{outcome} on host {here}, while {there} came up on others"

    def append(self, taken: list[facts.Fact]) -> None:
        """The agent may die just when it knows that nodes are lost."""
        super().append(taken)
        if any(isinstance(fact, facts.NodesLost) for fact in taken) and not self.calm and self.chance.random() < 0.4:
            raise AgentDied

    def check_that_nobody_waits_for_hosts(self) -> None:
        """A task of one core waits on no host that is up, and has a core free."""
        state = self.core.state
        if self.full or (state.ending is not None and not state.ending.drain):
            return
        used = dict.fromkeys(range(len(self.nodes)), 0)
        for lane in state.lanes.values():
            for share in lane.placement:
                used[share.node] += int.from_bytes(share.cores, "little").bit_count()
        ready = [
            node
            for node, host in enumerate(self.hosts)
            if host in self.up and used[node] < 3 and any(self.serves(name, host) for name in self.processes)
        ]
        waiting = [uid for uid in state.tasks if self.core.doing(uid) == "waiting" and uid not in self.core._waiting.barred]
        simple = [uid for uid in waiting if self.client.tasks[uid].request == Request()]
        assert not (ready and simple), f"{simple} wait, and nodes {ready} have free cores: {self.story()}"

    def serves(self, name: RunnerId, host: int) -> bool:
        process = self.processes[name]
        return self.host_of[name] == host and process.alive and process.welcomed and not process.is_worker

    def check_outcome(self, uid: TaskUid, outcome: Outcome) -> None:
        template = self.client.tasks[uid]
        if outcome.ending is Ending.INFEASIBLE:
            left = [node.index for node in self.nodes if node.index not in self.lost]
            refusal = Scheduler(self.nodes, present=left).refusal(template.request) if left else "nothing is left"
            assert refusal, f"{uid} could run: {outcome.message}"
            return
        if outcome.ending is Ending.NODE_FAILED:
            execution = (uid, outcome.attempt)
            there = self.handed[execution] & self.lost or not self.processes[self.begun[execution]].alive
            assert there, f"{uid} is said to have lost a node: {outcome.message}"
            ended = self.core.state.ending is not None or uid in self.client.cancelled or uid in self.quarantined
            assert not template.restartable or ended, f"{uid} runs no more: {outcome.message}"
        super().check_outcome(uid, outcome)

    def all_free(self) -> tuple[int, int, int]:
        executor = self.executor
        assert isinstance(executor, HostsExecutor)
        lost = {node for node, host in enumerate(self.hosts) if host in executor.told} | self.core.state.lost_nodes.keys()
        left = len(self.nodes) - len(lost)
        return (3 * left, 64 * left, 8 * left)

    def check_end(self) -> None:
        super().check_end()
        state = self.core.state
        assert state.lost_nodes.keys() <= self.lost
        told = {host for host in self.gone if set(self.nodes_of(host)) <= state.lost_nodes.keys()}
        assert not any(self.host_of[name] in told for name in state.runners), f"runners are left on lost hosts {told}"
        assert told != set(self.hosts) or state.ending is not None, "the pilot goes on without nodes"


def walk_over_hosts(seed: int, length: int = 150) -> HostsWorld:
    """Walk through one world; the error of a walk that fails names its seed."""
    try:
        world = HostsWorld(seed, length)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk over hosts of seed {seed} failed: {error!r}") from error
    return world
