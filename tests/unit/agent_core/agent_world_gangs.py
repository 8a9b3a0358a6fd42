"""Gangs in ``agent_world``: a client that submits some, whole or in parts, and a witness of how they begin."""

from __future__ import annotations

from collections import Counter

import agent_world
import msgspec
from agent_world import World
from agent_world_client import MENU, Client

from pilotage.core.agent import events, facts
from pilotage.model.ids import Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Request
from pilotage.model.workload import Batch, Row, Template


class GangClient(Client):
    """A client of whose tasks many belong to gangs; not all of these are ever complete."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.missing: list[list[TemplateId]] = []
        self.known: dict[TemplateId, Template] = {}
        self.gangs: dict[str, list[TaskUid]] = {}

    def submit(self) -> None:
        chance = self.world.random
        draw = chance.random()
        if draw < 0.4:
            super().submit()
        elif draw < 0.6 and self.missing:
            self.send(self.missing.pop(chance.randrange(len(self.missing))))
        else:
            self.begin_gang()

    def begin_gang(self) -> None:
        chance = self.world.random
        size = chance.choice((1, 2, 3, 4))
        members = []
        for _ in range(size):
            kind = TemplateId(chance.choice(self.world.menu))
            template = MENU[kind]
            request = template.request
            if template.service is not None or (request.cores == 64 and chance.random() < 0.9):
                template, request = MENU[0], Request()
            joined = msgspec.structs.replace(request, gang=f"gang {len(self.gangs)}", gang_size=size)
            members.append(msgspec.structs.replace(template, request=joined))
        self.gangs[f"gang {len(self.gangs)}"] = []
        numbers = []
        for template in members:
            numbers.append(TemplateId(len(MENU) + len(self.known)))
            self.known[numbers[-1]] = template
        cut = size if chance.random() < 0.6 else chance.randrange(size)
        if numbers[cut:]:
            self.missing.append(numbers[cut:])
        if numbers[:cut]:
            self.send(numbers[:cut])

    def send(self, numbers: list[TemplateId]) -> None:
        rows = []
        for number in numbers:
            uid = TaskUid(f"t{len(self.tasks):04d}")
            template = self.tasks[uid] = self.known[number]
            self.gangs[template.request.gang].append(uid)
            rows.append(Row(uid, number, extra=self.extra(self.world.random)))
            self.rows[uid] = rows[-1]
        templates = {number: self.known[number] for number in numbers}
        self.messages.append(events.TasksSubmitted(0.0, len(self.messages) + 1, Binding(1), Batch(templates, rows)))

    def only_services_left(self) -> bool:
        """Tell whether nothing else ends by itself: members wait for others that never come."""
        undecided = self.undecided()
        return bool(undecided) and all(self.tasks[uid].service is not None or self.is_incomplete(uid) for uid in undecided)

    def is_incomplete(self, uid: TaskUid) -> bool:
        request = self.tasks[uid].request
        return bool(request.gang) and len(self.gangs[request.gang]) < request.gang_size


class GangWorld(World):
    """A world in which every launch of a gang is looked at."""

    client: GangClient

    def __init__(self, seed: int, length: int = 150) -> None:
        self.whole: set[str] = set()
        """Gangs that began."""
        super().__init__(seed, length)

    def read_fact(self, fact: facts.Fact) -> None:
        super().read_fact(fact)
        if isinstance(fact, facts.LaunchRequested):
            members: Counter[str] = Counter()
            for launch in fact.lanes:
                for uid, attempt in launch.tasks:
                    gang = self.client.tasks[uid].request.gang
                    if gang and attempt == 1:
                        members[gang] += 1
            for gang, count in members.items():
                size = self.client.tasks[self.client.gangs[gang][0]].request.gang_size
                assert count == size, f"{count} of the {size} tasks of {gang} start"
            self.whole.update(members)

    def check_outcome(self, uid: TaskUid, outcome: Outcome) -> None:
        gang = self.client.tasks[uid].request.gang
        if gang and not outcome.attempt:
            assert gang not in self.whole, f"{uid} never ran, and its gang did"
            if outcome.ending in (Ending.CANCELLED, Ending.INFEASIBLE) and "gang" in outcome.message:
                return
        super().check_outcome(uid, outcome)


def gang_walk(seed: int, length: int = 150) -> GangWorld:
    """Walk through one world with gangs; the error of a walk that fails names its seed."""
    client, agent_world.Client = agent_world.Client, GangClient  # type: ignore[misc]
    try:
        world = GangWorld(seed, length)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed: gang_walk({seed}) replays it: {error!r}") from error
    finally:
        agent_world.Client = client  # type: ignore[misc]
    return world
