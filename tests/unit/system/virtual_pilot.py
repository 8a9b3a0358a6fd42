"""One pilot: its disk, its bootstrap, its runners, and the real ``Agent`` with its ``ClientLink``, life after life."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from agent_world_client import ENVIRONMENTS
from agent_world_runners import Executor, Process
from virtual_crew import Done, Surroundings, VirtualCrew
from virtual_parts import Died, Disk, Log, VirtualAgentChannel

from pilotage.agent.agent import Agent
from pilotage.agent.client_link import ClientLink
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import Aftermath, aftermath
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import PilotUid, RunnerId, SessionUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.payload import Blob
from pilotage.model.resources import Node, NodeShape
from pilotage.model.workload import Template

if TYPE_CHECKING:
    from system_world import World

SESSION = SessionUid("session.walk")
AGENT_STARTS = 4
NODES = [Node(index, f"node{index}", NodeShape(3, 1, 8, 8)) for index in range(2)]

_decode_record = msgspec.msgpack.Decoder(list[facts.Fact]).decode


class NoBlobs:
    def cover(self, blob: Blob) -> None:
        raise AssertionError(f"nobody wrote {blob}")


class Runners:
    """The ``Executor`` of an agent: the agent core's own virtual runners, spoken to in the words of the contract."""

    def __init__(self, pilot: Pilot, state: AgentState) -> None:
        self._pilot = pilot
        self._virtual = Executor(pilot, self._tell, state)  # type: ignore[arg-type]
        self.agent: Agent | None = None

    def _tell(self, event: events.Event) -> None:
        assert self.agent is not None
        self.agent._handle(event)

    def _perform(self, action: actions.Action) -> None:
        self._pilot.may_die()
        self._virtual.perform(action)
        self._pilot.may_die()

    def fileno(self) -> int:
        return 3

    def turn(self, now: float) -> None:
        self._virtual.turn()

    def flush(self) -> None:
        pass

    def next_deadline(self) -> float | None:
        return None

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str], host: int = 0) -> None:
        self._perform(actions.StartRunner(runner, beside, dict(environment), host))

    def stop_runner(self, runner: RunnerId) -> None:
        self._perform(actions.StopRunner(runner))

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        assert all(row.template in templates for lane in lanes for _, row in lane.tasks)
        self._perform(actions.LaunchTasks(runner, list(lanes)))

    def recall(self, runner: RunnerId, executions: Sequence[Execution]) -> None:
        self._perform(actions.RecallTasks(runner, list(executions)))

    def end(self, runner: RunnerId, executions: Sequence[Execution], ending: Ending, message: str) -> None:
        self._perform(actions.EndExecutions(runner, list(executions), ending, message))

    def release(self, runner: RunnerId, through: int) -> None:
        self._perform(actions.ReleaseRunner(runner, through))


class Pilot:
    """All of a pilot. To its runners it is the world in which they live."""

    def __init__(self, world: World, uid: PilotUid, epoch: int) -> None:
        self.world = world
        self.uid = uid
        self.random = world.random
        self.disk = Disk()
        self.pid = world.next_pid()
        self.alive = True
        """Whether the bootstrap is."""
        self.fenced = False
        self.node_lost = False
        self.incarnation = 0
        self.deadline = world.now + 60.0 if self.random.random() < 0.15 else None
        nature = random.Random(f"{uid} of {world.seed}")
        self.idle_timeout_s = nature.choice((0.0, 0.0, 0.0, 0.5, 10.0))
        self.drain_s = nature.choice((0.0, 20.0))
        self.settings = PilotSettings(
            session=SESSION,
            pilot=uid,
            session_folder="",
            pilot_folder="",
            blob_folder="",
            nodes=NODES,
            client_epoch=epoch,
            on_client_loss=self.random.choice(("continue", "drain", "terminate")),
        )
        self.haste = world.haste
        self.task_seconds = self.random.choice((1e-5, 0.01, 1.0))
        self.processes: dict[RunnerId, Process] = {}
        self.talkativeness = self.random.choice((0.4, 1.0))
        self.begun: dict[Execution, RunnerId] = {}
        self.proven: set[Execution] = set()
        self.full = False
        """Whether there is no room on the disk."""
        self.done = Done()
        self.surroundings = Surroundings(self)
        self.agent: Agent | None = None
        self.channel: VirtualAgentChannel | None = None

    # The agent.

    def may_die(self) -> None:
        self.world.may_die("agent")

    def recover(self) -> AgentState:
        state, first = AgentState(), 0
        if self.disk.snapshot is not None:
            first, encoded = self.disk.snapshot
            state = msgspec.msgpack.decode(encoded, type=AgentState)
        for record in self.disk.records[first:]:
            for fact in _decode_record(record):
                apply(state, fact)
        return state

    def start_agent(self) -> None:
        """What the bootstrap does, at first and after each death; in the end it gives up, and the pilot is over."""
        self.incarnation += 1
        if self.incarnation > AGENT_STARTS:
            self.alive = False
            return
        for process in self.processes.values():
            process.cut_off()
        chance, now = self.random, self.world.now
        log = Log(self.disk, self.may_die, chance)
        state = self.recover()
        limits = {"deadline": self.deadline, "drain_s": self.drain_s, "idle_timeout_s": self.idle_timeout_s}
        core = AgentCore(Scheduler(NODES), spawners=2, state=state, **limits)
        core.recover(now)
        self.channel = VirtualAgentChannel(self.may_die, chance, self.world.descriptors)
        link = ClientLink(self.settings, state, self.incarnation, now, log.sync)
        runners = Runners(self, state)
        self.agent = runners.agent = Agent(
            self.settings,
            core,
            log,  # type: ignore[arg-type]
            runners,  # type: ignore[arg-type]
            [self.channel],
            link,
            0,
            NoBlobs(),  # type: ignore[arg-type]
            VirtualCrew(self),  # type: ignore[arg-type]
        )
        try:
            self.agent._note(core.start(now))
            self.agent._commit()
        except Died:
            self.end_agent()

    def turn(self) -> None:
        """One turn of the agent's loop, as ``Agent.run`` does it; or its death in it."""
        if not self.alive:
            return
        if self.agent is None:
            self.start_agent()
            return
        agent, now = self.agent, self.world.now
        assert self.channel is not None
        try:
            if agent._is_over():
                self.finish()
                return
            agent._link.synced(agent._log.take_synced())
            agent._hear(now, self.channel)
            agent._executor.turn(now)
            agent._hear_crew()
            agent._pass_time(now)
            agent._commit()
            agent._link.acknowledge()
        except Died:
            self.end_agent()

    def end_agent(self) -> None:
        """The agent is dead. Its bootstrap starts another at the next turn."""
        self.agent = None
        if self.channel is not None:
            self.channel.close()
        self.channel = None

    def finish(self) -> None:
        """The agent's own end: runners stopped, all closed, the log synced."""
        self.disk.sync()
        self.end()

    def end(self) -> None:
        """All processes of the pilot are gone."""
        self.end_agent()
        self.kill_runners()
        self.alive = False

    def kill_runners(self) -> None:
        for process in self.processes.values():
            process.stopping = True
            process.die()
            if process.running:
                process.kill_tasks()

    def lose_node(self) -> None:
        """The node is gone, and with it what the log had not synced."""
        self.end_agent()
        self.kill_runners()
        self.alive, self.node_lost = False, True
        self.disk.lose_tail(self.random)

    def fence(self, delivered: int) -> Aftermath:
        """See to it that nothing of the pilot can run any more, and read its log."""
        assert not self.alive
        self.fenced = True
        self.kill_runners()
        return aftermath(self.recover(), delivered, complete=not self.node_lost)

    def check_replay(self) -> None:
        if self.agent is not None and not self.agent._facts:
            live = self.agent._core.state
            assert self.recover() == live, f"the log of {self.uid} does not give the state that it has"

    # What the runners ask of their world.

    @property
    def now(self) -> float:
        return self.world.now

    def next_pid(self) -> int:
        return self.world.next_pid()

    def tells_again(self) -> bool:
        return not self.world.calm and self.random.random() < 0.1

    def fate(self, is_function: bool) -> Ending:
        if self.random.random() < 0.75:
            return Ending.DONE
        return Ending.RAISED if is_function else self.random.choice((Ending.EXITED, Ending.SIGNALLED))

    def exit_code(self, execution: Execution, ending: Ending) -> int:
        return 0 if ending is Ending.DONE else self.random.choice((1, 75))

    def spawn(self, name: RunnerId, beside: RunnerId | None) -> None:
        if name not in self.processes:
            process = self.processes[name] = Process(self, name, beside)  # type: ignore[arg-type]
            process.proof = self.random.random() < 0.8

    def note_begin(self, process: Process, execution: Execution) -> None:
        assert not self.fenced, f"{execution} begins on {self.uid}, which is fenced"
        assert execution not in self.begun or execution[0] in self.world.adrift, f"{execution} begins twice on {self.uid}"
        self.begun[execution] = process.name
        if execution[0] not in self.world.adrift:
            self.check_surroundings(execution)
        self.world.note_begin(self, *execution)

    def check_surroundings(self, execution: Execution) -> None:
        """What is about to begin has its input, its sandbox and its environment."""
        uid = execution[0]
        extra, name = self.world.rows[uid].extra, self.world.submitted[uid].named_env
        if extra is not None and extra.input_staging:
            assert uid in self.done.staged_in, f"{execution} begins on {self.uid} without its input"
        assert uid not in {each for each, _ in self.done.cleaned}, f"{execution} begins after its sandbox was removed"
        if name in ENVIRONMENTS:
            assert name in self.done.prepared, f"{execution} begins on {self.uid} without its environment"

    def is_service(self, uid: TaskUid) -> bool:
        return self.world.submitted[uid].service is not None

    def lasts(self, execution: Execution, ending: Ending | None) -> bool:
        """Tell whether what runs goes on: services do, nearly always."""
        if not self.is_service(execution[0]) or ending is not None:
            return False
        return self.world.is_awaited(execution[0]) or self.random.random() < (0.5 if self.world.calm else 0.95)

    def note_end(self, execution: Execution, ending: Ending) -> None:
        self.world.note_end(self, execution[0], ending)

    def run(self, everything: bool = False) -> None:
        """Let the runners do something."""
        chance = self.random
        for process in list(self.processes.values()):
            if not process.alive:
                continue
            process.read(-1 if everything else chance.randint(0, 3))
            if not process.alive:
                continue
            for lane in process.ready():
                if everything or chance.random() < 0.7:
                    process.begin(lane)
            over = [
                execution
                for execution, (_, ending, _) in process.running.items()
                if (everything or chance.random() < 0.5) and not self.lasts(execution, ending)
            ]
            if over:
                process.end(over)
