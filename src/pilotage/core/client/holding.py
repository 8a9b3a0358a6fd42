"""Tasks that wait for other tasks: for predecessors to end, for services to be ready.

The state holds what each task waits for (``facts.Held``); what is derived from it here is the way back, from a task to those
that wait for it, and how many conditions of each are still open, so that a task with ten thousand predecessors costs one
step for each of them. ``verdict`` says what becomes of a task of which no condition is open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pilotage.core.client.facts import Held
from pilotage.core.client.state import ClientState, TaskRecord
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending

_NEVER_RUN = "cancelled: "
"""Begins what is said of a held task that can never run, and of no other."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")


class Holding:
    """Who waits for whom. ``hold`` and ``drop`` follow the state; ``ended`` and ``service_ready`` return what may go on."""

    def __init__(self, state: ClientState) -> None:
        self._state = state
        self._dependents: dict[TaskUid, dict[TaskUid, None]] = {}
        self._open: dict[TaskUid, int] = {}
        for uid, held in state.held.items():
            self.hold(uid, held)

    def hold(self, uid: TaskUid, held: Held) -> None:
        """This task waits for these from now on."""
        state = self._state
        for other in (*held.after, *held.services):
            self._dependents.setdefault(other, {})[uid] = None
        ended = sum(state.tasks[other].outcome is not None for other in held.after)
        ready = sum(other in state.service_info for other in held.services)
        self._open[uid] = len(held.after) + len(held.services) - ended - ready

    def drop(self, uid: TaskUid, held: Held) -> None:
        """This task waits no more."""
        self._open.pop(uid, None)
        for other in (*held.after, *held.services):
            dependents = self._dependents.get(other)
            if dependents is not None:
                dependents.pop(uid, None)
                if not dependents:
                    del self._dependents[other]

    def ended(self, uid: TaskUid) -> list[TaskUid]:
        """The task is final: return who is to be judged now, as its last condition is met or one cannot be met any more."""
        concerned = []
        for dependent in self._dependents.get(uid, ()):
            held = self._state.held[dependent]
            if uid in held.after:
                self._open[dependent] -= 1
            if not self._open[dependent] or uid in held.services or not self._may_follow(held, uid):
                concerned.append(dependent)
        return concerned

    def service_ready(self, uid: TaskUid) -> list[TaskUid]:
        """The service is ready, and was not before: return who is to be judged now."""
        concerned = []
        for dependent in self._dependents.get(uid, ()):
            if uid in self._state.held[dependent].services:
                self._open[dependent] -= 1
                if not self._open[dependent]:
                    concerned.append(dependent)
        return concerned

    def service_gone(self, uid: TaskUid) -> None:
        """The service was ready, and is not any more; tasks that still wait for others wait for it again."""
        for dependent in self._dependents.get(uid, ()):
            if uid in self._state.held[dependent].services:
                self._open[dependent] += 1

    def is_open(self, uid: TaskUid) -> bool:
        """Tell whether a condition of this held task is open."""
        return self._open[uid] > 0

    def _may_follow(self, held: Held, uid: TaskUid) -> bool:
        return held.policy != "ok" or _succeeded(self._state.tasks[uid])


def verdict(held: Held, tasks: Mapping[TaskUid, TaskRecord], *, is_open: bool) -> str | None:
    """Return why a held task can never run, or '' if it may run now; None if it waits on."""
    for uid in held.services:
        if tasks[uid].outcome is not None:
            return _never(f"service {uid!r}, which it needs, ended", tasks[uid])
    if held.policy == "ok":
        for uid in held.after:
            if tasks[uid].outcome is not None and not _succeeded(tasks[uid]):
                return _never(f"it was to run after {uid!r} is done, which ended", tasks[uid])
    if is_open:
        return None
    if held.policy == "notok" and all(_succeeded(tasks[uid]) for uid in held.after):
        return f"{_NEVER_RUN}it was to run if one of those before it failed, and none did"
    return ""


def waiting_for(held: Held, state: ClientState) -> str:
    """Return in a few words what a held task waits for."""
    tasks = [uid for uid in held.after if state.tasks[uid].outcome is None]
    services = [uid for uid in held.services if uid not in state.service_info]
    parts = []
    if tasks:
        parts.append(f"{len(tasks)} of {len(held.after)} tasks before it to end, such as {tasks[0]!r}")
    if services:
        parts.append(f"service {services[0]!r} to be ready")
    return "waits for " + " and for ".join(parts)


def service_names(name: str) -> tuple[str, str]:
    """Return the environment variables that tell a task of a service, under our name and RADICAL-Pilot's.

    >>> service_names("my.service")
    ('PILOTAGE_SERVICE_MY_SERVICE', 'RP_INFO_MY_SERVICE')
    """
    word = _NOT_IN_NAMES.sub("_", name).upper()
    return f"PILOTAGE_SERVICE_{word}", f"RP_INFO_{word}"


def service_variables(state: ClientState, services: tuple[TaskUid, ...]) -> dict[str, str]:
    """Return the environment variables that tell a task of its services, each by its uid and, if it has one, its name."""
    return {
        variable: state.service_info[uid]
        for uid in services
        for name in dict.fromkeys((uid, state.tasks[uid].row.name or uid))
        for variable in service_names(name)
    }


def _succeeded(record: TaskRecord) -> bool:
    return record.outcome is not None and record.outcome.ending is Ending.DONE


def _never(clause: str, record: TaskRecord) -> str:
    # Who was to follow a task that could never run itself is told what that one was told, the task with which it began: a
    # message that grew at each link would fill the log with a chain of ten thousand.
    outcome = record.outcome
    if outcome is None:
        return f"{_NEVER_RUN}{clause}: {record.state}"
    if outcome.message.startswith(_NEVER_RUN):
        return outcome.message
    return f"{_NEVER_RUN}{clause}: {outcome.message or outcome.ending.name.lower().replace('_', ' ')}"
