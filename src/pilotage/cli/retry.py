"""``pilotage task retry``: tasks that have ended run once more.

Each task has exactly one outcome, so a repetition is a new task of the same session: ``task.000007`` is followed by
``task.000007.retry1``. Of a task that was repeated before, only the last repetition counts.

The services that such tasks need are over, too. They run once more as services of the new pilot, under a new uid and the
name that they were known by, so that tasks find them under the same variables.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any

from pilotage.cli.execution import Campaign, Window
from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import note, plural
from pilotage.cli.selection import Selection
from pilotage.core.client.holding import service_names
from pilotage.core.client.state import ClientState, TaskRecord
from pilotage.errors import InvalidRequest
from pilotage.model.ids import TaskUid

if TYPE_CHECKING:
    from pilotage.client.session import Session
    from pilotage.client.task_description import TaskDescription

_OF_THEIR_TIME = ("after", "after_policy", "services", "pilot")
"""Attributes that name tasks and pilots which are over."""

_REPETITION = re.compile(r"(.*)\.retry(\d+)\Z", re.DOTALL)


def retry_tasks(name: str, selection: Selection, *, show_output: bool) -> int:
    """Run the tasks that are meant once more, and return the exit code as ``pilotage run`` does.

    Raises:
        InvalidRequest: none of them has ended, or the session has no pilot to take after.
        SessionInUse: a program has the session.
    """
    from pilotage.cli.lookup import find_session
    from pilotage.client.session import Session

    folder = find_session(name)
    with Interrupts() as interrupts, Session.resume(folder.name) as session:
        chosen = selection.of(session.state, folder)
        ended = last_of_each([record for record in chosen if record.outcome is not None])
        if not ended:
            remedy = f"see: pilotage task list -s {folder.name}"
            raise InvalidRequest(f"session {folder.name} has no such task that has ended; {remedy}")
        pilot = _last_pilot(session.state)
        services = _Services(session)
        services.repeat(pilot.pop("services", ()))
        for record in ended:
            services.repeat_those_of(record.row.uid)
        described = [services.described_again(record) for record in ended if record.row.uid not in services]
        if not described:
            remedy = f"choose the tasks that need them; see: pilotage task list -s {folder.name}"
            raise InvalidRequest(f"what was chosen of session {folder.name} are services of its pilot, no tasks; {remedy}")
        if again := services.described():
            pilot["services"] = again
        note(f"running {plural(len(described), 'task')} of session {folder.name} once more")
        campaign = Campaign("", pilot, show_output)
        return campaign.run_in(session, interrupts, lambda manager: Window(manager, described), len(described))


class _Services:
    """Services that are to run once more, each under one new uid however often it was repeated before."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._state = session.state
        self._last: dict[str, TaskUid] = {}
        """By what their uids begin with: the repetition that is repeated."""

    def __contains__(self, uid: TaskUid) -> bool:
        return _root(uid)[0] in self._last

    def repeat(self, services: Iterable[TaskUid]) -> None:
        """Run these once more, and what they need themselves."""
        for uid in services:
            root, _ = _root(uid)
            if uid in self._state.tasks and root not in self._last:
                self._last[root] = uid
                self.repeat_those_of(uid)

    def repeat_those_of(self, task: TaskUid) -> None:
        """Run the services that this task needs once more; it is told again of those that run elsewhere."""
        asked = self._state.asked.get(task)
        if asked is None:
            return
        self.repeat(asked.services)
        extra = self._state.tasks[task].row.extra
        for uid in asked.services:
            name, _ = service_names(uid)
            if uid not in self._state.tasks and extra is not None and name in extra.variables:
                self._session.submissions.dependencies.register_service(uid, extra.variables[name])

    def described(self) -> list[TaskDescription]:
        """Return descriptions of all of them."""
        found = []
        for root, uid in self._last.items():
            record = self._state.tasks[uid]
            description = self.described_again(record)
            description.name = record.row.name or root
            found.append(description)
        return found

    def described_again(self, record: TaskRecord) -> TaskDescription:
        """Return a description of this task's next repetition, which names the repetitions of its services."""
        from pilotage.client.task import Task
        from pilotage.client.task_description import TaskDescription

        task = Task(self._session.get_task_managers(record.manager), record)
        said = {key: value for key, value in task.description.as_dict().items() if key not in _OF_THEIR_TIME}
        said["uid"] = next_uid(record.row.uid, self._state.tasks)
        asked = self._state.asked.get(record.row.uid)
        if asked is not None and asked.services:
            said["services"] = [self._new_uid(uid) for uid in asked.services]
        return TaskDescription(said)

    def _new_uid(self, uid: TaskUid) -> str:
        last = self._last.get(_root(uid)[0])
        return uid if last is None else next_uid(last, self._state.tasks)


def last_of_each(records: Iterable[TaskRecord]) -> list[TaskRecord]:
    """Return the records without those of which a later repetition is among them."""
    last: dict[str, tuple[int, TaskRecord]] = {}
    for record in records:
        root, number = _root(record.row.uid)
        if root not in last or last[root][0] < number:
            last[root] = (number, record)
    return [record for _, record in last.values()]


def next_uid(uid: str, known: Container[Any]) -> str:
    """Return the uid of the next repetition.

    >>> next_uid("md", {"md"}), next_uid("md.retry1", {"md", "md.retry1"})
    ('md.retry1', 'md.retry2')
    """
    root, number = _root(uid)
    while (found := f"{root}.retry{number + 1}") in known:
        number += 1
    return found


def _root(uid: str) -> tuple[str, int]:
    found = _REPETITION.match(uid)
    return (found[1], int(found[2])) if found else (uid, 0)


def _last_pilot(state: ClientState) -> dict[str, Any]:
    """Return the last pilot's description; of its services the uids."""
    from pilotage.client.pilot_description import decoded, pilot_services

    if not state.pilots:
        raise InvalidRequest("the session never had a pilot; run the tasks from a program, with Session.resume")
    last = list(state.pilots.values())[-1]
    description = decoded(last.description)
    said = {key: value for key, value in description.as_dict().items() if key != "uid"}
    if "services" in said:
        said["services"] = [TaskUid(service.uid) for service in pilot_services(last.uid, description)]
    return said
