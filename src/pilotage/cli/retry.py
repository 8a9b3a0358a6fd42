"""``pilotage task retry``: tasks that have ended run once more.

Each task has exactly one outcome, so a repetition is a new task of the same session: ``task.000007`` is followed by
``task.000007.retry1``. Of a task that was repeated before, only the last repetition counts.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Any

import msgspec

from pilotage.cli.execution import Campaign
from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import note, plural
from pilotage.cli.selection import Selection
from pilotage.core.client.state import ClientState, TaskRecord
from pilotage.errors import InvalidRequest

_OF_THEIR_TIME = ("after", "services", "pilot")
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
    from pilotage.client.task import Task
    from pilotage.client.task_description import TaskDescription

    folder = find_session(name)
    with Interrupts() as interrupts, Session.resume(folder.name) as session:
        chosen = selection.of(session.state, folder)
        ended = last_of_each([record for record in chosen if record.outcome is not None])
        if not ended:
            remedy = f"see: pilotage task list -s {folder.name}"
            raise InvalidRequest(f"session {folder.name} has no such task that has ended; {remedy}")
        described = []
        for record in ended:
            task = Task(session.get_task_managers(record.manager), record)
            said = {key: value for key, value in task.description.as_dict().items() if key not in _OF_THEIR_TIME}
            described.append(TaskDescription({**said, "uid": next_uid(record.row.uid, session.state.tasks)}))
        note(f"running {plural(len(described), 'task')} of session {folder.name} once more")
        return Campaign("", _last_pilot(session.state), show_output).run_in(session, interrupts, described, len(described))


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
    if not state.pilots:
        raise InvalidRequest("the session never had a pilot; run the tasks from a program, with Session.resume")
    last = list(state.pilots.values())[-1]
    description: dict[str, Any] = msgspec.msgpack.decode(last.description)
    return {key: value for key, value in description.items() if key != "uid"}
