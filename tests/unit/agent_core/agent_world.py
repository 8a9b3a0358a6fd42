"""A world for the agent's core to live in: fake runners, a fake client, time, and deaths of everything at any moment.

``World(seed)`` holds an agent (the core, its log, what its executor remembers), processes of runners, and a client. ``step``
lets one thing happen by chance; ``settle`` stops the misfortunes and drives everything to its end. The witness stands outside:
each process notes every begin of an execution, the client notes every outcome, and the log is read fact by fact as it is
written; ``check_end`` compares them.

The agent is a turn of events, then a commit: facts appended to the log, then actions performed. It may die before the
append (the turn is lost), after it, and between any two actions; another agent then recovers from the log alone.

There are tasks of all kinds: with files to stage, environments to wait for, slots of their own, services, others that need
these. What the agent has for them beside its runners is in ``agent_world_surroundings``; how tasks that need services are
judged, in ``agent_world_needs``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import msgspec
from agent_world_client import ENVIRONMENTS, MENU, NODES, Client
from agent_world_needs import Needs
from agent_world_runners import ADOPT_S, Executor, Process
from agent_world_surroundings import Surroundings
from agent_world_witness import Witness

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import aftermath
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.errors import unreachable
from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(list[facts.Fact]).decode


class AgentDied(Exception):
    """The agent's process is gone, in the middle of what it did."""


class World(Witness):
    """Everything, by one seed."""

    nodes: Sequence[Node] = NODES
    hosts: tuple[int, ...] = ()
    """The host of each node; none: there is one alone."""
    spawners = 2
    in_job = False
    successor_s = 0.0

    def __init__(self, seed: int, length: int = 150) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.now = 1000.0
        self.length = length
        self.haste = self.random.choice((0.3, 0.7, 1.0))
        self.agent_mishaps = self.random.choice((0.0, 0.02, 0.1))
        self.runner_mishaps = self.random.choice((0.0, 0.02, 0.1))
        self.quickness = self.random.choice((0.1, 0.5))
        self.talkativeness = self.random.choice((0.4, 1.0))
        self.clock = self.random.choice((1.0, 4.0))
        self.menu = sorted(self.random.sample(range(len(MENU)), self.random.choice((2, 5, 9, len(MENU)))))
        self.luggage = self.random.choice((0.0, 0.2, 0.8))
        """How many tasks have files to stage."""
        self.full = False
        """Whether there is no room on the disk."""
        self.disk_troubles = self.random.choice((0.0, 0.5))
        self.impatience = self.random.choice((0.0, 0.1, 0.5))
        """How readily the client ends the pilot."""
        self.task_seconds = self.random.choice((1e-5, 0.01, 1.0))
        self.deadline = self.now + 40.0 if self.random.random() < 0.1 else None
        pilot = random.Random(f"pilot of {seed}")
        self.idle_timeout_s = pilot.choice((0.0, 0.0, 0.0, 0.01, 1.0))
        self.barrier = pilot.choice((0, 0, 0, 5, 40))
        self.drain_s = pilot.choice((0.0, 15.0))
        self.checkpoint_signal = pilot.choice((0, 10))
        self.checkpoint = random.Random(f"checkpoints of {seed}")
        self.calm = False
        self.processes: dict[RunnerId, Process] = {}
        self.pids = 100
        self.records: list[bytes] = []
        self.snapshot: tuple[int, bytes] = (0, _encode(AgentState()))
        self.shadow = AgentState()
        self.deaths = 0
        self.client = Client(self)
        self.client.neediness = self.random.choice((0.0, 0.2, 0.8))
        self.needs = Needs(self)
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
        self.needs.agent_started()
        self.cancels_heard: dict[int, list[TaskUid]] = {}
        self.policy = self.make_policy()
        self.core = AgentCore(
            self.policy,
            spawners=self.spawners,
            deadline=self.deadline,
            state=state,
            idle_timeout_s=self.idle_timeout_s,
            barrier=self.barrier,
            hosts=self.hosts,
            drain_s=self.drain_s,
            checkpoint_signal=self.checkpoint_signal,
            in_job=self.in_job,
            successor_s=self.successor_s,
        )
        self.core.recover(self.now)
        self.facts: list[facts.Fact] = []
        self.actions: list[actions.Action] = []
        self.executor = self.make_executor(state)
        self.surroundings = Surroundings(self)
        for process in self.processes.values():
            process.cut_off()
        self.client.told = state.received
        self.link_client()
        if state.tasks and not self.calm and self.random.random() < self.agent_mishaps:
            self.quarantine()
        self.note(self.core.start(self.now))

    def make_policy(self) -> Scheduler:
        return Scheduler(self.nodes)

    def make_executor(self, state: AgentState) -> Executor:
        return Executor(self, self.handle, state)

    def quarantine(self) -> None:
        """Agents died of something; some tasks are blamed."""
        uids = self.random.sample(list(self.core.state.tasks), min(len(self.core.state.tasks), 2))
        self.quarantined.update(uids)
        self.core.quarantine(self.now, [*uids, TaskUid("unknown")], "two agents died of it")

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
        if isinstance(event, events.RunnerReconciled):
            self.needs.reconciled(event.runner)
        self.note(self.core.handle(event))

    def note(self, step: Step) -> None:
        for fact in step.facts:
            if isinstance(fact, facts.LaunchRequested):
                assert not self.surroundings.told_full, f"{fact} though the disk is full"
        given_up = {uid for action in step.actions if isinstance(action, actions.EndStaging) for uid in action.tasks}
        for action in step.actions:
            self.needs.note(action)
            if isinstance(action, actions.StageTasks) and action.phase == "input":
                assert not self.surroundings.told_full, f"{action} though the disk is full"
                for _, row in action.tasks:
                    wanted = row.uid in given_up or self.core.state.tasks[row.uid].ending is None
                    assert wanted, f"input of {row.uid} is staged, which is to end"
        self.facts += step.facts
        self.actions += step.actions

    def turn(self) -> None:
        """One turn of the agent's loop, or its death in it."""
        try:
            self.hear()
            self.executor.turn()
            self.surroundings.turn()
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
            if not (self.facts or self.actions):
                self.check_watch()
            self.needs.check()
            self.open_link()

    def check_watch(self) -> None:
        """What runs, is a service and is not being ended is watched, and nothing else is."""
        state = self.core.state
        running = {
            uid: task.attempt
            for uid, task in state.tasks.items()
            if task.lane and task.started and task.ending is None and self.client.tasks[uid].service is not None
        }
        assert running == {uid: attempt for uid, (attempt, _) in self.surroundings.watched.items()}

    def open_link(self) -> None:
        if self.core.has_news and len(self.client.inbox) < 2:
            self.handle(events.LinkOpened(self.now))

    def append(self, taken: list[facts.Fact]) -> None:
        record = _encode(taken)
        self.records.append(record)
        for fact in _decode_record(record):
            received = self.shadow.received
            self.read_fact(fact)
            apply(self.shadow, fact)
            if self.shadow.received != received or not self.is_idle():
                self.busy_at = self.now
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
                | actions.SignalExecutions()
                | actions.ReleaseRunner()
            ):
                self.executor.perform(action)
            case (
                actions.StageTasks()
                | actions.EndStaging()
                | actions.PrepareEnvironment()
                | actions.WatchService()
                | actions.UnwatchService()
                | actions.TellService()
            ):
                self.surroundings.perform(action)
            case _:
                unreachable(action)

    # Chance.

    def exit_code(self, execution: Execution, ending: Ending) -> int:
        code = 0 if ending is Ending.DONE else self.random.choice((1, 75))
        self.exit_codes[execution] = code
        return code

    def is_service(self, uid: TaskUid) -> bool:
        return self.client.tasks[uid].service is not None

    def lasts(self, execution: Execution, ending: Ending | None) -> bool:
        """Tell whether what runs goes on: services do, nearly always; for good when there is nothing but services."""
        if not self.is_service(execution[0]) or ending is not None:
            return False
        if self.calm and self.client.only_services_left():
            return True
        return self.random.random() < (0.8 if self.calm else 0.98)

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

    def heeds_signal(self) -> bool:
        """Tell whether a program that is signalled saves what it has, and ends."""
        return self.checkpoint.random() < 0.5

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
        elif draw < 0.91:
            self.look_around()
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

    def look_around(self) -> None:
        """An environment is asked for, the disk fills or is cleared, somebody asks how things are."""
        chance, client, core = self.random, self.client, self.core
        client.ask_environment(chance.choice(ENVIRONMENTS))
        self.full = chance.random() < self.disk_troubles
        assert core.summary()["final"] == core.state.outcomes
        for uid in chance.sample(list(client.tasks), min(3, len(client.tasks))):
            assert core.why(uid)
            assert (core.doing(uid) == "unknown") == (uid not in core.state.tasks)

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
            over = [
                execution
                for execution, (_, ending, _) in process.running.items()
                if (everything or chance.random() < self.quickness) and not self.lasts(execution, ending)
            ]
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
        self.full = False
        client = self.client
        for name in ENVIRONMENTS:
            client.ask_environment(name)
        for turn in range(2000):
            # Behind a barrier that no more tasks come to, and beside services, nothing else would ever end.
            if not client.ended_pilot and (client.only_services_left() or len(client.tasks) < self.barrier):
                client.end_pilot(drain=self.random.random() < 0.7)
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
            self.check_outcome(uid, outcome)
        assert not (state.inputs or state.outputs or state.services), "something is left of tasks that are over"
        assert not self.surroundings.jobs and not self.surroundings.watched
        assert sorted(self.endings) == sorted(self.begun), "something still runs"
        self.policy.check([])
        free = self.policy.free()
        assert (free.cores, free.gpu_shares, free.memory) == self.all_free(), free
        assert state.outcomes == len(client.tasks) - len(self.late) - len(self.left)
        assert set(state.begun_tasks) == self.left and self.left <= state.tries.keys() <= self.left | self.late
        assert state.late.keys() == self.late == {uid for uid, _ in aftermath(state, 0).not_begun}
        assert all(load == 0 for load in self.core._pool._load.values()), "the loads of the spawners do not sum up"

    def all_free(self) -> tuple[int, int, int]:
        return (6, 128, 16)

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
