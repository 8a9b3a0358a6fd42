"""The client of ``agent_world``: what it asks for in numbered messages, tasks of all kinds, and the outcomes it has."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

import msgspec
from agent_world_needs import SAID_BY_CLIENT, needs

from pilotage.core.agent import events
from pilotage.core.agent.retry import SERVICE_RETRIES
from pilotage.model.ids import Binding, TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.resources import Node, NodeShape, NodeShare, Request
from pilotage.model.services import Service
from pilotage.model.staging import Directive
from pilotage.model.workload import SHARED_SANDBOX, Batch, Extra, Row, Template

if TYPE_CHECKING:
    from agent_world import World

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

SLOTS = (NodeShare(1, 1, bytes([0b101])), NodeShare(1, 1, bytes([0b010])))

FEATURED = (
    Template(executable="/bin/true", retries=2, retry_on=("signal", 75)),
    Template(executable="/bin/true", retries=1, retry_on=("staging", "lost"), timeout_s=0.5),
    Template(executable="/bin/true", cleanup=True, retries=1),
    Template(executable="/bin/true", cleanup=True, sandbox=SHARED_SANDBOX),
    Template(executable="/bin/true", stage_on_error=True, cleanup=True),
    Template(executable="/bin/true", stage_on_error=True, retries=1, restartable=True),
    Template(executable="/bin/true", named_env="conda"),
    Template(executable="/bin/true", named_env="modules", retries=1, cleanup=True),
    Template(executable="/bin/true", named_env="rp"),
    Template(mode="function", function=b"f", named_env="conda"),
    Template(executable="/bin/true", request=Request(ranks=2, cores=1, slots=(SLOTS[1], NodeShare(0, 1, bytes([1]))))),
    Template(executable="/bin/true", request=Request(cores=2, slots=SLOTS[:1]), retries=1),
    Template(executable="/bin/true", request=Request(cores=2, slots=(NodeShare(2, 1, bytes([3])),))),
    Template(executable="/bin/server", service=Service()),
    Template(executable="/bin/server", service=Service(restart="on_failure"), retries=1),
    Template(executable="/bin/server", service=Service(restart="always"), cleanup=True),
    Template(executable="/bin/server", service=Service(restart="always"), named_env="conda", timeout_s=2.0),
)

MENU = (*TEMPLATES, *FEATURED)
ENVIRONMENTS = ("conda", "modules")
SPEC = msgspec.Raw(msgspec.msgpack.encode({"kind": "conda"}))
INPUT = (Directive("task:///a", "task:///b"),)
OUTPUT = (Directive("task:///c", "pilot:///d"),)


def retries_of(template: Template) -> int:
    """How many attempts may follow the first."""
    if template.service is None:
        return template.retries
    return 0 if template.service.restart == "never" else template.retries or SERVICE_RETRIES


def luggage(chance: random.Random, share: float) -> Extra | None:
    """What a task has to stage, if it is one of those, the ``share`` of all, that have something of their own."""
    if chance.random() >= share:
        return None
    return Extra(INPUT if chance.random() < 0.6 else (), OUTPUT if chance.random() < 0.6 else (), {"A": "1"})


class Client:
    """The client: what it asked for, in numbered messages, and the outcomes it has."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: list[events.TasksSubmitted | events.CancelRequested | events.EndRequested | events.EnvironmentAsked] = []
        self.told = 0
        """Messages that the present agent has heard."""
        self.tasks: dict[TaskUid, Template] = {}
        self.rows: dict[TaskUid, Row] = {}
        self.services: list[TaskUid] = []
        self.neediness = 0.0
        """How many tasks need services."""
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
                self.tasks[uid] = MENU[number]
                self.rows[uid] = Row(uid, number, extra=self.extra(chance))
                if MENU[number].service is not None:
                    self.services.append(uid)
                rows.append(self.rows[uid])
            if number not in self.templates:
                self.templates.add(number)
                templates[number] = MENU[number]
        self.messages.append(events.TasksSubmitted(0.0, len(self.messages) + 1, Binding(1), Batch(templates, rows)))

    def extra(self, chance: random.Random) -> Extra | None:
        """What the next task has of its own; some need services."""
        extra = luggage(chance, self.world.luggage)
        if not self.neediness or chance.random() >= self.neediness:
            return extra
        services = needs(chance, self.services, list(self.world.core.state.services))
        extra = extra or Extra()
        return msgspec.structs.replace(
            extra, services=services, variables={**extra.variables, **dict.fromkeys(services, SAID_BY_CLIENT)}
        )

    def ask_environment(self, name: str) -> None:
        self.messages.append(events.EnvironmentAsked(0.0, len(self.messages) + 1, name, SPEC))

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
        return [uid for uid in self.tasks if uid not in self.outcomes and uid not in self.world.late | self.world.left]

    def only_services_left(self) -> bool:
        undecided = self.undecided()
        return bool(undecided) and all(self.tasks[uid].service is not None for uid in undecided)
