"""The partitions of ``metascheduler_world``: real agents over virtual runners, and the wire between them and the head."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec
from agent_world_runners import Executor, Process

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import aftermath
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.client.state import QueuedCancel, QueuedEnd, QueuedEnvironment, QueuedTasks
from pilotage.core.metascheduler import events as head_events
from pilotage.core.metascheduler.state import Queued, QueuedGrant, QueuedRecall, QueuedReclaim
from pilotage.core.scheduling.policies import make_policy
from pilotage.errors import unreachable
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.partitions import PartitionSpec
from pilotage.model.workload import Batch

if TYPE_CHECKING:
    from metascheduler_world import World

WINDOW = 3
"""Messages under way in each direction."""

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(list[facts.Fact]).decode
_decode_queued = msgspec.msgpack.Decoder(Queued).decode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_given_back = msgspec.msgpack.Decoder(tuple[int, list[facts.GivenBack]]).decode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode

Upward = tuple[int, str, bytes]
"""A numbered message to the head: its number, its kind, and what it says."""


class AgentDied(Exception):
    """The agent's process is gone, in the middle of what it did."""


class NoTrouble:
    """The disk, of which ``Process`` asks: it is never full."""

    def look_at_disk(self) -> None:
        pass


class Partition:
    """One partition, life after life of its agent. To its runners it is the world in which they live."""

    def __init__(self, world: World, name: str, spec: PartitionSpec, nodes: list[int]) -> None:
        self.world = world
        self.name = name
        self.spec = spec
        self.first = nodes
        self.random = world.random
        self.records: list[bytes] = []
        self.synced = 0
        self.durable = 0
        """Number of the head's last message that was synced."""
        self.over = self.fenced = self.node_lost = self.said_goodbye = False
        self.connected = False
        self.down: deque[tuple[int, bytes]] = deque()
        self.up: deque[Upward] = deque()
        self.in_flight_up = 0
        self.processes: dict[RunnerId, Process] = {}
        self.haste = world.haste
        self.talkativeness = self.random.choice((0.4, 1.0))
        self.task_seconds = world.task_seconds
        self.full = False
        self.surroundings = NoTrouble()
        self.begun: dict[Execution, RunnerId] = {}
        self.proven: set[Execution] = set()
        self.incarnation = 0
        self.core: AgentCore | None = None

    @property
    def now(self) -> float:
        return self.world.now

    # The agent.

    def recover(self) -> AgentState:
        state = AgentState()
        for record in self.records:
            for fact in _decode_record(record):
                apply(state, fact)
        return state

    def start_agent(self) -> None:
        state = self.recover()
        self.incarnation += 1
        present = [node for node in self.first if node not in state.parted]
        policy = make_policy(self.spec.scheduler, self.world.nodes, present=self.first)
        core = self.core = AgentCore(
            policy, spawners=1, state=state, nodes=self.first, drain_s=self.world.drain_s, in_job=self.world.in_job
        )
        assert set(core._nodes.own()) == {*present, *state.granted} - state.lost_nodes.keys()
        core.recover(self.now)
        self.facts: list[facts.Fact] = []
        self.actions: list[actions.Action] = []
        self.executor = Executor(self, self.handle, state)  # type: ignore[arg-type]
        self.preparing: dict[str, None] = {}
        self.watched: dict[TaskUid, tuple[Attempt, bool]] = {}
        self.started: dict[TaskUid, None] = dict.fromkeys(uid for uid, task in state.tasks.items() if task.started)
        for process in self.processes.values():
            process.cut_off()
        self.cut()
        self.note(core.start(self.now))
        self.miss_nodes()

    def miss_nodes(self) -> None:
        """The agent finds out which nodes are gone."""
        if self.core is not None and not self.over and self.world.nodes_gone:
            self.handle(events.NodesLost(self.now, list(self.world.nodes_gone)))

    def end_agent(self) -> None:
        """Its process is gone; another is started at the next turn."""
        self.core = None
        self.cut()

    def cut(self) -> None:
        """The connection to the head is broken: what is under way is lost."""
        self.connected = False
        self.down.clear()
        self.up.clear()

    def handle(self, event: events.Event) -> None:
        assert self.core is not None
        self.note(self.core.handle(event))

    def note(self, step: Step) -> None:
        self.facts += step.facts
        self.actions += step.actions

    def may_die(self) -> None:
        if self.world.mishap(self.world.partition_mishaps):
            raise AgentDied

    def turn(self) -> None:
        """One turn of the agent's loop, or its death in it."""
        if self.over:
            return
        try:
            if self.core is None:
                self.start_agent()
            assert self.core is not None
            if self.core.finished and (self.core.told or (self.core.state.ended and not self.connected)):
                self.close()
                return
            self.hear()
            self.executor.turn()
            self.attend()
            due = self.core.next_deadline()
            if due is not None and self.now >= due:
                self.handle(events.TimePassed(self.now))
            self.commit()
            self.tell()
        except AgentDied:
            self.world.agent_deaths += 1
            self.end_agent()

    def hear(self) -> None:
        """Take in some of what the head has sent."""
        assert self.core is not None
        for _ in range(self.random.randint(0, 3)):
            if not self.down:
                return
            number, frame = self.down.popleft()
            if number > self.core.state.received + 1:
                # A gap: what came late on an older connection is of no use.
                continue
            for _ in range(self.world.times_told()):
                self.follow(number, _decode_queued(frame))
            assert self.core.state.received >= number

    def follow(self, number: int, queued: Queued) -> None:
        now = self.now
        match queued:
            case QueuedTasks():
                self.handle(events.TasksSubmitted(now, number, queued.binding, _decode_batch(queued.batch)))
            case QueuedCancel():
                self.handle(events.CancelRequested(now, number, queued.tasks))
            case QueuedEnd():
                self.handle(events.EndRequested(now, number, queued.drain, "the head wants it"))
            case QueuedEnvironment():
                self.handle(events.EnvironmentAsked(now, number, queued.name, queued.spec))
            case QueuedGrant():
                self.handle(events.NodesGranted(now, number, queued.nodes))
                self.miss_nodes()
            case QueuedReclaim():
                self.handle(events.NodesReclaimed(now, number, queued.reclaim, queued.count))
            case QueuedRecall():
                self.handle(events.TasksRecalled(now, number, queued.recall, queued.tasks))
            case _:
                unreachable(queued)

    def attend(self) -> None:
        """Environments are prepared, services become ready."""
        for name in list(self.preparing):
            if self.random.random() < 0.5:
                del self.preparing[name]
                self.handle(events.EnvironmentPrepared(self.now, name))
        for uid, (attempt, ready) in list(self.watched.items()):
            if not ready and self.random.random() < 0.5:
                self.watched[uid] = (attempt, True)
                self.handle(events.ServiceReady(self.now, uid, attempt, f"{uid}@{self.name}:{attempt}"))

    def commit(self) -> None:
        assert self.core is not None
        self.number()
        while self.facts or self.actions:
            self.may_die()
            taken, self.facts = self.facts, []
            todo, self.actions = self.actions, []
            if taken:
                self.records.append(_encode(taken))
                self.world.digest.update(self.records[-1])
                for fact in taken:
                    if isinstance(fact, facts.LaunchRequested):
                        self.world.launched.update(facts.tasks_named(fact))
                self.may_die()
            for action in todo:
                self.perform(action)
                self.may_die()
            self.core.performed()
            self.number()
        self.world.check_nodes()

    def number(self) -> None:
        assert self.core is not None
        if self.core.has_news and self.connected and len(self.up) < WINDOW:
            self.handle(events.LinkOpened(self.now))

    def perform(self, action: actions.Action) -> None:
        match action:
            case actions.SendOutcomes():
                self.send(action.number, "outcomes", _encode(action.outcomes))
            case actions.SendNodes():
                self.send(action.number, "nodes", _encode((action.reclaim, action.nodes)))
            case actions.SendTasks():
                self.send(action.number, "tasks", _encode((action.recall, action.tasks)))
            case actions.SendPilotEnded():
                self.send(action.number, "ended", _encode((action.state, action.reason)))
            case (
                actions.StartRunner()
                | actions.StopRunner()
                | actions.LaunchTasks()
                | actions.EndExecutions()
                | actions.RecallTasks()
                | actions.ReleaseRunner()
            ):
                self.executor.perform(action)
            case actions.PrepareEnvironment():
                self.preparing[action.name] = None
            case actions.WatchService():
                self.watched[action.row.uid] = (action.attempt, action.ready)
            case actions.UnwatchService():
                self.watched.pop(action.service, None)
            case actions.TellProgress():
                self.started.update(dict.fromkeys(action.tasks))
            case actions.TellService():
                pass
            case actions.StageTasks() | actions.EndStaging():
                raise AssertionError(f"{action}, and no task has files")
            case _:
                unreachable(action)

    def send(self, number: int, kind: str, frame: bytes) -> None:
        if self.connected:
            self.up.append((number, kind, frame))

    def tell(self) -> None:
        """Tell the head how far things are; what is told may be lost."""
        assert self.core is not None
        if not self.connected or self.random.random() < 0.5:
            return
        if self.random.random() < 0.5:
            self.sync()
        tasks, state = self.core.state.tasks, self.core.state
        started = [
            (uid, tasks[uid].binding, tasks[uid].attempt, tasks[uid].started)
            for uid in self.started
            if uid in tasks and tasks[uid].started
        ]
        self.started.clear()
        services = [(uid, tasks[uid].binding, tasks[uid].attempt, info) for uid, info in state.services.items() if uid in tasks]
        self.world.progress.append(head_events.ProgressTold(0.0, self.name, started, services, [], self.core.load()))

    def sync(self) -> None:
        self.synced = len(self.records)
        assert self.core is not None
        self.durable = self.core.state.received

    def greet(self) -> int | None:
        """The head says hello: what it does not have is sent again. Returns what the agent has on disk."""
        if self.over or self.core is None or self.facts:
            return None
        head = self.world.head.state.partitions[self.name]
        self.cut()
        self.connected = True
        self.sync()
        state = self.core.state
        for number in range(head.received + 1, state.numbered + 1):
            if number in state.undelivered:
                self.send(number, "outcomes", _encode(state.undelivered[number]))
            elif number in state.undelivered_nodes:
                self.send(number, "nodes", _encode(state.undelivered_nodes[number]))
            elif number in state.undelivered_tasks:
                self.send(number, "tasks", _encode(state.undelivered_tasks[number]))
            elif number == state.ended and state.ending is not None:
                self.send(number, "ended", _encode((state.ending.state, state.ending.reason)))
            else:
                raise AssertionError(f"{self.name} has forgotten message {number}, and the head does not have it")
        for number, queued in head.unacknowledged.items():
            if number > self.durable:
                self.down.append((number, _encode(queued)))
        return self.durable

    # Its end.

    def close(self) -> None:
        """The agent exits in good order."""
        self.kill_runners()
        self.end_agent()
        self.over = True

    def kill_runners(self) -> None:
        for process in self.processes.values():
            process.stopping = True
            process.die()
            if process.running:
                process.kill_tasks()

    def lose(self, node_lost: bool) -> None:
        """All of it is gone, and with its node what was not synced."""
        self.end_agent()
        self.kill_runners()
        self.over = self.fenced = True
        self.node_lost = node_lost
        if node_lost:
            kept = self.random.randint(self.synced, len(self.records))
            del self.records[kept:]

    def lost_event(self, received: int) -> head_events.PartitionLost:
        """What the head is told of a partition that is lost."""
        after = aftermath(self.recover(), received, complete=not self.node_lost)
        return head_events.PartitionLost(
            self.now,
            self.name,
            "its agent is gone",
            after.received,
            after.outcomes,
            msgspec.Raw(_encode(after.outcomes)),
            after.not_begun,
            after.tries,
            [node for node in self.world.nodes_gone if node in self.world.head.state.partitions[self.name].nodes],
        )

    def take_up(self) -> list[head_events.Event]:
        """Return what arrived at the head."""
        taken: list[head_events.Event] = []
        for _ in range(self.random.randint(0, 3)):
            if not self.up:
                break
            number, kind, frame = self.up.popleft()
            for _ in range(self.world.times_told()):
                if kind == "outcomes":
                    outcomes = _decode_outcomes(frame)
                    taken.append(head_events.OutcomesArrived(self.now, self.name, number, outcomes, msgspec.Raw(frame)))
                elif kind == "nodes":
                    reclaim, nodes = msgspec.msgpack.decode(frame)
                    taken.append(head_events.NodesReturned(self.now, self.name, number, reclaim, nodes))
                elif kind == "tasks":
                    recall, given = _decode_given_back(frame)
                    taken.append(head_events.TasksGivenBack(self.now, self.name, number, recall, given))
                else:
                    state, reason = msgspec.msgpack.decode(frame)
                    taken.append(head_events.PartitionEndArrived(self.now, self.name, number, state, reason))
        return taken

    # What the runners ask of their world.

    def next_pid(self) -> int:
        return self.world.next_pid()

    def tells_again(self) -> bool:
        return self.world.times_told() > 1

    def fate(self, is_function: bool) -> Ending:
        if self.random.random() < 0.8:
            return Ending.DONE
        return Ending.RAISED if is_function else self.random.choice((Ending.EXITED, Ending.SIGNALLED))

    def exit_code(self, execution: Execution, ending: Ending) -> int:
        return 0 if ending is Ending.DONE else 1

    def spawn(self, name: RunnerId, beside: RunnerId | None) -> None:
        if name not in self.processes:
            process = self.processes[name] = Process(self, name, beside)  # type: ignore[arg-type]
            process.proof = self.random.random() < 0.8

    def note_begin(self, process: Process, execution: Execution) -> None:
        assert not self.fenced, f"{execution} begins in {self.name}, which is fenced"
        assert execution not in self.begun, f"{execution} begins twice in {self.name}"
        self.begun[execution] = process.name
        self.world.note_begin(self, *execution)

    def note_end(self, execution: Execution, ending: Ending) -> None:
        self.world.note_end(self, execution, ending)

    def is_service(self, uid: TaskUid) -> bool:
        return self.world.client.tasks[uid].service is not None

    def lasts(self, execution: Execution, ending: Ending | None) -> bool:
        """Tell whether what runs goes on: services do, nearly always; for good when there is nothing but services."""
        if not self.is_service(execution[0]) or ending is not None:
            return False
        if self.world.calm and self.world.client.only_services_left():
            return True
        return self.random.random() < (0.5 if self.world.calm else 0.95)

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
                if (everything or chance.random() < self.world.quickness) and not self.lasts(execution, ending)
            ]
            if over:
                process.end(over)
