"""A world for the metascheduler's core: a client above, agents of partitions below, misfortunes everywhere.

``World(seed)`` holds a head (the core and its log), partitions with real agents over virtual runners, and a client. ``step``
lets one thing happen by chance; ``settle`` stops the misfortunes and drives everything to its end. Messages are late, told
twice, and sent again over new connections; head and agents may die before and after each record and each action, partitions are
lost with or without the end of their logs, nodes move, partitions come and go. The witness stands outside: it sees tasks begin
and end where they run, outcomes where the client has them, and nodes where partitions use them.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque

import msgspec
from agent_world_client import Client, retries_of
from agent_world_runners import ADOPT_S
from metascheduler_world_partitions import WINDOW, Partition

from pilotage.core.agent.actions import SendOutcomes, SendPilotEnded, TellService
from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.core.metascheduler.recalls import MOST_RECALLS
from pilotage.core.metascheduler.state import MetaschedulerState, apply
from pilotage.errors import unreachable
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.partitions import Order, PartitionSpec, PolicyName, PolicySpec
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.services import Service
from pilotage.model.workload import Batch, Row, Template

NODES = [Node(index, f"node{index}", NodeShape(2, 0, 8, 8)) for index in range(8)]

MENU = (
    Template(executable="/bin/true"),
    Template(executable="/bin/true", retries=2),
    Template(executable="/bin/true", restartable=True, duration_s=3.0),
    Template(executable="/bin/true", request=Request(ranks=2, cores=2), retries=1),
    Template(executable="/bin/true", request=Request(ranks=4, cores=2), restartable=True),
    Template(executable="/bin/true", request=Request(cores=2), priority=1),
    Template(executable="/bin/true", request=Request(cores=64)),
    Template(executable="/bin/true", request=Request(colocate="together")),
    Template(executable="/bin/true", partition="special", retries=1),
    Template(executable="/bin/true", partition="nowhere"),
    Template(executable="/bin/true", named_env="conda", retries=1),
    Template(mode="function", function=b"f"),
    Template(mode="function", function=b"g", restartable=True),
    Template(executable="/bin/server", service=Service(restart="on_failure"), retries=1),
    Template(executable="/bin/true", request=Request(pinned=("node1",)), restartable=True),
    Template(executable="/bin/true", request=Request(beside="t0000"), retries=1),
)
IMPOSSIBLE = (6, 9)
BESIDE, BESIDE_IT = "t0000", 15
POLICIES: tuple[PolicyName, ...] = ("continuous", "continuous", "packed", "spread")
LULL = 75
"""Steps from the beginning of one lull to the next."""
SLOW_TURNS = 100
"""How long a slow partition stays so when all else is over."""
ORDERS: tuple[Order, ...] = ("priority", "backfill", "first_come")

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(list[facts.Fact]).decode


class HeadDied(Exception):
    """The head's process is gone, in the middle of what it did."""


class MenuClient(Client):
    """A client that orders from this menu."""

    world: World  # type: ignore[assignment]

    def submit(self) -> None:
        chance = self.world.random
        rows, templates = [], {}
        for _ in range(chance.choice((1, 2, 5, 12))):
            number = TemplateId(chance.choice(self.world.menu))
            named = MENU[number].partition
            if (number in IMPOSSIBLE or named not in self.world.known_tags) and chance.random() < 0.8:
                continue
            for _ in range(chance.choice((1, 1, 4))):
                uid = TaskUid(f"t{len(self.tasks):04d}")
                if uid == BESIDE and number == BESIDE_IT:
                    continue
                self.tasks[uid] = MENU[number]
                rows.append(Row(uid, number))
            if number not in self.templates:
                self.templates.add(number)
                templates[number] = MENU[number]
        self.messages.append(events.TasksSubmitted(0.0, len(self.messages) + 1, Binding(1), Batch(templates, rows)))

    def undecided(self) -> list[TaskUid]:
        late = self.world.head.state.late
        return [uid for uid in self.tasks if uid not in self.outcomes and uid not in late]


def some_plan(chance: random.Random) -> list[PartitionSpec]:
    """A plan of two to four partitions, the first of which takes everything that names none."""
    count, left = chance.choice((2, 2, 3, 4)), len(NODES)
    plan = []
    for number in range(count):
        nodes = min(chance.choice((1, 2, 3, 4)), left - (count - number - 1))
        left -= nodes
        elastic = chance.random() < 0.7
        plan.append(
            PartitionSpec(
                name=f"p{number}",
                nodes=nodes,
                least_nodes=min(nodes, chance.choice((0, 1))) if elastic else 0,
                most_nodes=max(nodes, chance.choice((4, 6, 8))) if elastic else 0,
                kinds=() if not number else chance.choice(((), (), ("function",), ("executable", "service"))),
                tags=("special",) if number == count - 1 and chance.random() < 0.5 else (),
                most_task_nodes=chance.choice((0, 0, 1)) if number else 0,
                longest_s=chance.choice((0.0, 0.0, 10.0)) if number else 0.0,
                scheduler=PolicySpec(policy=chance.choice(POLICIES), order=chance.choice(ORDERS)),
            )
        )
    return plan


class World:
    """Everything, by one seed."""

    in_job = False
    """Whether the pilot is a batch job."""
    drain_s = 0.0

    def __init__(self, seed: int, length: int = 150) -> None:
        self.random = chance = random.Random(seed)
        self.now = 1000.0
        self.length = length
        self.missing = random.Random(f"nodes that come of {seed}").choice((0, 0, 0, 1, 3, 6))
        """Nodes that never come up."""
        self.nodes = NODES[: len(NODES) - self.missing]
        self.haste = chance.choice((0.4, 0.8, 1.0))
        self.quickness = chance.choice((0.1, 0.5))
        self.task_seconds = chance.choice((1e-4, 0.1, 5.0))
        self.head_mishaps = chance.choice((0.0, 0.01, 0.05))
        self.partition_mishaps = chance.choice((0.0, 0.003, 0.02))
        self.losses = chance.choice((0.0, 0.05, 0.2))
        self.shyness = chance.choice((0.0, 0.7))
        """How often a partition is spared that has nothing which may run again elsewhere."""
        self.changes = chance.choice((0.0, 0.03))
        """How readily the user adds and retires partitions."""
        self.impatience = chance.choice((0.0, 0.1))
        self.release_idle_s = chance.choice((None, None, 5.0))
        self.menu = sorted(chance.sample(range(len(MENU)), chance.choice((2, 5, 9, len(MENU)))))
        self.plan = some_plan(chance)
        self.known_tags = {"", *(tag for spec in self.plan for tag in spec.tags)}
        self.ill_luck = random.Random(f"nodes of {seed}")
        self.node_losses = self.ill_luck.choice((0.0, 0.0, 0.01))
        self.nodes_gone: dict[int, None] = {}
        leisure = random.Random(f"leisure of {seed}")
        self.has_lulls = leisure.random() < 0.5
        """Whether the client at times submits nothing for long, while one partition is slow."""
        self.slow = leisure.choice(self.plan).name
        if self.has_lulls:
            self.menu = sorted({0, 1, 2, *self.menu})
        self.steps = 0
        self.calm = False
        self.digest = hashlib.sha256()
        self.pids = 100
        self.head_deaths = self.agent_deaths = self.node_moves = self.releases = 0
        self.lost: set[str] = set()
        self.given_back = 0
        self.tails_lost = self.failures_of_partitions = self.retirements = 0
        self.records: list[bytes] = []
        self.snapshot: tuple[int, bytes] = (0, _encode(MetaschedulerState()))
        self.shadow = MetaschedulerState()
        self.partitions: dict[str, Partition] = {}
        self.progress: deque[events.ProgressTold] = deque()
        self.begins: dict[TaskUid, list[tuple[str, Attempt]]] = {}
        self.launched: Counter[TaskUid] = Counter()
        self.alive: dict[TaskUid, str] = {}
        self.endings: dict[tuple[TaskUid, str, Attempt], Ending] = {}
        self.final: dict[TaskUid, Outcome] = {}
        self.cancel_logged: set[TaskUid] = set()
        self.client = MenuClient(self)  # type: ignore[arg-type]
        self.start_head()

    def next_pid(self) -> int:
        self.pids += 1
        return self.pids

    def mishap(self, chance: float) -> bool:
        return not self.calm and self.random.random() < chance

    def times_told(self) -> int:
        return 2 if not self.calm and self.random.random() < 0.1 else 1

    # The head.

    def start_head(self) -> None:
        """Recover from the log, as a new process does."""
        number, snapshot = self.snapshot
        state = msgspec.msgpack.decode(snapshot, type=MetaschedulerState)
        for record in self.records[number:]:
            for fact in _decode_record(record):
                apply(state, fact)
        assert _encode(state) == _encode(self.shadow), "what is recovered is not what was"
        self.head = MetaschedulerCore(
            self.plan,
            self.nodes,
            release_idle_s=self.release_idle_s,
            drain_s=self.drain_s,
            missing=self.missing,
            state=state,
        )
        self.head.recover(self.now)
        self.facts: list[facts.Fact] = []
        self.actions: list[actions.Action] = []
        self.progress.clear()
        for partition in self.partitions.values():
            partition.cut()
        self.client.told = state.received
        self.link_client()
        self.note(self.head.start(self.now))

    def link_client(self) -> None:
        """The client says hello: what it does not have on disk is sent again."""
        state = self.head.state
        self.client.forget_unsynced()
        for number in range(self.client.durable + 1, min(state.numbered, self.shadow.numbered) + 1):
            outcomes = None if number == state.ended else list(state.undelivered[number])
            self.client.inbox.append((number, outcomes))

    def handle(self, event: events.Event) -> None:
        self.note(self.head.handle(event))

    def note(self, step: Step) -> None:
        self.facts += step.facts
        self.actions += step.actions

    def may_die(self) -> None:
        if self.mishap(self.head_mishaps):
            raise HeadDied

    def turn(self) -> None:
        """One turn of the head's loop, or its death in it."""
        try:
            self.hear_client()
            self.hear_partitions()
            due = self.head.next_deadline()
            if due is not None and self.now >= due:
                self.handle(events.TimePassed(self.now))
            self.commit()
        except HeadDied:
            self.head_deaths += 1
            self.start_head()

    def hear_client(self) -> None:
        client = self.client
        for message in client.messages[client.told : client.told + self.random.randint(0, 3)]:
            for _ in range(self.times_told()):
                self.handle(msgspec.structs.replace(message, time=self.now))
                assert self.head.state.received == message.number, f"the head does not know that it has {message}"
            client.told = message.number
        if client.durable and self.random.random() < 0.5:
            self.handle(events.OutcomesReceived(self.now, client.durable))

    def hear_partitions(self) -> None:
        chance = self.random
        for name, partition in list(self.partitions.items()):
            record = self.head.state.partitions.get(name)
            if record is None or not record.living:
                continue
            if partition.over and not partition.up and (partition.fenced or chance.random() < 0.5):
                # Its processes are gone: it is fenced, and its log is read.
                partition.fenced = True
                if chance.random() < 0.7 or self.calm:
                    self.lost.add(name)
                    for _ in range(self.times_told()):
                        self.handle(partition.lost_event(self.head.state.partitions[name].received))
                continue
            if not partition.connected:
                if chance.random() < self.haste and (durable := partition.greet()) is not None:
                    self.handle(events.PartitionGreeted(self.now, name, partition.incarnation, durable))
            else:
                for event in partition.take_up():
                    self.handle(event)
                if chance.random() < 0.3:
                    self.handle(events.PartitionAcknowledged(self.now, name, partition.durable))
                if partition.core is not None and chance.random() < 0.5:
                    self.acknowledge(partition)
        while self.progress and chance.random() < 0.7:
            self.handle(msgspec.structs.replace(self.progress.popleft(), time=self.now))

    def acknowledge(self, partition: Partition) -> None:
        """Tell a partition what of it is in the log, so that it forgets it."""
        received = self.shadow.partitions[partition.name].received
        if received and partition.core is not None:
            partition.handle(events.OutcomesReceived(self.now, received))

    def commit(self) -> None:
        self.open_links()
        while self.facts or self.actions:
            self.may_die()
            taken, self.facts = self.facts, []
            todo, self.actions = self.actions, []
            if taken:
                self.append(taken)
                self.may_die()
            for action in todo:
                self.perform(action)
                self.may_die()
            self.head.performed()
            self.open_links()
        self.check_nodes()

    def open_links(self) -> None:
        if self.head.has_news and len(self.client.inbox) < 2:
            self.handle(events.LinkOpened(self.now))
        for name, partition in self.partitions.items():
            record = self.head.state.partitions.get(name)
            if record is not None and partition.connected and record.outbox and len(partition.down) < WINDOW:
                self.handle(events.PartitionLinkOpened(self.now, name, record.numbered + 1))

    def append(self, taken: list[facts.Fact]) -> None:
        record = _encode(taken)
        self.records.append(record)
        self.digest.update(record)
        for fact in _decode_record(record):
            self.read_fact(fact)
            apply(self.shadow, fact)
        assert _encode(self.shadow) == _encode(self.head.state), "the facts do not make the state that the head has"
        if self.random.random() < 0.05:
            self.snapshot = (len(self.records), _encode(self.head.state))

    def read_fact(self, fact: facts.Fact) -> None:
        """Judge a fact as it is written."""
        if isinstance(fact, facts.TasksLeased):
            record = self.shadow.partitions[fact.partition]
            assert record.life == "active", f"{fact} to a partition that is {record.life}"
            for uid in fact.tasks:
                task = self.shadow.tasks[uid]
                assert not task.partition, f"{uid} is leased to {fact.partition}, and {task.partition} has it"
                assert uid not in self.cancel_logged, f"{uid} is leased after it was cancelled"
                assert fact.lease == task.lease + 1
                self.check_fit(uid, record.spec)
        elif isinstance(fact, facts.PartitionAdded):
            assert fact.nodes or len(self.nodes) < len(self.plan), f"{fact} has no node, and there are enough for all"
        elif isinstance(fact, facts.EndAsked):
            self.cancel_logged.update(fact.tasks)
        elif isinstance(fact, facts.NodesGranted):
            record = self.shadow.partitions[fact.partition]
            assert len(record.nodes) + len(fact.nodes) <= record.spec.most_nodes, f"{fact} exceeds the most"
            self.node_moves += 1
        elif isinstance(fact, facts.TasksRecalled):
            assert len(self.shadow.partitions[fact.partition].recalls) == 0, f"{fact}, and one request is not answered"
            for uid in fact.tasks:
                task = self.shadow.tasks[uid]
                assert task.partition == fact.partition, f"{uid} is asked of {fact.partition}, and {task.partition} has it"
                assert task.recalls < MOST_RECALLS, f"{uid} is asked for too often"
        elif isinstance(fact, facts.RecallAnswered):
            self.given_back += len(fact.tasks)
        elif isinstance(fact, facts.NodesTaken):
            record = self.shadow.partitions[fact.partition]
            left = len(record.nodes) - len(fact.nodes)
            # What is asked back of a partition may cross what it tells of lost nodes on the way.
            assert left >= max(1, record.spec.least_nodes) or self.nodes_gone, f"{fact} leaves less than the least"
        elif isinstance(fact, facts.PartitionEnding) and fact.released:
            assert not self.shadow.partitions[fact.partition].leased
            self.releases += 1

    def check_fit(self, uid: TaskUid, spec: PartitionSpec) -> None:
        template = self.client.tasks[uid]
        kind = "service" if template.service is not None else template.mode
        assert not spec.kinds or kind in spec.kinds, f"{uid} is a {kind} and goes to {spec}"
        assert template.partition in ("", spec.name, *spec.tags), f"{uid} names {template.partition} and goes to {spec}"
        assert template.partition or not spec.tags, f"{uid} names no partition and goes to {spec}"
        assert not spec.longest_s or 0.0 < template.duration_s <= spec.longest_s, f"{uid} may be long, and goes to {spec}"

    def perform(self, action: actions.Action) -> None:
        match action:
            case SendOutcomes():
                self.client.inbox.append((action.number, list(action.outcomes)))
            case SendPilotEnded():
                self.client.inbox.append((action.number, None))
            case actions.StartPartition():
                name = action.partition
                if name not in self.partitions:
                    record = self.head.state.partitions[name]
                    # What it began with is what the log says that it began with, whatever it was granted since.
                    first = self.first_nodes(name)
                    assert first, f"{name} is started without a node"
                    self.partitions[name] = Partition(self, name, record.spec, first)
            case actions.SendMessage():
                partition = self.partitions[action.partition]
                if partition.connected:
                    queued = self.head.state.partitions[action.partition].unacknowledged[action.number]
                    partition.down.append((action.number, _encode(queued)))
            case actions.DisconnectPartition():
                partition = self.partitions[action.partition]
                if not partition.over:
                    partition.close()
                partition.cut()
            case actions.OfferMessages() | actions.TellStarted() | actions.TellUnloading() | TellService() | actions.TellUser():
                pass
            case _:
                unreachable(action)

    def first_nodes(self, name: str) -> list[int]:
        for record in self.records:
            for fact in _decode_record(record):
                if isinstance(fact, facts.PartitionAdded) and fact.partition == name:
                    return fact.nodes
        raise AssertionError(f"{name} was never added")

    # The witness.

    def check_nodes(self) -> None:
        """No node is used by two partitions, and none by one that does not own it."""
        users: dict[int, str] = {}
        for name, partition in self.partitions.items():
            if partition.over or partition.core is None or partition.core.finished:
                continue
            owned = self.head.state.partitions[name].nodes
            for node in partition.core._nodes.own():
                assert node not in users, f"node {node} is used by {users[node]} and by {name}"
                assert node in owned, f"node {node} is used by {name}, which does not own it"
                users[node] = name
        owners = [node for record in self.head.state.partitions.values() for node in record.nodes]
        everything = [*owners, *self.head.state.free_nodes, *self.head.state.lost_nodes]
        assert sorted(everything) == list(range(len(self.nodes))), f"nodes are owned twice, or by nobody: {everything}"
        for name, record in self.head.state.partitions.items():
            can_have_nodes = record.nodes or record.spec.most_nodes
            assert can_have_nodes or not record.hires, f"{name} is {record.life}, and has no node and never will"

    def note_begin(self, partition: Partition, uid: TaskUid, attempt: Attempt) -> None:
        template = self.client.tasks[uid]
        assert uid not in self.alive, f"{uid} begins in {partition.name} while it runs in {self.alive[uid]}"
        assert uid not in self.final, f"{uid} begins in {partition.name} after its outcome {self.final[uid]}"
        begins = self.begins.setdefault(uid, [])
        if not self.tails_lost:
            assert attempt not in [each for _, each in begins], f"attempt {attempt} of {uid} begins again: {begins}"
            if not template.restartable:
                assert len(begins) <= retries_of(template), f"{uid} begins too often: {begins}"
        begins.append((partition.name, attempt))
        self.alive[uid] = partition.name

    def note_end(self, partition: Partition, execution: Execution, ending: Ending) -> None:
        del self.alive[execution[0]]
        self.endings[execution[0], partition.name, execution[1]] = ending

    # What happens.

    def step(self) -> None:
        """Let one thing happen."""
        chance, client = self.random, self.client
        self.steps += 1
        if self.ill_luck.random() < self.node_losses and len(self.nodes_gone) < len(NODES) // 2:
            self.nodes_gone[self.ill_luck.randrange(len(self.nodes))] = None
            for partition in self.partitions.values():
                partition.miss_nodes()
        draw = chance.random()
        if draw < 0.25:
            self.turn()
        elif draw < 0.45:
            for partition in self.some_partition():
                partition.turn()
        elif draw < 0.65:
            for partition in self.some_partition():
                if not self.is_slow(partition):
                    partition.run()
        elif draw < 0.75:
            if not self.has_lulls:
                client.submit()
            elif self.steps % LULL < LULL // 3:
                for _ in range(4):
                    client.submit()
        elif draw < 0.80:
            if client.tasks:
                client.cancel()
        elif draw < 0.86:
            client.take()
            if chance.random() < 0.7:
                client.durable = len(client.received)
        elif draw < 0.88:
            self.ask_environment()
            self.look_around()
        elif draw < 0.93:
            self.now += chance.choice((0.001, 0.2, 1.0, 3.0, 12.0))
        elif draw < 0.935:
            if chance.random() < self.impatience:
                client.end_pilot(chance.random() < 0.6)
        elif draw < 0.96:
            if chance.random() < self.changes * 10:
                self.change_partitions()
        elif draw < 0.975:
            self.trouble()
        elif chance.random() < self.losses * 10:
            for partition in self.some_partition():
                retried = any(self.client.tasks[uid].retries for uid, name in self.alive.items() if name == partition.name)
                if (partition.name != "p0" or chance.random() < 0.3) and (retried or chance.random() > self.shyness):
                    node_lost = chance.random() < 0.25
                    self.tails_lost += node_lost
                    partition.lose(node_lost)

    def is_slow(self, partition: Partition) -> bool:
        return self.has_lulls and partition.name == self.slow

    def some_partition(self) -> list[Partition]:
        living = [partition for partition in self.partitions.values() if not partition.over]
        return [self.random.choice(living)] if living else []

    def ask_environment(self) -> None:
        """The user wants the environment: once is enough, for partitions that come later, too."""
        if not any(isinstance(message, events.EnvironmentAsked) for message in self.client.messages):
            self.client.ask_environment("conda")

    def look_around(self) -> None:
        assert self.head.summary()["final"] == self.head.state.outcomes
        for uid in self.random.sample(list(self.client.tasks), min(3, len(self.client.tasks))):
            assert self.head.why(uid)
            assert (self.head.doing(uid) == "unknown") == (uid not in self.head.state.tasks)

    def change_partitions(self) -> None:
        """The user adds a partition, or retires one."""
        chance, state = self.random, self.head.state
        if chance.random() < (0.6 if state.free_nodes else 0.3) or len(state.partitions) < 2:
            name = f"q{len(state.partitions)}"
            tags = ("special",) if chance.random() < 0.3 else ()
            nodes, idle_timeout_s = chance.choice((1, 1, 2)), chance.choice((0.0, 0.0, 3.0))
            spec = PartitionSpec(name=name, nodes=nodes, tags=tags, idle_timeout_s=idle_timeout_s)
            self.handle(events.PartitionAsked(self.now, 0, spec))
        else:
            self.retirements += 1
            name = chance.choice(list(state.partitions)[chance.random() < 0.9 :])
            self.handle(events.RetirementAsked(self.now, 0, name, chance.random() < 0.7))

    def trouble(self) -> None:
        """Someone dies, or a connection breaks."""
        chance = self.random
        draw = chance.random()
        if draw < 4 * self.head_mishaps:
            self.head_deaths += 1
            self.start_head()
        elif draw < 0.3:
            self.link_client()
        elif self.partition_mishaps:
            for partition in self.some_partition():
                if draw < 0.5:
                    partition.cut()
                elif draw < 0.65:
                    self.agent_deaths += 1
                    partition.end_agent()
                elif draw < 0.9:
                    for process in chance.sample(list(partition.processes.values()), min(1, len(partition.processes))):
                        process.die()
                elif partition.core is not None:
                    # Its runners do not come up any more, or its time is over.
                    self.failures_of_partitions += 1
                    partition.handle(events.EndRequested(self.now, 0, False, "it cannot go on", True))

    # The end.

    def walk(self) -> None:
        """Live through all of it."""
        for _ in range(self.length):
            self.step()
        self.settle()
        self.check_end()

    def settle(self) -> None:
        """No more misfortune: everything that waits for something gets it."""
        self.calm, self.haste = True, 1.0
        client = self.client
        self.ask_environment()
        for turn in range(3000):
            if not client.ended_pilot and (client.only_services_left() or not client.undecided()):
                client.end_pilot(drain=self.random.random() < 0.7)
            self.turn()
            for partition in list(self.partitions.values()):
                partition.turn()
                if not self.is_slow(partition) or turn > SLOW_TURNS:
                    partition.run(everything=True)
            client.take()
            client.durable = len(client.received)
            if self.is_quiet():
                return
            if turn % 5 == 4:
                self.now += self.random.choice((0.05, 1.0, 1.0, ADOPT_S))
        raise AssertionError(f"things wait for ever: {self.story()}")

    def is_quiet(self) -> bool:
        client = self.client
        return not client.undecided() and client.told == len(client.messages) and self.head.finished and self.head.told

    def story(self) -> str:
        uids = self.client.undecided()[:3]
        lines = [f"{len(self.client.undecided())} undecided, told {self.head.told}, {self.head.summary()}"]
        for uid in uids:
            task = self.head.state.tasks.get(uid)
            lines.append(f"{uid} menu {MENU.index(self.client.tasks[uid])}: {self.head.why(uid)}; {task}")
            if task is not None and task.partition:
                partition = self.partitions[task.partition]
                if partition.core is not None:
                    lines.append(f"  there: {partition.core.why(uid)}; {partition.core.summary()}")
        return "\n".join(lines)

    def check_end(self) -> None:
        """Compare what was promised with what the witness saw, and with the books."""
        client, state = self.client, self.head.state
        assert client.outcomes.keys() | state.late.keys() == client.tasks.keys()
        self.check_given_up()
        for uid, outcome in client.outcomes.items():
            self.check_outcome(uid, outcome)
        assert not (state.tasks or state.services or state.unsent or state.undelivered)
        assert not self.alive, f"something still runs: {self.alive}"
        assert state.outcomes == len(client.outcomes)
        assert not self.head._queue.groups() and not self.head._tasks.unserved and not self.head._tasks.running
        assert not self.head._backlogs
        assert all(not record.living and not record.nodes for record in state.partitions.values())

    def check_given_up(self) -> None:
        """Tasks go back to the client when nobody is left to run them; of those that have begun it is told so."""
        state, begun = self.head.state, set(self.head.state.begun_tasks)
        gone = self.lost or self.nodes_gone or self.failures_of_partitions or self.missing
        assert not state.late or gone, f"{list(state.late)} go back to the client, and nobody was lost"
        assert not state.late.keys() & self.client.outcomes.keys()
        for uid in state.late:
            template, begins = self.client.tasks[uid], self.begins.get(uid, [])
            assert uid in begun or not begins or self.tails_lost, f"{uid} is said to have never begun: {begins}"
            assert uid not in begun or self.launched[uid] or self.tails_lost, f"{uid} was never launched"
            if begins and not template.restartable and not self.tails_lost:
                assert len(begins) <= template.retries, f"{uid} goes back to be run again, and began {begins}"

    def check_outcome(self, uid: TaskUid, outcome: Outcome) -> None:
        client, template = self.client, self.client.tasks[uid]
        over = client.ended_pilot or self.head.state.ending is not None
        begins = self.begins.get(uid, [])
        assert outcome.binding == 1
        # What may have been launched in a log that lost its end counts as an attempt.
        assert outcome.attempt <= self.launched[uid] or self.tails_lost, f"{uid} was launched {self.launched[uid]} times"
        if outcome.ending is Ending.DONE and template.service is None:
            ended = [self.endings[uid, name, attempt] for name, attempt in begins if attempt == outcome.attempt]
            assert Ending.DONE in ended, f"{uid} is said to be done: {begins} ended {ended}"
        elif outcome.ending is Ending.CANCELLED:
            assert uid in client.cancelled or over, f"nobody cancelled {uid}: {outcome}"
        elif outcome.ending is Ending.INFEASIBLE:
            impossible = template in [MENU[number] for number in IMPOSSIBLE]
            request = template.request
            narrow = request.ranks > 1 or template.partition or request.colocate or request.pinned or request.beside
            gone = any(record.life in ("ended", "lost") for record in self.head.state.partitions.values())
            assert impossible or narrow or gone or self.nodes_gone or self.missing, f"{uid} could have run: {outcome}"
            assert "partition" in outcome.message or "node" in outcome.message
        elif outcome.ending is Ending.LOST:
            assert uid in self.launched or self.tails_lost, f"{uid} is lost, and was never launched: {outcome}"
            assert self.agent_deaths or self.partition_mishaps or self.head_deaths or self.retirements or self.lost, (
                f"{uid} is lost, and nothing was: {outcome}"
            )
        if outcome.ending is not Ending.DONE and (template.restartable or outcome.attempt <= template.retries):
            # What may run again does, if only a partition stood in its way.
            assert outcome.ending is not Ending.LOST or self.tails_lost or over, f"{uid} may have run again: {outcome}"

    def fingerprint(self) -> str:
        return self.digest.hexdigest()


def walk(seed: int, length: int = 150) -> World:
    """Walk through one world; the error of a walk that fails names its seed."""
    try:
        world = World(seed, length)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed; PILOTAGE_SEED={seed} replays it: {error!r}") from error
    return world
