"""Sessions on disk whose logs were written by the real cores, with a clock that the test sets."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pilotage.core.agent import events
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.facts import LaunchRequested
from pilotage.core.client import facts as client
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.log.writer import LogWriter
from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt, Binding, PilotUid, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Row, Template

EXECUTABLE = Template(executable="/bin/true")
encode = msgspec.msgpack.encode


def nodes(count: int = 1, cores: int = 2, gpus: int = 0) -> list[Node]:
    return [Node(index, f"node{index}", NodeShape(cores, gpus, 64, 64)) for index in range(count)]


def batch(uids: Iterable[str], template: Template = EXECUTABLE, number: int = 1) -> Batch:
    rows = [Row(TaskUid(uid), TemplateId(number), name=f"name of {uid}") for uid in uids]
    return Batch({TemplateId(number): template}, rows)


def outcome(uid: str, *times: float, binding: int = 1, ending: Ending = Ending.DONE) -> Outcome:
    """The outcome of a first attempt; ``times``: accepted, launched, started, ended."""
    return Outcome(TaskUid(uid), Binding(binding), Attempt(1), ending, 0, times=Times(*times))


class AgentLog:
    """The core of an agent and the log that it writes: each step is one record, as in the agent."""

    def __init__(self, session: Path, pilot: str = "pilot.0000", machine: list[Node] | None = None, **options: object) -> None:
        self.folder = session / pilot
        self.folder.mkdir(parents=True, exist_ok=True)
        self.machine = machine or nodes()
        (self.folder / "pilot.json").write_bytes(msgspec.json.encode({"pilot": pilot, "nodes": self.machine}))
        self.writer = LogWriter.open(self.folder / "log", writer="test", **options)  # type: ignore[arg-type]
        self.core = AgentCore(Scheduler(self.machine), spawners=1)
        self.spawner = RunnerId("spawner.0")
        self.numbers = itertools.count(1)
        self.messages = itertools.count(1)
        self.running: dict[str, tuple[int, int]] = {}
        """Attempts that were handed over and have not ended, by task: (attempt, lane)."""
        self.launched: dict[str, float] = {}

    def start(self, at: float, connected: float) -> None:
        self.begin(at)
        self.connect(connected)

    def begin(self, at: float) -> None:
        self._log(self.core.start(at))

    def connect(self, connected: float) -> None:
        self.tell(events.RunnerConnected(connected, self.spawner, 100, 7, "boot"))
        self.tell(events.RunnerReconciled(connected, self.spawner, []))

    def tell(self, event: events.Event) -> Step:
        step = self.core.handle(event)
        self._log(step)
        return step

    def _log(self, step: Step) -> None:
        if step.facts:
            self.writer.append(encode(step.facts))
        for fact in step.facts:
            if isinstance(fact, LaunchRequested):
                for launch in fact.lanes:
                    self.running.update({uid: (attempt, launch.lane) for uid, attempt in launch.tasks})
                    self.launched.update({uid: fact.time for uid, _ in launch.tasks})
        self.core.performed()

    def submit(self, at: float, tasks: Batch, binding: int = 1) -> None:
        self.tell(events.TasksSubmitted(at, next(self.numbers), Binding(binding), tasks))

    def started(self, at: float, uid: str, since: float) -> None:
        attempt = Attempt(self.running[uid][0])
        self.tell(events.TasksStarted(at, self.spawner, [(TaskUid(uid), attempt, since)]))

    def ended(
        self, at: float, *ends: tuple[str, float, float], ending: Ending = Ending.DONE, exit_code: int | None = 0
    ) -> None:
        """Each end as (uid, started, ended)."""
        told = [
            AttemptEnd(TaskUid(uid), Attempt(self.running.pop(uid)[0]), ending, exit_code, started=started, ended=ended)
            for uid, started, ended in ends
        ]
        self.tell(events.TasksEnded(at, self.spawner, next(self.messages), told))

    def finish(self, at: float) -> None:
        self.tell(events.EndRequested(at, next(self.numbers), True, "all done"))
        self.tell(events.LinkOpened(at))
        self.tell(events.LinkOpened(at))
        self.writer.close()


class ClientLog:
    """The log of a client: facts as its core writes them, one record for each call of ``write``."""

    def __init__(self, session: Path, **options: object) -> None:
        self.writer = LogWriter.open(session / "client", writer="test", **options)  # type: ignore[arg-type]

    def write(self, *facts: client.Fact) -> None:
        self.writer.append(encode(list(facts)))

    def begin(self, at: float, *pilots: str, machine: list[Node] | None = None) -> None:
        self.write(
            client.EpochBegun(at, 1),
            client.ManagerAdded(at, "pmgr.0000", "pilots"),
            client.ManagerAdded(at, "tmgr.0000", "tasks"),
        )
        for pilot in pilots:
            uid = PilotUid(pilot)
            self.write(client.PilotAccepted(at, "pmgr.0000", uid, msgspec.Raw(encode({})), machine or nodes()))
            self.write(client.PilotsAdded("tmgr.0000", [uid]), client.PilotLaunched(at, uid, 1, 2, "boot"))

    def submit(self, at: float, tasks: Batch, pilot: str = "pilot.0000") -> None:
        self.write(client.TasksAccepted(at, "tmgr.0000", PilotUid(""), PilotUid(pilot), msgspec.Raw(encode(tasks))))

    def receive(self, at: float, outcomes: list[Outcome], number: int = 1, pilot: str = "pilot.0000") -> None:
        self.write(client.OutcomesReceived(at, PilotUid(pilot), number, msgspec.Raw(encode(outcomes))))


def random_run(session: Path, seed: int) -> AgentLog:
    """A run of random tasks on a random machine: chains in lanes, failures, cancels, recalls, a pilot that may never end."""
    chance = random.Random(seed)
    agent = AgentLog(session, machine=nodes(chance.randint(1, 3), chance.randint(1, 5), chance.randint(0, 2)))
    now = 1000.0 + chance.random()
    agent.start(now, now + chance.random())
    now += 1.0
    waiting = itertools.count()
    turns: dict[int, float] = {}
    began: dict[str, float] = {}
    for number in range(1, chance.randint(2, 60)):
        now += chance.choice((0.0, 0.001, chance.random()))
        what = chance.random()
        if what < 0.4 or not agent.running:
            gpus = agent.machine[0].shape.gpus
            request = Request(cores=chance.randint(1, 2), gpu_shares=chance.choice((0, 32, 64)) if gpus else 0)
            template = Template(executable="/bin/true", request=request, retries=chance.randint(0, 1))
            uids = [f"task.{next(waiting):04d}" for _ in range(chance.randint(1, 12))]
            agent.submit(now, batch(uids, template, number))
            continue
        # The tasks of a lane take turns: only the first of each does anything.
        heads = {lane: uid for uid, (_, lane) in reversed(agent.running.items())}
        lane, uid = chance.choice(list(heads.items()))
        attempt, _ = agent.running[uid]
        if what < 0.5:
            agent.started(now, uid, began.setdefault(uid, now))
        elif what < 0.55:
            agent.running.pop(uid)
            began.pop(uid, None)
            agent.tell(events.TasksReturned(now, agent.spawner, [(TaskUid(uid), Attempt(attempt))]))
        elif what < 0.6:
            agent.tell(events.CancelRequested(now, next(agent.numbers), [(TaskUid(uid), Binding(1))]))
        else:
            start = max(began.pop(uid, now - chance.random() * 0.01), turns.get(lane, 0.0), agent.launched[uid])
            turns[lane] = max(start, now)
            ending = chance.choice((Ending.DONE, Ending.DONE, Ending.EXITED, Ending.LAUNCH_FAILED))
            agent.ended(now, (uid, 0.0 if ending is Ending.LAUNCH_FAILED else start, now), ending=ending)
    if chance.random() < 0.7:
        now += chance.random()
        agent.tell(events.EndRequested(now, next(agent.numbers), False, "enough"))
    if chance.random() < 0.5:
        agent.finish(now + 0.5)
    else:
        agent.writer.close()
    return agent


__all__ = [name for name in dir(sys.modules[__name__]) if not name.startswith("_")]
