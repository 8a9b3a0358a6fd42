"""A campaign in a TOML file: pilots with the attributes of ``PilotDescription``, tasks with those of ``TaskDescription``.

::

    [pilot]                        # several: [[pilots]]
    resource = "lab.blue"
    nodes = 2
    runtime = 30

    [[tasks]]
    executable = "./prog"          # relative to the file
    arguments = ["--seed", "{i}"]
    count = 1000                   # or array = "0-999:10", or values = "table.csv", or values = [{seed = 3}, {seed = 5}]

In texts of tasks ``{i}`` and the names of ``values`` are replaced, as by ``pilotage run``. What is wrong is told by file, line
and nearest name, before anything is started. A campaign is handed over and then goes on by itself, so what needs a program that
stays is refused: tasks that wait for others, and services.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.cli import campaign
from pilotage.cli.items import Items, Placeholders, counted, parse_array, read_table
from pilotage.errors import InvalidRequest, UnknownAttribute, nearest
from pilotage.platforms.toml_values import Source

if TYPE_CHECKING:
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.client.task_description import TaskDescription

IDLE_TIMEOUT_S = 30.0
"""A pilot whose campaign is done gives its nodes back after this time, unless its description says another."""

_TABLES = ("session", "pilot", "pilots", "tasks")
_ITEMS = ("count", "array", "values")
_STAYS = "write it as a program, and submit that: it runs inside the job"
_NEEDS_PROGRAM = {
    "after": f"tasks that wait for others need a program that stays; {_STAYS}",
    "services": f"services need a program that stays; {_STAYS}",
}


class TaskGroup(msgspec.Struct, frozen=True):
    """A ``[[tasks]]`` table: its attributes, and what differs from task to task."""

    fields: dict[str, Any]
    items: Items


class CampaignFile:
    """A campaign as its file describes it. ``session``: the name that it asks for, or empty.

    Raises:
        InvalidRequest: the file cannot be read, or something in it is wrong; names the file, the line and the nearest name.
    """

    def __init__(self, path: Path) -> None:
        self._source = Source(path, "campaign")
        self._folder = os.fspath(path.absolute().parent)
        content = self._source.content
        for name in content:
            if name not in _TABLES:
                known = f"; known are {', '.join(_TABLES)}"
                raise self._source.error((name,), f"there is no such table{nearest(name, _TABLES) or known}")
        self.session = self._text("session")
        self.pilots = self._pilots()
        self._groups = self._task_groups()

    @property
    def total(self) -> int:
        """How many tasks there are."""
        return sum(len(group.items.values) for group in self._groups)

    def tasks(self) -> Iterator[TaskDescription]:
        """Describe all tasks, one after the other."""
        return chain.from_iterable(self._described(group) for group in self._groups)

    def _text(self, name: str) -> str:
        value = self._source.content.get(name, "")
        if not isinstance(value, str):
            raise self._source.error((name,), f"is a text, and it is {value!r}")
        return value

    # pilots

    def _pilots(self) -> list[PilotDescription]:
        content = self._source.content
        if "pilot" in content and "pilots" in content:
            raise self._source.error(("pilots",), "there is [pilot], too; write [[pilots]] for several, or [pilot] for one")
        if isinstance(content.get("pilot"), dict):
            return [self._pilot(("pilot",), content["pilot"])]
        tables = self._tables("pilots", "there is no pilot; describe one as [pilot]")
        return [self._pilot(("pilots", number), table) for number, table in enumerate(tables)]

    def _pilot(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> PilotDescription:
        from pilotage.client.pilot_description import PilotDescription

        self._refuse_what_needs_a_program(path, table, ("services",))
        self._check_each(path, table, PilotDescription)
        description = PilotDescription(table)
        # Nobody pays for nodes that wait for a client which never comes.
        description.on_client_loss = description.on_client_loss or "continue"
        if "idle_timeout_s" not in table:
            description.idle_timeout_s = IDLE_TIMEOUT_S
        try:
            description.verify()
            self._verify_place(description)
        except InvalidRequest as error:
            raise self._source.error(path, str(error)) from error
        return description

    @staticmethod
    def _verify_place(description: PilotDescription) -> None:
        from pilotage.client.job_specs import check_job
        from pilotage.platforms import platform

        check_job("pilot", platform(description.resource or ""), description)

    # tasks

    def _task_groups(self) -> list[TaskGroup]:
        tables = self._tables("tasks", "there are no tasks; describe some as [[tasks]]")
        return [self._group(("tasks", number), table) for number, table in enumerate(tables)]

    def _group(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> TaskGroup:
        from pilotage.client.task_description import TaskDescription

        self._refuse_what_needs_a_program(path, table, ("after", "services"))
        fields = {name: value for name, value in table.items() if name not in _ITEMS}
        self._check_each(path, fields, TaskDescription)
        items = self._items(path, table)
        names = Placeholders(items.names)
        try:
            if "executable" in fields:
                program = campaign.checked_program([fields["executable"]], self._folder, names, items.values[0])
                fields["executable"] = program[0]
            for name in ("stdout", "stderr"):
                if name in fields:
                    fields[name] = campaign.checked_output(name, fields[name], len(items.values), self._folder, names)
            if "sandbox" in fields:
                fields["sandbox"] = os.path.normpath(os.path.join(self._folder, fields["sandbox"]))
        except InvalidRequest as error:
            raise self._source.error(path, str(error)) from error
        group = TaskGroup(fields, items)
        try:
            next(self._described(group)).verify()
        except InvalidRequest as error:
            raise self._source.error(path, str(error)) from error
        return group

    def _items(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> Items:
        given = [name for name in _ITEMS if name in table]
        if len(given) > 1:
            raise self._source.error(
                (*path, given[1]), f"{given[0]} is given, too; each says how many tasks there are, so give one of them"
            )
        if not given:
            return counted(1)
        value = table[given[0]]
        try:
            items = self._items_of(given[0], value)
        except InvalidRequest as error:
            raise self._source.error((*path, given[0]), str(error).removeprefix("--array ")) from error
        if items.limit:
            told = "how many run at one time needs a program that stays; give the pilot as many cores as may be used"
            raise self._source.error((*path, given[0]), f"{value!r}: {told}")
        return items

    def _items_of(self, name: str, value: Any) -> Items:
        if name == "count" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return counted(value)
        if name == "array" and isinstance(value, str):
            return parse_array(value)
        if name == "values" and isinstance(value, str):
            return read_table(Path(self._folder, value))
        if name == "values" and isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            return _rows(value)
        wanted = {
            "count": "a number of tasks, 1 or more",
            "array": "text such as '0-999' or '1,5,7-9'",
            "values": "the path of a table (CSV), or a list of tables such as [{seed = 3}, {seed = 5}]",
        }
        raise InvalidRequest(f"is {value!r:.60}, and is to be {wanted[name]}")

    def _described(self, group: TaskGroup) -> Iterator[TaskDescription]:
        from pilotage.client.task_description import TaskDescription

        fields = dict(group.fields)
        environment = {name: str(value) for name, value in fields.pop("environment", {}).items()}
        if "executable" in fields:
            program = [fields.pop("executable"), *map(str, fields.pop("arguments", []))]
            name = fields.pop("name", "") or os.path.basename(program[0])
            yield from campaign.descriptions(group.items, program, name, fields, environment)
            return
        names = Placeholders(group.items.names)
        patterns = {name: names.pattern(text) for name, text in fields.items() if isinstance(text, str) and names.occur(text)}
        if environment:
            fields["environment"] = environment
        for values in group.items.values:
            yield TaskDescription({**fields, **{name: pattern % values for name, pattern in patterns.items()}})

    # checks

    def _tables(self, name: str, missing: str) -> list[dict[str, Any]]:
        tables = self._source.content.get(name)
        if not tables:
            raise self._source.error((), missing)
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self._source.error((name,), f"is no array of tables; write [[{name}]]")
        return tables

    def _refuse_what_needs_a_program(
        self, path: tuple[str | int, ...], table: Mapping[str, Any], names: tuple[str, ...]
    ) -> None:
        for name in names:
            if table.get(name):
                raise self._source.error((*path, name), _NEEDS_PROGRAM[name])

    def _check_each(
        self,
        path: tuple[str | int, ...],
        table: Mapping[str, Any],
        kind: type[PilotDescription] | type[TaskDescription],
    ) -> None:
        """See that each attribute is known, and of its type."""
        items = _ITEMS if path[0] == "tasks" else ()
        for name, value in table.items():
            if name not in kind.FIELDS and name not in kind.OLDER_NAMES:
                raise self._source.error((*path, name), f"there is no such attribute{nearest(name, [*kind.FIELDS, *items])}")
            try:
                kind({name: value})
            except (InvalidRequest, UnknownAttribute) as error:
                raise self._source.error((*path, name), str(error)) from error


def _rows(rows: list[dict[str, Any]]) -> Items:
    names = tuple(rows[0])
    for row in rows:
        if tuple(row) != names:
            raise InvalidRequest(f"has rows of different names: {', '.join(names)}, and {', '.join(row)}")
    for name in names:
        if not re.fullmatch(r"\w[\w .-]*", name):
            raise InvalidRequest(f"{name!r} cannot be the name of a value; use letters, digits and _")
    return Items([{"i": number, **row} for number, row in enumerate(rows)], ("i", *(name for name in names if name != "i")))
