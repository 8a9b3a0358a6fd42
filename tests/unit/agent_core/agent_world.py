"""A world for the agent's core to live in: fake runners, a fake client, time, and deaths of everything at any moment.

``World(seed)`` holds an agent (the core, its log, what its executor remembers), processes of runners, and a client. ``step``
lets one thing happen by chance; ``settle`` stops the misfortunes and drives everything to its end. The witness stands outside:
each process notes every begin of an execution, the client notes every outcome, and the log is read fact by fact as it is
written; ``check_end`` compares them.

The agent is a turn of events, then a commit: facts appended to the log, then actions performed. It may die before the
append (the turn is lost), after it, and between any two actions; another agent then recovers from the log alone.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque

import msgspec
from agent_world_runners import ADOPT_S, Executor, Process

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.errors import unreachable
from pilotage.model.execution import Execution
from pilotage.model.ids import Binding, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Row, Template

NODES = [Node(index, f"node{index}", NodeShape(3, 1, 8, 8)) for index in range(2)]

TEMPLATES = (
    Template(executable="/bin/true"),
    Template(executable="/bin/true", retries=2),
    Template(executable="/bin/true", restartable=True),
    Template(executable="/bin/true", request=Request(ranks=2, cores=2), retries=1),
    Template(executable="/bin/true", request=Request(cores=3), priority=1),
    Template(executable="/bin/true", timeout_s=0.5),
    Template(executable="/bin/true", timeout_s=0.5, retries=1),
    Template(executable="/bin/true", request=Request(cores=64)),
    Template(mode="function", function=b"f"),
    Template(mode="function", function=b"g", retries=1),
    Template(mode="function", function=b"h", restartable=True, request=Request(gpu_shares=32)),
    Template(mode="function", function=b"i", timeout_s=0.5),
)

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(list[facts.Fact]).decode


class Client:
    """The client: what it asked for, in numbered messages, and the outcomes it has."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: list[events.TasksSubmitted | events.CancelRequested | events.EndRequested] = []
        self.told = 0
        """Messages that the present agent has heard."""
        self.tasks: dict[TaskUid, Template] = {}
        self.cancelled: set[TaskUid] = set()
        self.ended_pilot = False
        self.templates: set[TemplateId] = set()
        self.outcomes: dict[TaskUid, Outcome] = {}
        self.received: dict[int, list[Outcome] | None] = {}
        self.durable = 0
        self.inbox: deque[tuple[int, list[Outcome] | None]] = deque()

    def submit(self) -> None:
        chance = self.world.random
        rows, templates = [], {}
        for _ in range(chance.choice((1, 2, 5, 20))):
            number = TemplateId(chance.choice(self.world.menu))
            for _ in range(chance.choice((1, 1, 3))):
                uid = TaskUid(f"t{len(self.tasks):04d}")
                self.tasks[uid] = TEMPLATES[number]
                rows.append(Row(uid, number))
            if number not in self.templates:
                self.templates.add(number)
                templates[number] = TEMPLATES[number]
        self.messages.append(events.TasksSubmitted(0.0, len(self.messages) + 1, Binding(1), Batch(templates, rows)))

    def cancel(self) -> None:
        chance = self.world.random
        known = [uid for uid in self.tasks if uid not in self.outcomes or chance.random() < 0.1]
        chosen = chance.sample(known, min(len(known), chance.choice((1, 2, 10))))
        chosen += chosen[:1]
        self.cancelled.update(chosen)
        tasks = [(uid, Binding(1)) for uid in chosen] + [(TaskUid("unknown"), Binding(1))]
        self.messages.append(events.CancelRequested(0.0, len(self.messages) + 1, tasks))

    def end_pilot(self, drain: bool) -> None:
        self.ended_pilot = True
        self.messages.append(events.EndRequested(0.0, len(self.messages) + 1, drain, "ended by the user"))

    def take(self) -> None:
        """Read what the agent sent: the next number is new, lower ones are doubles, a gap can't be (the channel is ordered)."""
        while self.inbox:
            number, outcomes = self.inbox.popleft()
            if number <= len(self.received):
                assert self.received[number] == outcomes, f"message {number} says something else the second time"
                continue
            assert number == len(self.received) + 1, f"message {number} came after {len(self.received)}"
            self.received[number] = outcomes
            for outcome in outcomes or ():
                assert outcome.task in self.tasks, f"an outcome of {outcome.task}, which was never submitted"
                assert outcome.task not in self.outcomes, f"{outcome.task} has two outcomes"
                self.outcomes[outcome.task] = outcome

    def forget_unsynced(self) -> None:
        """The client died; another knows what was durable."""
        for number in range(self.durable + 1, len(self.received) + 1):
            for outcome in self.received.pop(number) or ():
                del self.outcomes[outcome.task]
        self.inbox.clear()

    def undecided(self) -> list[TaskUid]:
        return [uid for uid in self.tasks if uid not in self.outcomes]


class AgentDied(Exception):
    """The agent's process is gone, in the middle of what it did."""


class World:
    """Everything, by one seed."""

    def __init__(self, seed: int, length: int = 150) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.length = length
        self.haste = self.random.choice((0.3, 0.7, 1.0))
        self.agent_mishaps = self.random.choice((0.0, 0.02, 0.1))
        self.runner_mishaps = self.random.choice((0.0, 0.02, 0.1))
        self.quickness = self.random.choice((0.1, 0.5))
        self.talkativeness = self.random.choice((0.4, 1.0))
        self.clock = self.random.choice((1.0, 4.0))
        self.menu = sorted(self.random.sample(range(len(TEMPLATES)), self.random.choice((2, 4, len(TEMPLATES)))))
        self.impatience = self.random.choice((0.0, 0.1, 0.5))
        """How readily the client ends the pilot."""
        self.task_seconds = self.random.choice((1e-5, 0.01, 1.0))
        self.deadline = self.now + 40.0 if self.random.random() < 0.1 else None
        self.calm = False
        self.processes: dict[RunnerId, Process] = {}
        self.pids = 100
        self.records: list[bytes] = []
        self.snapshot: tuple[int, bytes] = (0, _encode(AgentState()))
        self.shadow = AgentState()
        self.launched: set[Execution] = set()
        self.begun: dict[Execution, RunnerId] = {}
        self.begun_at: dict[Execution, float] = {}
        self.proven: set[Execution] = set()
        """Executions of which a dead runner left proof that they never began."""
        self.begins: dict[TaskUid, list[Execution]] = {}
        self.alive: dict[TaskUid, Execution] = {}
        self.endings: dict[Execution, Ending] = {}
        self.final: dict[TaskUid, Outcome] = {}
        self.cancel_logged: set[TaskUid] = set()
        self.deaths = 0
        self.client = Client(self)
        self.start_agent()

    # The agent.

    def start_agent(self) -> None:
        """Recover from the log, as a new process does."""
        number, snapshot = self.snapshot
        state = msgspec.msgpack.decode(snapshot, type=AgentState)
        for record in self.records[number:]:
            for fact in _decode_record(record):
                apply(state, fact)
        assert _encode(state) == _encode(self.shadow), "what is recovered is not what was"
        self.cancels_heard: dict[int, list[TaskUid]] = {}
        self.policy = Scheduler(NODES)
        self.core = AgentCore(self.policy, spawners=2, deadline=self.deadline, state=state)
        self.core.recover(self.now)
        self.facts: list[facts.Fact] = []
        self.actions: list[actions.Action] = []
        self.executor = Executor(self, self.handle, state)
        for process in self.processes.values():
            process.cut_off()
        self.client.told = state.received
        self.link_client()
        self.note(self.core.start(self.now))

    def link_client(self) -> None:
        """The client says hello: what it does not have on disk is sent again."""
        state = self.core.state
        self.client.forget_unsynced()
        assert self.client.durable >= state.delivered, "the agent forgot what the client does not have"
        for number in range(self.client.durable + 1, state.numbered + 1):
            if self.is_logged(number):
                outcomes = None if number == state.ended else list(state.undelivered[number])
                self.client.inbox.append((number, outcomes))

    def is_logged(self, number: int) -> bool:
        return number <= self.shadow.numbered

    def die_of_chance(self) -> None:
        if not self.calm and self.random.random() < self.agent_mishaps:
            raise AgentDied

    def handle(self, event: events.Event) -> None:
        self.note(self.core.handle(event))

    def note(self, step: Step) -> None:
        self.facts += step.facts
        self.actions += step.actions

    def turn(self) -> None:
        """One turn of the agent's loop, or its death in it."""
        try:
            self.hear()
            self.executor.turn()
            due = self.core.next_deadline()
            if due is not None and self.now >= due:
                self.handle(events.TimePassed(self.now))
            self.commit()
        except AgentDied:
            self.deaths += 1
            self.start_agent()

    def hear(self) -> None:
        client = self.client
        for message in client.messages[client.told : client.told + self.random.randint(0, 3)]:
            if isinstance(message, events.CancelRequested):
                self.cancels_heard[message.number] = [uid for uid, _ in message.tasks if uid in self.core.state.tasks]
            for _ in range(self.times_told()):
                self.handle(msgspec.structs.replace(message, time=self.now))
                assert self.core.state.received == message.number, f"the agent does not know that it has {message}"
            client.told = message.number
        if client.durable and self.random.random() < 0.5:
            self.handle(events.OutcomesReceived(self.now, client.durable))

    def commit(self) -> None:
        self.open_link()
        while self.facts or self.actions:
            self.die_of_chance()
            taken, self.facts = self.facts, []
            todo, self.actions = self.actions, []
            if taken:
                self.append(taken)
                self.die_of_chance()
            for action in todo:
                self.perform(action)
                self.die_of_chance()
            self.core.performed()
            self.open_link()

    def open_link(self) -> None:
        if self.core.has_news and len(self.client.inbox) < 2:
            self.handle(events.LinkOpened(self.now))

    def append(self, taken: list[facts.Fact]) -> None:
        record = _encode(taken)
        self.records.append(record)
        for fact in _decode_record(record):
            self.read_fact(fact)
            apply(self.shadow, fact)
        for message in [message for message in self.cancels_heard if message <= self.shadow.received]:
            self.cancel_logged.update(self.cancels_heard.pop(message))
        assert _encode(self.shadow) == _encode(self.core.state), "the facts do not make the state that the agent has"
        if self.random.random() < 0.05:
            self.snapshot = (len(self.records), _encode(self.core.state))

    def perform(self, action: actions.Action) -> None:
        match action:
            case actions.SendOutcomes():
                self.client.inbox.append((action.number, list(action.outcomes)))
            case actions.SendPilotEnded():
                self.client.inbox.append((action.number, None))
            case actions.TellProgress():
                pass
            case (
                actions.StartRunner()
                | actions.StopRunner()
                | actions.LaunchTasks()
                | actions.EndExecutions()
                | actions.RecallTasks()
                | actions.ReleaseRunner()
            ):
                self.executor.perform(action)
            case _:
                unreachable(action)

    # The witness.

    def read_fact(self, fact: facts.Fact) -> None:
        """Judge a fact as it is written."""
        if isinstance(fact, facts.LaunchRequested):
            for launch in fact.lanes:
                for uid, attempt in launch.tasks:
                    assert uid not in self.final, f"{uid} is launched again after its outcome"
                    assert uid not in self.cancel_logged, f"{uid} is launched again after it was cancelled"
                    assert (uid, attempt) not in self.launched, f"attempt {attempt} of {uid} is launched twice"
                    self.launched.add((uid, attempt))
        elif isinstance(fact, facts.EndAsked) and fact.ending is Ending.CANCELLED:
            self.cancel_logged.update(fact.tasks)
        elif isinstance(fact, facts.EndAsked) and fact.ending is Ending.TIMED_OUT:
            for uid in fact.tasks:
                execution = (uid, self.shadow.tasks[uid].attempt)
                lasted = self.now - self.begun_at[execution]
                assert lasted > self.client.tasks[uid].timeout_s - 1e-6, f"{execution} is out of time after {lasted} s"
        elif isinstance(fact, facts.Ended):
            for outcome in fact.outcomes:
                assert outcome.task not in self.final, f"{outcome.task} has two outcomes in the log"
                self.final[outcome.task] = outcome

    def note_begin(self, process: Process, execution: Execution) -> None:
        uid, _ = execution
        assert execution not in self.begun, f"{execution} begins twice, on {self.begun[execution]} and on {process.name}"
        assert uid not in self.alive, f"{execution} begins on {process.name} while {self.alive[uid]} still runs"
        assert uid not in self.final, f"{execution} begins on {process.name} after its outcome {self.final[uid]}"
        template = self.client.tasks[uid]
        earlier = self.begins.setdefault(uid, [])
        failed = [self.endings[before] for before in earlier]
        for before in earlier:
            # A success that died untold with its runner is one that nobody knows of.
            told = self.processes[self.begun[before]].alive
            assert not (told and self.endings[before] is Ending.DONE), f"{execution} begins, but {before} was done"
        assert template.restartable or len(earlier) <= template.retries, f"{uid} begins again: {earlier} ended {failed}"
        self.begun[execution] = process.name
        self.begun_at[execution] = self.now
        earlier.append(execution)
        self.alive[uid] = execution

    def note_end(self, execution: Execution, ending: Ending) -> None:
        del self.alive[execution[0]]
        self.endings[execution] = ending

    # Chance.

    def next_pid(self) -> int:
        self.pids += 1
        return self.pids

    def times_told(self) -> int:
        return 2 if not self.calm and self.random.random() < 0.1 else 1

    def tells_again(self) -> bool:
        return not self.calm and self.random.random() < 0.1

    def fate(self, is_function: bool) -> Ending:
        if self.random.random() < 0.75:
            return Ending.DONE
        return Ending.RAISED if is_function else self.random.choice((Ending.EXITED, Ending.SIGNALLED, Ending.OUT_OF_MEMORY))

    def spawn(self, name: RunnerId, beside: RunnerId | None) -> None:
        if name in self.processes:
            return
        process = self.processes[name] = Process(self, name, beside)
        process.proof = self.random.random() < 0.8
        if not self.calm and self.random.random() < self.runner_mishaps:
            process.die()

    def step(self) -> None:
        """Let one thing happen."""
        chance, client = self.random, self.client
        draw = chance.random()
        if draw < 0.35:
            self.turn()
        elif draw < 0.70:
            self.run_processes()
        elif draw < 0.78:
            client.submit()
        elif draw < 0.82:
            if client.tasks:
                client.cancel()
        elif draw < 0.90:
            client.take()
            if chance.random() < 0.7:
                client.durable = len(client.received)
        elif draw < 0.94:
            self.now += self.clock * chance.choice((0.001, 0.2, 1.0, 5.0, 70.0))
        elif draw < 0.95:
            if chance.random() < self.impatience:
                client.end_pilot(chance.random() < 0.6)
        elif draw < 0.975:
            if chance.random() < 5 * self.agent_mishaps:
                self.trouble_agent()
        elif chance.random() < 5 * self.runner_mishaps:
            self.trouble_runners()

    def trouble_agent(self) -> None:
        """The agent dies, or the client."""
        if self.random.random() < 0.7:
            self.deaths += 1
            self.start_agent()
        else:
            self.link_client()

    def trouble_runners(self) -> None:
        """A runner dies, or loses its connection."""
        living = [process for process in self.processes.values() if process.alive]
        if not living:
            return
        process = self.random.choice(living)
        if self.random.random() < 0.7:
            process.die()
        elif process.connected:
            self.executor.disconnect(process)

    def run_processes(self, everything: bool = False) -> None:
        chance = self.random
        for process in list(self.processes.values()):
            if not process.alive:
                # The tasks of a dead spawner go on without it; their ends are seen by nobody.
                continue
            process.read(-1 if everything else chance.randint(0, 3))
            if not process.alive:
                continue
            for lane in process.ready():
                if everything or chance.random() < 0.7:
                    process.begin(lane)
            over = [execution for execution in process.running if everything or chance.random() < self.quickness]
            if over:
                process.end(over)

    def walk(self) -> None:
        """Live through all of it."""
        for _ in range(self.length):
            self.step()
        self.settle()
        self.check_end()

    # The end.

    def settle(self) -> None:
        """No more misfortune: everything that waits for something gets it."""
        self.calm, self.haste = True, 1.0
        client = self.client
        for turn in range(2000):
            self.turn()
            self.run_processes(everything=True)
            client.take()
            client.durable = len(client.received)
            if self.is_quiet():
                return
            if turn % 5 == 4:
                due = self.core.next_deadline()
                self.now = max(self.now + 0.05, due if due is not None and due < self.now + ADOPT_S else self.now + 1.0)
        raise AssertionError(f"things wait for ever: {self.story()}")

    def is_quiet(self) -> bool:
        state = self.core.state
        return (
            not self.client.undecided()
            and self.client.told == len(self.client.messages)
            and not (state.tasks or state.lanes or state.unsent or state.undelivered or self.facts or self.actions)
            and not self.core.has_news
        )

    def story(self) -> str:
        uids = self.client.undecided()[:3]
        state = self.core.state
        lines = [f"{len(self.client.undecided())} undecided, {len(state.lanes)} lanes, {self.core.summary()}"]
        for uid in uids:
            lines.append(f"{uid} {self.client.tasks[uid]}: {self.core.why(uid)}; {state.tasks.get(uid)}")
        return "\n".join(lines)

    def check_end(self) -> None:
        """Compare what was promised with what the witness saw, and with the books."""
        client, state = self.client, self.core.state
        assert client.outcomes == self.final
        for uid, outcome in client.outcomes.items():
            template = client.tasks[uid]
            execution = (uid, outcome.attempt)
            if outcome.ending is Ending.DONE:
                assert self.endings[execution] is Ending.DONE, f"{uid} is said to be done: {self.endings[execution]}"
            elif outcome.ending is Ending.CANCELLED:
                assert uid in client.cancelled or state.ending is not None, f"nobody cancelled {uid}"
            elif outcome.ending is Ending.TIMED_OUT:
                assert template.timeout_s and execution in self.begun, f"{uid} was not out of time"
            elif outcome.ending is Ending.INFEASIBLE:
                assert template.request.cores == 64
            elif outcome.ending in (Ending.EXITED, Ending.RAISED, Ending.OUT_OF_MEMORY):
                assert self.endings[execution] is outcome.ending
                assert len(self.begins[uid]) <= 1 + template.retries or template.restartable
            elif outcome.ending in (Ending.LOST, Ending.NODE_FAILED):
                # A proof may have died with the agent that had it.
                assert self.deaths or execution not in self.proven, f"{execution} is lost, but it never began"
            if self.deaths == 0 and not any(not process.alive for process in self.processes.values()):
                assert outcome.ending is not Ending.LOST, f"{uid} is lost, but nothing was"
        assert sorted(self.endings) == sorted(self.begun), "something still runs"
        self.policy.check([])
        free = self.policy.free()
        assert (free.cores, free.gpu_shares, free.memory) == (6, 128, 16), free
        assert state.outcomes == len(client.tasks)
        assert all(load == 0 for load in self.core._pool._spawners.values()), "the loads of the spawners do not sum up"

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(record)
        return digest.hexdigest()


def walk(seed: int, length: int = 150) -> World:
    """Walk through one world; the error of a walk that fails names its seed."""
    try:
        world = World(seed, length)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed; PILOTAGE_SEED={seed} replays it: {error!r}") from error
    return world
