"""The gangs of a session: who belongs to which, and that all of one gang agree in what has to be the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import located
from pilotage.core.client.facts import Held
from pilotage.errors import InvalidTask
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.workload import Row, Template

if TYPE_CHECKING:
    from pilotage.client.session import Session


class Gang(msgspec.Struct, frozen=True):
    """A gang of which ``members`` were submitted; the rest is what all say, by the names under which they do."""

    members: dict[TaskUid, None]
    gang_size: int
    manager: str
    pilot: str
    partition: str
    priority: int


class Gangs:
    """All gangs of a session, from its first one on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._templates: dict[TemplateId, Template] = {}
        self._gangs: dict[str, Gang] = {}
        self.learn(session.state.templates)
        for uid, record in session.state.tasks.items() if self._templates else ():
            template = self._templates.get(record.row.template)
            if template is not None:
                _join(self._gangs, uid, template, record.manager, record.pinned)

    def learn(self, templates: Mapping[TemplateId, Template]) -> None:
        """There will be tasks that follow these."""
        self._templates.update((number, template) for number, template in templates.items() if template.request.gang)

    def joined(
        self,
        manager: str,
        descriptions: Sequence[TaskDescription],
        rows: Sequence[Row],
        pins: Sequence[str],
        doubles: Collection[int],
    ) -> dict[str, Gang]:
        """Return the gangs as they are with these tasks, to be handed to ``keep``. ``doubles`` are known already.

        Raises:
            InvalidTask: a gang would have too many members, or they differ in what has to be the same.
        """
        if not self._templates:
            return {}
        gangs = dict(self._gangs)
        for position, row in enumerate(rows):
            template = self._templates.get(row.template)
            if template is None or position in doubles:
                continue
            try:
                _join(gangs, row.uid, template, manager, pins[position])
            except InvalidTask as error:
                raise located(error, descriptions[position], position, len(rows)) from error
        return gangs

    def require_no_order(
        self, gangs: Mapping[str, Gang], held: Mapping[TaskUid, Held], rows: Sequence[Row], positions: Mapping[TaskUid, int]
    ) -> None:
        """Refuse tasks that are to start together with one that they wait for. ``positions``: of tasks in ``rows``.

        Raises:
            InvalidTask: names the tasks and the gang.
        """
        for uid, asked in held.items() if gangs else ():
            template = self._templates.get(rows[positions[uid]].template)
            if template is None:
                continue
            gang = template.request.gang
            for other in asked.after:
                if other in gangs[gang].members:
                    raise InvalidTask(
                        f"task {uid!r}: after={other!r}, which is of the same gang={gang!r}: they start together; leave one of "
                        "the two out"
                    )

    def keep(self, gangs: dict[str, Gang]) -> None:
        """These are the gangs from now on."""
        self._gangs = gangs or self._gangs


def _join(gangs: dict[str, Gang], uid: TaskUid, template: Template, manager: str, pilot: str) -> None:
    request = template.request
    mine = Gang({uid: None}, request.gang_size, manager, pilot, template.partition, template.priority)
    gang = gangs.get(request.gang)
    if gang is None:
        gangs[request.gang] = mine
        return
    for name in ("gang_size", "manager", "pilot", "partition", "priority"):
        said, before = getattr(mine, name), getattr(gang, name)
        if said != before:
            raise InvalidTask(
                f"task: {name}={said!r}, and tasks of its gang={request.gang!r} that came before have {name}={before!r}; all "
                f"of a gang have the same {name}"
            )
    if len(gang.members) >= gang.gang_size:
        raise InvalidTask(
            f"task: gang={request.gang!r} has its gang_size={gang.gang_size} tasks already; give another gang another name"
        )
    gangs[request.gang] = msgspec.structs.replace(gang, members={**gang.members, uid: None})
