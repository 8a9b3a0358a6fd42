"""Builders for the tests of the client's core: small words for events, and a log that is written and read like the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from pilotage.core.client import actions, events, facts
from pilotage.core.client.applying import apply
from pilotage.core.client.bound_load import is_wide
from pilotage.core.client.core import ClientCore, Decision
from pilotage.core.client.holding import Holding, verdict
from pilotage.core.client.state import ClientState
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Row, Template

MANAGER = "tmgr.0000"
PLAIN, RESTARTABLE, RETRIED, WIDE, RETRIED_IF_LOST, RETRIED_IF_75, ON_GPU, BESIDE_A = map(TemplateId, range(1, 9))
TEMPLATES = {
    PLAIN: Template(executable="/bin/true"),
    RESTARTABLE: Template(executable="/bin/true", restartable=True),
    RETRIED: Template(executable="/bin/true", retries=1),
    WIDE: Template(executable="/bin/true", request=Request(cores=8)),
    RETRIED_IF_LOST: Template(executable="/bin/true", retries=1, retry_on=("memory", "lost")),
    RETRIED_IF_75: Template(executable="/bin/true", retries=1, retry_on=(75, "node")),
    BESIDE_A: Template(executable="/bin/true", request=Request(beside="a")),
    ON_GPU: Template(executable="/bin/true", request=Request(gpu_shares=64)),
}


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def nodes(cores: int = 2, gpus: int = 0) -> list[Node]:
    return [Node(0, "here", NodeShape(cores, gpus))]


def outcome(uid: str, binding: int = 1, ending: Ending = Ending.DONE) -> Outcome:
    return Outcome(TaskUid(uid), Binding(binding), Attempt(1), ending)


class Session:
    """A core with a clock that ticks with each event, and the log of its facts."""

    def __init__(self, *pilots: str, active: bool = True, scheduler: facts.TaskScheduler = "") -> None:
        self.core = ClientCore()
        self.records: list[bytes] = []
        self.time = 0.0
        self.last = Decision()
        self.received: dict[str, int] = {}
        self.do(events.SessionOpened(self.tick(), 1))
        self.do(events.ManagerCreated(self.tick(), "pmgr.0000", "pilots"))
        self.do(events.ManagerCreated(self.tick(), MANAGER, "tasks", scheduler))
        for pilot in pilots:
            self.add(pilot)
            if active:
                self.greet(pilot)

    @property
    def state(self) -> ClientState:
        return self.core.state

    def tick(self) -> float:
        self.time += 1.0
        return self.time

    def do(self, event: events.Event) -> Decision:
        self.last = self.core.handle(event)
        if self.last.facts:
            self.records.append(msgspec.msgpack.encode(self.last.facts))
        return self.last

    def recovered(self) -> ClientState:
        """Return what a new process would know."""
        state = ClientState()
        for record in self.records:
            for fact in msgspec.msgpack.decode(record, type=list[facts.Fact]):
                apply(state, fact)
        return state

    def crash(self) -> None:
        self.core = ClientCore(self.recovered())
        self.do(events.SessionOpened(self.tick(), self.state.epoch + 1))

    # the user

    def add(self, pilot: str, cores: int = 2, gpus: int = 0, services: tuple[str, ...] = (), barrier: int = 0) -> None:
        uid = PilotUid(pilot)
        awaited = tuple(map(TaskUid, services))
        self.do(events.PilotSubmitted(self.tick(), "pmgr.0000", uid, raw({}), nodes(cores, gpus), awaited, barrier))
        self.do(events.PilotsAttached(self.tick(), MANAGER, [uid]))

    def submit(
        self, *uids: str, template: TemplateId = PLAIN, pinned: str = "", held: dict[str, facts.Held] | None = None
    ) -> Decision:
        new = {} if template in self.state.templates else {template: TEMPLATES[template]}
        batch = Batch(new, [Row(TaskUid(uid), template) for uid in uids])
        waiting = {TaskUid(uid): how for uid, how in (held or {}).items()}
        return self.do(events.TasksSubmitted(self.tick(), MANAGER, PilotUid(pinned), batch, raw(batch), held=waiting))

    def submit_after(self, uid: str, *after: str, policy: facts.AfterPolicy = "ok", services: tuple[str, ...] = ()) -> Decision:
        held = facts.Held(tuple(map(TaskUid, after)), policy, tuple(map(TaskUid, services)))
        return self.submit(uid, held={uid: held})

    def ready(self, pilot: str, **services: str) -> Decision:
        """The pilot says that these services are ready."""
        records = self.state.tasks
        told = [(TaskUid(uid), records[TaskUid(uid)].binding, Attempt(1), info) for uid, info in services.items()]
        return self.do(events.ServicesSeen(self.tick(), PilotUid(pilot), told))

    def cancel(self, *uids: str) -> Decision:
        return self.do(events.CancelRequested(self.tick(), [TaskUid(uid) for uid in uids]))

    def end_pilot(self, pilot: str, drain: bool = False) -> Decision:
        return self.do(events.PilotCancelRequested(self.tick(), [PilotUid(pilot)], drain))

    # the pilots

    def greet(self, pilot: str, durable: int = 0, incarnation: int = 1) -> Decision:
        uid = PilotUid(pilot)
        return self.do(events.AgentGreeted(self.tick(), uid, incarnation, durable, self.state.pilots[uid].nodes))

    def number_all(self, pilot: str) -> None:
        record = self.state.pilots[PilotUid(pilot)]
        while record.outbox:
            self.do(events.LinkOpened(record.uid, record.numbered + 1))

    def outcomes(self, pilot: str, *outcomes: Outcome, number: int = 0) -> Decision:
        record = self.state.pilots[PilotUid(pilot)]
        number = number or record.received + 1
        return self.do(events.OutcomesArrived(self.tick(), record.uid, number, list(outcomes), raw(list(outcomes))))

    def goodbye(self, pilot: str, state: str, reason: str = "", begun: Iterable[str] = ()) -> Decision:
        record, tasks = self.state.pilots[PilotUid(pilot)], [TaskUid(uid) for uid in begun]
        return self.do(events.PilotEndArrived(self.tick(), record.uid, record.received + 1, state, reason, tasks))

    def lose(self, pilot: str) -> Decision:
        return self.do(events.PilotLost(self.tick(), PilotUid(pilot), "killed"))

    # looking

    def state_of(self, uid: str) -> str:
        return self.state.tasks[TaskUid(uid)].state

    def ending_of(self, uid: str) -> Ending:
        found = self.state.tasks[TaskUid(uid)].outcome
        assert found is not None, f"{uid} is {self.state_of(uid)}"
        return found.ending

    def pilot_of(self, uid: str) -> str:
        return self.state.tasks[TaskUid(uid)].pilot

    def nodes_of(self, pilot: str) -> list[Node]:
        return self.state.pilots[PilotUid(pilot)].nodes

    def check(self) -> None:
        """What must hold at any time."""
        assert msgspec.msgpack.encode(self.recovered()) == msgspec.msgpack.encode(self.state), "recovery gives another state"
        for uid, pilot in self.state.pilots.items():
            unfinished = sum(record.pilot == uid and record.outcome is None for record in self.state.tasks.values())
            assert pilot.load == unfinished, f"{uid}: load {pilot.load}, but {unfinished} tasks are unfinished"
            wide = Counter(
                record.row.template
                for record in self.state.tasks.values()
                if record.pilot == uid and record.outcome is None and is_wide(self.state.templates[record.row.template].request)
            )
            assert pilot.wide == wide, f"{uid}: wide tasks {pilot.wide}, not {wide}"
        unbound = {uid for uid, record in self.state.tasks.items() if not record.pilot and record.outcome is None}
        waiting = {uid for manager in self.state.managers.values() for uid in manager.waiting}
        assert unbound == waiting | self.state.held.keys()
        assert not waiting & self.state.held.keys()
        for uid, held in self.state.held.items():
            is_open = self.core._holding.is_open(uid)
            assert verdict(held, self.state.tasks, is_open=is_open) is None, f"{uid} is held for nothing"
        rebuilt = Holding(self.state)
        assert rebuilt._open == self.core._holding._open
        for uid in self.state.service_info:
            assert self.state.tasks[uid].outcome is None, f"service {uid} is over, and said to be ready"


def told(decision: Decision) -> list[str]:
    """Return the uids of the tasks that a decision tells about."""
    return [record.row.uid for action in decision.actions if isinstance(action, actions.TellTasks) for record in action.tasks]


def kinds(decision: Decision) -> list[str]:
    return [type(fact).__name__ for fact in decision.facts]
