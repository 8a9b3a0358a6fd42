"""What the tasks of a campaign wait for: ``after`` and ``services`` of its tables, by the names that stand in the file.

A name means a whole table, by its ``name`` (or that of its program), or one task, by its uid or its own name: those of a table
``prepare`` are ``prepare.0``, ``prepare.1`` and so on, if it says how many there are. Values stand in braces as elsewhere, so
that task 7 of ``run`` comes after task 7 of ``prepare`` by ``after = ["prepare.{i}"]``. A name that comes out empty is left
out.

Tasks get their uids here, as the session would give them: in the order of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.cli import campaign
from pilotage.cli.items import Items, Placeholders, Values
from pilotage.client.constants import AGENT_SERVICE, TASK_SERVICE
from pilotage.client.dependencies import in_order
from pilotage.core.client.facts import Held
from pilotage.errors import InvalidRequest, InvalidTask, nearest
from pilotage.model.ids import PilotUid, TaskUid

if TYPE_CHECKING:
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.client.task_description import TaskDescription

WAITING = ("after", "services")
"""Attributes that name other tasks."""

WAITS_LIMIT = 2_000_000
"""How often a task may wait for a task, over the whole campaign."""

FIRST_PILOT = "pilot.0000"
"""The uid of a session's first pilot that is given none."""

_NAMES_COMPARED = 5000


class TaskGroup(msgspec.Struct, frozen=True):
    """A ``[[tasks]]`` table: its attributes, and what differs from task to task. ``is_single``: it says of no number of tasks,
    so it is one, which has the table's name."""

    fields: dict[str, Any]
    items: Items
    is_single: bool = False

    @property
    def name(self) -> str:
        """How the table is named: as it says, or after its program; empty: it has no name, or one for each task."""
        said = self._said_name
        return "" if Placeholders(self.items.names).occur(said) else said

    @property
    def is_service(self) -> bool:
        """Whether its tasks are services."""
        return self.fields.get("mode") in (TASK_SERVICE, AGENT_SERVICE)

    @property
    def _said_name(self) -> str:
        return self.fields.get("name") or os.path.basename(str(self.fields.get("executable", "")))

    def names(self) -> Iterator[str]:
        """Return the names of its tasks; empty ones if it has none."""
        said = self._said_name
        if said and self.name and not self.is_single:
            return (f"{said}.{values['i']}" for values in self.items.values)
        return self._filled(said)

    def uids(self) -> Iterator[TaskUid]:
        """Return the uids of its tasks, as the file gives them; none if it gives none."""
        return map(TaskUid, self._filled(self.fields["uid"])) if self.fields.get("uid") else iter(())

    def _filled(self, text: str) -> Iterator[str]:
        pattern = Placeholders(self.items.names).pattern(text)
        return (pattern % values for values in self.items.values)


class Ordered(msgspec.Struct, frozen=True, gc=False):
    """A task of a campaign: its uid, its table and its place in that, counted from 0, and what it waits for."""

    uid: TaskUid
    group: int
    place: int
    after: tuple[TaskUid, ...] = ()
    services: tuple[TaskUid, ...] = ()


def described(group: TaskGroup) -> Iterator[TaskDescription]:
    """Describe the tasks of a table, one after the other; what they wait for is left out."""
    from pilotage.client.task_description import TaskDescription

    fields = {name: value for name, value in group.fields.items() if name not in WAITING}
    environment = {name: str(value) for name, value in fields.pop("environment", {}).items()}
    if "executable" in fields:
        program = [fields.pop("executable"), *map(str, fields.pop("arguments", []))]
        name = fields.pop("name", "") or os.path.basename(program[0])
        for description in campaign.descriptions(group.items, program, name, fields, environment):
            if group.is_single and group.name:
                description.name = group.name
            yield description
        return
    names = Placeholders(group.items.names)
    patterns = {name: names.pattern(text) for name, text in fields.items() if isinstance(text, str) and names.occur(text)}
    name = fields.get("name", "")
    if name and "name" not in patterns and not group.is_single:
        patterns["name"] = f"{names.pattern(name)}.%(i)d"
    if environment:
        fields["environment"] = environment
    for values in group.items.values:
        yield TaskDescription({**fields, **{name: pattern % values for name, pattern in patterns.items()}})


def services_of(pilot: PilotDescription) -> dict[str, TaskUid]:
    """Return the uids of the services of a campaign's only pilot, by these and by their names."""
    from pilotage.client.pilot_description import pilot_services

    services = pilot_services(PilotUid(pilot.uid or FIRST_PILOT), pilot)
    return {name: TaskUid(service.uid) for service in services for name in (service.uid, service.name) if name}


def ordered(
    groups: Sequence[TaskGroup],
    services: Mapping[str, TaskUid],
    refused: Callable[[int, str, str], InvalidRequest] = lambda group, name, message: InvalidRequest(message),
) -> list[Ordered]:
    """Return all tasks in an order in which none comes before one that it waits for: that of the file where it is that.

    ``services``: the uids of the pilot's services, by these and by their names. ``refused`` makes the error for an attribute of
    a table.

    Raises:
        InvalidRequest: what is named is not there, or ambiguous, or cannot be waited for; or tasks wait for each other.
    """
    return _Order(groups, services, refused).tasks()


class _Order:
    def __init__(
        self,
        groups: Sequence[TaskGroup],
        services: Mapping[str, TaskUid],
        refused: Callable[[int, str, str], InvalidRequest],
    ) -> None:
        self._groups = groups
        self._services = services
        self._refused = refused
        self._uids = _uids(groups, refused)
        self._meant: dict[str, list[tuple[int, tuple[TaskUid, ...]]]] = {}
        """What names mean: tables (-1: the pilot's services) and tasks of them; more than one entry: the name is ambiguous."""
        self._named: dict[TaskUid, str] = {}
        self._waits = 0

    def tasks(self) -> list[Ordered]:
        """See ``ordered``."""
        if not any(group.fields.get(name) for group in self._groups for name in WAITING):
            return [Ordered(uid, number, place) for number, uids in enumerate(self._uids) for place, uid in enumerate(uids)]
        self._learn_names()
        found = [
            Ordered(uid, number, place, *held)
            for number, uids in enumerate(self._uids)
            for place, (uid, held) in enumerate(zip(uids, self._held(number), strict=True))
        ]
        return self._sorted(found)

    def _learn_names(self) -> None:
        for number, (group, uids) in enumerate(zip(self._groups, self._uids, strict=True)):
            if group.name:
                self._meant.setdefault(group.name, []).append((number, uids))
            for uid, name in zip(uids, group.names(), strict=True):
                self._named[uid] = name or uid
                for known_as in {uid, name or uid}:
                    self._meant.setdefault(known_as, []).append((number, (uid,)))
        for name, service in self._services.items():
            self._meant.setdefault(name, []).append((-1, (service,)))

    def _held(self, number: int) -> Iterator[tuple[tuple[TaskUid, ...], ...]]:
        """Return what each task of a table waits for: tasks, and services."""
        group = self._groups[number]
        return zip(*(self._others(number, name, group.fields.get(name) or []) for name in WAITING), strict=True)

    def _others(self, number: int, name: str, entries: Sequence[Any]) -> Iterator[tuple[TaskUid, ...]]:
        group = self._groups[number]
        names = Placeholders(group.items.names)
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise self._refused(number, name, f"is a list of names of tables or tasks, and it is {entries!r:.60}")
        fixed = self._all(number, name, [entry for entry in entries if not names.occur(entry)])
        patterns = [names.pattern(entry) for entry in entries if names.occur(entry)]
        if not patterns:
            self._count(number, name, len(fixed) * len(group.items.values))
            return (fixed for _ in group.items.values)
        return self._each(number, name, fixed, patterns, group.items.values)

    def _each(
        self, number: int, name: str, fixed: tuple[TaskUid, ...], patterns: Sequence[str], items: Sequence[Values]
    ) -> Iterator[tuple[TaskUid, ...]]:
        for values in items:
            found = fixed + self._all(number, name, [text for pattern in patterns if (text := pattern % values)])
            self._count(number, name, len(found))
            yield found

    def _all(self, number: int, name: str, texts: Sequence[str]) -> tuple[TaskUid, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(self._one(number, name, text) for text in texts)))

    def _one(self, number: int, name: str, text: str) -> tuple[TaskUid, ...]:
        meant = self._meant.get(text)
        if meant is None:
            known = islice(self._meant, _NAMES_COMPARED)
            raise self._refused(number, name, f"{text!r} is the name of no table and of no task{nearest(text, known)}")
        if len(meant) > 1 and len(set(meant)) > 1:
            raise self._refused(number, name, f"{text!r} is ambiguous: {self._places(meant)}; give each a name of its own")
        other, uids = meant[0]
        is_service = other < 0 or self._groups[other].is_service
        if name == "services" and not is_service:
            raise self._refused(number, name, f"{text!r} is no service; name it in after, or give it mode = {TASK_SERVICE!r}")
        if name == "after" and is_service:
            raise self._refused(
                number, name, f"{text!r} is a service, which runs until the pilot ends; name it in services instead"
            )
        if other == number and uids is self._uids[number]:
            raise self._refused(number, name, f"{text!r} is this table itself; name another one, or single tasks of it")
        return uids

    def _places(self, meant: Sequence[tuple[int, tuple[TaskUid, ...]]]) -> str:
        places = [
            "the pilot's services" if number < 0 else f"tasks[{number + 1}]"
            for number in dict.fromkeys(each for each, _ in meant)
        ]
        return f"it may mean tables and tasks of {' and of '.join(places)}"

    def _count(self, number: int, name: str, more: int) -> None:
        self._waits += more
        if self._waits > WAITS_LIMIT:
            raise self._refused(
                number,
                name,
                f"each of {len(self._uids[number]):,} tasks waits for many: together more than {WAITS_LIMIT:,} waits, which is "
                "the limit; put a table of one small task between, that waits for the first and that the others wait for",
            )

    def _sorted(self, tasks: list[Ordered]) -> list[Ordered]:
        place = {task.uid: task.group for task in tasks}
        # Between tables it is soon seen whether there can be a circle at all.
        tables: dict[int, set[int]] = {}
        for task in tasks:
            tables.setdefault(task.group, set()).update(place[uid] for uid in (*task.after, *task.services) if uid in place)
        if all(max(others, default=-1) < number for number, others in tables.items()):
            return tasks
        # Circles are shown by the names that stand in the file.
        shown = {task.uid: TaskUid(self._named.get(task.uid, task.uid)) for task in tasks}
        if len(set(shown.values())) < len(shown):
            shown = {uid: uid for uid in shown}
        held = {
            shown[task.uid]: Held(after=tuple([shown.get(uid, uid) for uid in (*task.after, *task.services)])) for task in tasks
        }
        by_name = {shown[task.uid]: task for task in tasks}
        try:
            return [by_name[name] for name in in_order(list(by_name), held)]
        except InvalidTask as error:
            number = next(number for number in tables if number in _reached(number, tables))
            name = next(name for name in WAITING if self._groups[number].fields.get(name))
            raise self._refused(number, name, str(error)) from error


def _reached(start: int, tables: Mapping[int, set[int]]) -> set[int]:
    found: set[int] = set()
    left = list(tables[start])
    while left:
        number = left.pop()
        if number not in found:
            found.add(number)
            left += tables[number]
    return found


def _uids(groups: Sequence[TaskGroup], refused: Callable[[int, str, str], InvalidRequest]) -> list[tuple[TaskUid, ...]]:
    """Return the uids of all tasks, by tables.

    Raises:
        InvalidRequest: two are the same.
    """
    given: dict[TaskUid, None] = {}
    for number, group in enumerate(groups):
        for uid in group.uids():
            if uid in given:
                raise refused(number, "uid", f"there are two tasks of uid {uid!r}; put {{i}} into it, or leave uid out")
            given[uid] = None
    free = (uid for count_of_all in count() if (uid := TaskUid(f"task.{count_of_all:06d}")) not in given)
    return [tuple(group.uids()) or tuple(islice(free, len(group.items.values))) for group in groups]
