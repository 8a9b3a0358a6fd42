"""Gangs in ``metascheduler_world``: a client that submits some, whole or in parts, and a witness of how they begin."""

from __future__ import annotations

import metascheduler_world
import msgspec
from metascheduler_world import MENU, MenuClient, World

from pilotage.core.agent import events
from pilotage.model.ids import Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Request
from pilotage.model.workload import Batch, Row, Template


class GangClient(MenuClient):
    """A client of whose tasks many belong to gangs; not all of these are ever complete."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.missing: list[list[Template]] = []
        self.gangs: dict[str, list[TaskUid]] = {}
        self.kinds = 0

    def submit(self) -> None:
        chance = self.world.random
        draw = chance.random()
        if draw < 0.5:
            super().submit()
        elif draw < 0.7 and self.missing:
            self.send(self.missing.pop(chance.randrange(len(self.missing))))
        else:
            self.begin_gang()

    def begin_gang(self) -> None:
        chance = self.world.random
        size = chance.choice((1, 2, 3))
        name = f"gang {len(self.gangs)}"
        self.gangs[name] = []
        members = []
        for _ in range(size):
            request = Request(cores=chance.choice((1, 1, 2)), ranks=chance.choice((1, 1, 2)), gang=name, gang_size=size)
            members.append(msgspec.structs.replace(MENU[0], request=request))
        cut = size if chance.random() < 0.6 else chance.randrange(size)
        if members[cut:]:
            self.missing.append(members[cut:])
        if members[:cut]:
            self.send(members[:cut])

    def send(self, members: list[Template]) -> None:
        rows, templates = [], {}
        for template in members:
            number = TemplateId(len(MENU) + self.kinds)
            self.kinds += 1
            uid = TaskUid(f"t{len(self.tasks):04d}")
            templates[number] = self.tasks[uid] = template
            self.gangs[template.request.gang].append(uid)
            rows.append(Row(uid, number))
        self.messages.append(events.TasksSubmitted(0.0, len(self.messages) + 1, Binding(1), Batch(templates, rows)))

    def only_services_left(self) -> bool:
        """Tell whether nothing else ends by itself: members wait for others that never come."""
        undecided = self.undecided()
        return bool(undecided) and all(self.waits_in_vain(uid) for uid in undecided)

    def waits_in_vain(self, uid: TaskUid) -> bool:
        template = self.tasks[uid]
        return template.service is not None or bool(template.request.beside) or self.is_incomplete(uid)

    def is_incomplete(self, uid: TaskUid) -> bool:
        request = self.tasks[uid].request
        return bool(request.gang) and len(self.gangs[request.gang]) < request.gang_size


class GangWorld(World):
    """A world in which it is looked at which gangs begin."""

    client: GangClient

    def check_outcome(self, uid: TaskUid, outcome: Outcome) -> None:
        request = self.client.tasks[uid].request
        if request.gang and self.client.is_incomplete(uid):
            assert not self.begins.get(uid), f"{uid} begins without its gang"
        if request.gang and outcome.ending in (Ending.CANCELLED, Ending.INFEASIBLE) and "gang" in outcome.message:
            return
        super().check_outcome(uid, outcome)

    def story(self) -> str:
        state = self.head.state
        lines = [f"{self.head.summary()}"]
        for uid in self.client.undecided()[:3]:
            task = state.tasks.get(uid)
            lines.append(f"{uid} {self.client.tasks[uid].request}: {self.head.why(uid)}; {task}")
            if task is not None and task.partition:
                partition = self.partitions[task.partition]
                if partition.core is not None:
                    lines.append(f"  there: {partition.core.why(uid)}; {partition.core.summary()}")
        return "\n".join(lines)


def gang_walk(seed: int, length: int = 150) -> GangWorld:
    """Walk through one world with gangs; the error of a walk that fails names its seed."""
    client, metascheduler_world.MenuClient = metascheduler_world.MenuClient, GangClient  # type: ignore[misc]
    try:
        world = GangWorld(seed, length)
        world.walk()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed: gang_walk({seed}) replays it: {error!r}") from error
    finally:
        metascheduler_world.MenuClient = client  # type: ignore[misc]
    return world
