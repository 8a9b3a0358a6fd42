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

    limit = 50                     # so many at one time; or array = "0-999%50"
    after = ["prepare"]            # tables or tasks, by their names; services likewise

In texts of tasks ``{i}`` and the names of ``values`` are replaced, as by ``pilotage run``. What is wrong is told by file, line
and nearest name, before anything is started. A campaign is handed over and then goes on by itself. Who decides what comes next
where tasks wait for others, need services, or are not to run all at one time is a client inside the job: see ``needs_client``.
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
from pilotage.cli.campaign_order import WAITING, TaskGroup, described, ordered, services_of
from pilotage.cli.items import Items, Placeholders, counted, parse_array, read_table
from pilotage.errors import InvalidRequest, UnknownAttribute, nearest
from pilotage.platforms.toml_values import Source, shown_path

if TYPE_CHECKING:
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.client.task_description import TaskDescription

IDLE_TIMEOUT_S = 30.0
"""A pilot whose campaign is done gives its nodes back after this time, unless its description says another."""

_TABLES = ("session", "pilot", "pilots", "tasks")
_ITEMS = ("count", "array", "values")
_LIMIT = "limit"


class CampaignFile:
    """A campaign as its file describes it. ``session``: the name that it asks for, or empty.

    Raises:
        InvalidRequest: the file cannot be read, or something in it is wrong; names the file, the line and the nearest name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._source = Source(path, "campaign")
        self._folder = os.fspath(path.absolute().parent)
        content = self._source.content
        for name in content:
            if name not in _TABLES:
                known = f"; known are {', '.join(_TABLES)}"
                raise self._source.error((name,), f"there is no such table{nearest(name, _TABLES) or known}")
        self.session = self._text("session")
        self.needs_client = ""
        """The first attribute that needs a client which stays with the pilot, as messages name it; empty: none does."""
        self.pilots = self._pilots()
        self.groups = self._task_groups()
        if self.needs_client:
            self._check_client()

    @property
    def total(self) -> int:
        """How many tasks there are."""
        return sum(len(group.items.values) for group in self.groups)

    def tasks(self) -> Iterator[TaskDescription]:
        """Describe all tasks, one after the other."""
        return chain.from_iterable(described(group) for group in self.groups)

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

        self._check_each(path, table, PilotDescription)
        description = PilotDescription(table)
        services = table.get("services", [])
        if services:
            self._note_client(f"{shown_path(path)}.services")
            description.services = [
                self._service((*path, "services", number), service) for number, service in enumerate(services)
            ]
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

    def _service(self, path: tuple[str | int, ...], service: Any) -> dict[str, Any]:
        """Return a pilot's service, with its program taken from where the file is."""
        from pilotage.client.task_description import TaskDescription

        if not isinstance(service, dict):
            raise self._source.error(path, f"is a list of tables such as {{executable = ...}}, and has {service!r:.60}")
        self._check_each(path, service, TaskDescription)
        try:
            return service | self._placed(service, counted(1))
        except InvalidRequest as error:
            raise self._source.error(path, str(error)) from error

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

        fields = {name: value for name, value in table.items() if name not in (*_ITEMS, _LIMIT)}
        self._check_each(path, fields, TaskDescription)
        items = self._items(path, table)
        for name in WAITING:
            if fields.get(name):
                self._note_client(f"{shown_path(path)}.{name}")
        try:
            fields |= self._placed(fields, items)
            group = TaskGroup(fields, items, not any(name in table for name in _ITEMS))
            first = next(described(group))
            first.update({name: fields[name] for name in WAITING if name in fields})
            first.verify()
        except InvalidRequest as error:
            raise self._source.error(path, str(error)) from error
        if group.is_service:
            self._note_client(f"{shown_path(path)}, a service,")
        return group

    def _placed(self, fields: Mapping[str, Any], items: Items) -> dict[str, Any]:
        """Return the attributes that name files, taken from where the campaign's file is.

        Raises:
            InvalidRequest: there is no such program, or all tasks would write into one file.
        """
        names = Placeholders(items.names)
        placed = {}
        if "executable" in fields:
            placed["executable"] = campaign.checked_program([fields["executable"]], self._folder, names, items.values[0])[0]
        for name in ("stdout", "stderr"):
            if name in fields:
                placed[name] = campaign.checked_output(name, fields[name], len(items.values), self._folder, names)
        if "sandbox" in fields:
            placed["sandbox"] = os.path.normpath(os.path.join(self._folder, fields["sandbox"]))
        return placed

    def _items(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> Items:
        items = self._all_items(path, table)
        limit = table.get(_LIMIT, items.limit)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < (_LIMIT in table):
            raise self._source.error((*path, _LIMIT), f"is {limit!r:.60}, and is to be a number of tasks, 1 or more")
        if _LIMIT in table and items.limit:
            raise self._source.error((*path, _LIMIT), "array has a limit behind '%', too; leave one of them out")
        if limit >= len(items.values):
            limit = 0
        if limit:
            self._note_client(f"{shown_path(path)}.{_LIMIT if _LIMIT in table else 'array'}")
        return msgspec.structs.replace(items, limit=limit)

    def _all_items(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> Items:
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

    # checks

    def _tables(self, name: str, missing: str) -> list[dict[str, Any]]:
        tables = self._source.content.get(name)
        if not tables:
            raise self._source.error((), missing)
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self._source.error((name,), f"is no array of tables; write [[{name}]]")
        return tables

    def _note_client(self, needs: str) -> None:
        self.needs_client = self.needs_client or needs

    def _check_client(self) -> None:
        """See that a client inside the job can do all that there is to do."""
        needs = f"{self.needs_client} needs a client that stays, which runs inside the job of the one pilot that it has"
        if len(self.pilots) > 1:
            raise self._source.error(
                ("pilots", 1), f"there are {len(self.pilots)} pilots, and {needs}: describe one [pilot] with as many nodes"
            )
        successors = self.pilots[0].get("successors")
        if successors:
            path = ("pilot",) if "pilot" in self._source.content else ("pilots", 0)
            raise self._source.error(
                (*path, "successors"),
                f"is {successors!r}, and {needs}, and ends with it: leave it out, and give the pilot the runtime that all "
                "tasks need; or submit a campaign for each part",
            )
        ordered(self.groups, services_of(self.pilots[0]), lambda at, name, said: self._source.error(("tasks", at, name), said))

    def _check_each(
        self,
        path: tuple[str | int, ...],
        table: Mapping[str, Any],
        kind: type[PilotDescription] | type[TaskDescription],
    ) -> None:
        """See that each attribute is known, and of its type."""
        items = (*_ITEMS, _LIMIT) if path[0] == "tasks" else ()
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
