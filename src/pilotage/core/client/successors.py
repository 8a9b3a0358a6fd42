"""Follow-up pilots: who goes on when a pilot's time was over and work is left.

A pilot whose description says ``successors`` is followed by another of the same description when it ends as its time was over,
or its job was taken from it, and tasks are left that may run. The decision is one step with the end of the pilot, so that it is
made once, whatever dies; who comes to a session whose successor was not started yet starts it. The successor takes the place of
the pilot with the managers that use it, and for tasks that asked for it by name.

There are at most as many in a row as ``successors`` says. ``'until_done'`` has no such limit, but ends with work that does not
advance: after ``FRUITLESS`` pilots in a row in which no task came to its end; after ``FRUITLESS_CONTINUING`` if tasks were cut
short in the last that go on where they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pilotage.core.client import actions, facts
from pilotage.core.client.journal import Journal
from pilotage.core.client.state import PilotRecord
from pilotage.model.ids import PilotUid, TaskUid

UNTIL_DONE = "until_done"
FRUITLESS = 2
FRUITLESS_CONTINUING = 10


class Successors:
    """Decides whether a pilot that is over is followed by another."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._state = journal.state

    def follow(self, now: float, pilot: PilotRecord, again: Iterable[TaskUid], cut_short: Iterable[TaskUid]) -> None:
        """Submit a successor of a pilot whose time was over, if there is to be one and work is left for it.

        ``again``: the tasks of the pilot that may run again, or for the first time; ``cut_short`` are those that had begun.
        """
        wanted = successors_of(pilot)
        if not wanted or pilot.ending or self._state.ending:
            return
        managers = [name for name, manager in self._state.managers.items() if pilot.uid in manager.pilots]
        left = len(list(again)) + sum(len(self._state.managers[name].waiting) for name in managers)
        left += sum(self._state.tasks[uid].manager in managers for uid in self._state.held)
        if not left:
            return
        fruitless = 0 if pilot.outcomes else pilot.fruitless + 1
        why_not = self._limit(pilot, wanted, fruitless, any(self._continues(uid) for uid in cut_short))
        if why_not:
            self._journal.act(actions.Warn(f"pilot {pilot.uid!r} is over, tasks are left, and no pilot follows it: {why_not}"))
            return
        uid = self._new_uid(pilot)
        estimated = pilot.estimated or pilot.job is not None
        self._journal.emit(facts.PilotAccepted(now, pilot.manager, uid, pilot.description, pilot.nodes, 0, estimated))
        self._journal.emit(facts.PilotSucceeded(now, pilot.uid, uid, fruitless))
        for name in managers:
            self._journal.emit(facts.PilotsAdded(name, [uid]))
        for name, spec in pilot.environments.items():
            self._journal.emit(facts.EnvironmentAsked(now, uid, name, spec))
        for partition in pilot.added.values():
            self._journal.emit(facts.PartitionAsked(now, uid, partition))
        self._journal.tell_pilot(uid)
        self._journal.act(actions.StartPilot(uid))
        number = self._state.pilots[uid].generation
        of = "" if wanted == UNTIL_DONE else f" of at most {wanted}"
        message = f"pilot {pilot.uid!r} is over, and tasks are left: pilot {uid!r} follows it, successor {number}{of}"
        self._journal.act(actions.Warn(message))

    def _limit(self, pilot: PilotRecord, wanted: int | str, fruitless: int, continuing: bool) -> str:
        """Return why there is to be no further successor; empty: there is to be one."""
        if isinstance(wanted, int):
            return "" if pilot.generation < wanted else f"it was the last of successors={wanted}"
        if fruitless < (FRUITLESS_CONTINUING if continuing else FRUITLESS):
            return ""
        return (
            f"no task came to its end in the last {fruitless} of them, so successors={wanted!r} would go on for ever; "
            "give pilots more runtime, or a number of successors"
        )

    def _continues(self, uid: TaskUid) -> bool:
        return self._state.templates[self._state.tasks[uid].row.template].restart == "continue"

    def _new_uid(self, pilot: PilotRecord) -> PilotUid:
        first, number = pilot.first or pilot.uid, pilot.generation + 2
        while (uid := PilotUid(f"{first}.{number}")) in self._state.pilots:
            number += 1
        return uid


def successors_of(pilot: PilotRecord) -> int | str:
    """Return how many pilots may follow this one in a row, as its description says: a number, or ``UNTIL_DONE``."""
    description: dict[str, Any] = msgspec.msgpack.decode(pilot.description) if pilot.description else {}
    wanted = description.get("successors", 0)
    return wanted if isinstance(wanted, int) or wanted == UNTIL_DONE else 0


def may_be_followed(pilot: PilotRecord) -> bool:
    """Return whether its description lets another pilot follow this one."""
    wanted = successors_of(pilot)
    return wanted == UNTIL_DONE or (isinstance(wanted, int) and pilot.generation < wanted)
