"""What tasks wait for, checked against the session and the tasks around them.

Tasks are named by handle or uid; those of the same list may be named by uid, in any order. A task that waits, directly or
through others, for itself can only be made within one list, as what is known already waits for nothing that is new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import located
from pilotage.core.client.facts import Held
from pilotage.core.client.holding import service_names
from pilotage.errors import InvalidRequest, InvalidTask, nearest
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.workload import Extra, Row, Template

if TYPE_CHECKING:
    from pilotage.client.session import Session

_NAMES_COMPARED = 5000
"""Names among which the nearest one to a wrong one is sought."""

_SHOWN_OF_A_CYCLE = 8


def in_order(uids: Sequence[TaskUid], held: Mapping[TaskUid, Held]) -> list[TaskUid]:
    """Return different tasks in an order in which none comes before one that it waits for; the given one where it is that.

    Raises:
        InvalidTask: some wait for each other in a circle, which is shown.
    """
    here = frozenset(uids)
    order: dict[TaskUid, None] = {}
    for start in uids:
        if start in order:
            continue
        # Depth first without recursion, as chains may be long: the tasks on the way, each with those before it left to see.
        way = {start: iter(_before(held.get(start)))}
        while way:
            uid, left = next(reversed(way.items()))
            following = next((other for other in left if other in here and other not in order), None)
            if following is None:
                del way[uid]
                order[uid] = None
            elif following in way:
                raise InvalidTask(_circle(list(way), following))
            else:
                way[following] = iter(_before(held.get(following)))
    return list(order)


class Dependencies:
    """What tasks of one session wait for, and the services that run elsewhere."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._elsewhere: dict[str, str] = {}

    def register_service(self, name: str, info: str) -> None:
        """Let tasks that are submitted from now on name a service that Pilotage does not run.

        Raises:
            InvalidRequest: a task has this uid, or name or information is not text.
        """
        if not isinstance(name, str) or not name or not isinstance(info, str):
            raise InvalidRequest(
                f"register_service({name!r:.60}, {info!r:.60}): give the service's name and its information as text (str)"
            )
        if name in self._session.state.tasks:
            raise InvalidRequest(f"register_service({name!r}): there is a task of this uid; choose another name")
        self._elsewhere[name] = info

    def held(
        self,
        descriptions: Sequence[TaskDescription],
        rows: list[Row],
        said: Mapping[int, Held],
        template: Callable[[TemplateId], Template],
    ) -> dict[TaskUid, Held]:
        """Return what tasks wait for, as ``said`` by position; in ``rows``, tell them of services from elsewhere.

        Raises:
            InvalidTask: one of them names what is not there, or cannot be meant.
        """
        tasks = self._session.state.tasks
        mine = {row.uid: row for row in rows}
        found: dict[TaskUid, Held] = {}
        for position, held in said.items():
            row = rows[position]
            try:
                self._require_own_handles(descriptions[position]._values)
                elsewhere = {uid: self._elsewhere[uid] for uid in held.services if uid in self._elsewhere}
                held = Held(held.after, held.policy, tuple([uid for uid in held.services if uid not in elsewhere]))
                for name, others in (("after", held.after), ("services", held.services)):
                    for other in others:
                        named = mine.get(other) or (tasks[other].row if other in tasks else None)
                        self._require_fit(name, row.uid, other, None if named is None else template(named.template), mine)
            except InvalidTask as error:
                raise located(error, descriptions[position], position, len(rows)) from error
            if elsewhere or held.services:
                variables = {name: info for uid, info in elsewhere.items() for name in service_names(uid)}
                services: dict[str, TaskUid] = {}
                for uid in held.services:
                    named = mine.get(uid) or tasks[uid].row
                    services |= {name: uid for known_as in (uid, named.name or uid) for name in service_names(known_as)}
                extra = msgspec.structs.replace(row.extra or Extra(), variables=variables, services=services)
                rows[position] = msgspec.structs.replace(row, extra=extra)
            if held.after or held.services:
                found[row.uid] = held
        return found

    def _require_fit(
        self, name: str, uid: TaskUid, other: TaskUid, template: Template | None, mine: Collection[TaskUid]
    ) -> None:
        if other == uid:
            raise InvalidTask(f"task: {name} names the task itself ({uid!r}); leave it out")
        if name == "after" and (other in self._elsewhere or (template is not None and template.service is not None)):
            raise InvalidTask(
                f"task: after names {other!r}, which is a service: it runs until its pilot ends, and so long it would wait; "
                "name it in services, and the task runs once it is ready"
            )
        if template is None:
            known = [*islice(mine, _NAMES_COMPARED), *islice(self._session.state.tasks, _NAMES_COMPARED), *self._elsewhere]
            raise InvalidTask(f"task: {name} names {other!r}, which is no task of this session or list{nearest(other, known)}")
        if name == "services" and template.service is None:
            raise InvalidTask(
                f"task: services names {other!r}, which is no service; name it in after, or give it mode=TASK_SERVICE"
            )

    def _require_own_handles(self, values: Mapping[str, Any]) -> None:
        for name in ("after", "services"):
            for entry in values.get(name) or ():
                if isinstance(entry, Task) and entry.tmgr.session is not self._session:
                    raise InvalidTask(
                        f"task: {name} names {entry!r} of session {entry.tmgr.session.uid}; it has to be a task of this session"
                    )


def _before(held: Held | None) -> tuple[TaskUid, ...]:
    return () if held is None else (*held.after, *held.services)


def _circle(path: list[TaskUid], closing: TaskUid) -> str:
    circle = [*path[path.index(closing) :], closing]
    if len(circle) > _SHOWN_OF_A_CYCLE:
        half = _SHOWN_OF_A_CYCLE // 2
        left_out = len(circle) - 2 * half
        circle = [*circle[:half], TaskUid(f"({left_out} more)"), *circle[-half:]]
    return f"these tasks wait for each other, each for the next: {' -> '.join(circle)}; take one out of after or services"
