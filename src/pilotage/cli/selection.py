"""Which tasks of a session are meant: by uid, name, state and metadata, in the options that several commands share."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotage.errors import InvalidRequest, SerializationError, nearest
from pilotage.model.states import AGENT_EXECUTING, FINAL, TASK_STATES

if TYPE_CHECKING:
    from pathlib import Path

    from pilotage.core.client.state import ClientState, TaskRecord

UidsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="UID...", help="Tasks, or how their uids begin or end.", show_default=False)
]
NameOption = Annotated[str, typer.Option("--name", metavar="GLOB", help="Tasks whose name or uid matches, such as 'md.*'.")]
StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", help="Tasks in this state, or 'running', 'unfinished', 'final'; may be repeated."),
]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=GLOB", help="Tasks whose metadata says so; may be repeated."),
]

_WORDS = {"RUNNING": (AGENT_EXECUTING,), "FINAL": FINAL, "UNFINISHED": TASK_STATES, "CANCELLED": ("CANCELED",)}


class Selection:
    """What a person asked for. Nothing asked for means all tasks.

    Raises:
        InvalidRequest: there is no such state, or a condition on metadata cannot be read.
    """

    def __init__(
        self,
        uids: Iterable[str] | None = None,
        name: str = "",
        states: Iterable[str] | None = None,
        metadata: Iterable[str] | None = None,
    ) -> None:
        self.uids = list(uids or ())
        self.name = name
        self.states = parse_states(states or ())
        self.metadata = [_condition(text) for text in metadata or ()]

    def __bool__(self) -> bool:
        return bool(self.uids or self.name or self.states or self.metadata)

    def of(self, state: ClientState, folder: Path) -> list[TaskRecord]:
        """Return the tasks that are meant, in the order of submission.

        Raises:
            InvalidRequest: a uid means no task, or several.
        """
        from pilotage.cli.lookup import meant

        records = state.tasks
        chosen: Iterable[TaskRecord] = records.values()
        if self.uids:
            where = f"in session {folder.name}"
            named = {meant(uid, records, "task", where): None for uid in self.uids}
            chosen = [records[uid] for uid in named]  # type: ignore[index]
        return [record for record in chosen if self._matches(record, state)]

    def _matches(self, record: TaskRecord, state: ClientState) -> bool:
        if self.states and record.state not in self.states:
            return False
        if self.name and not is_named(record, self.name):
            return False
        if not self.metadata:
            return True
        noted = _metadata(record, state)
        return all(key in noted and fnmatch.fnmatchcase(str(noted[key]), pattern) for key, pattern in self.metadata)


def is_named(record: TaskRecord, pattern: str) -> bool:
    """Tell whether a task's name or uid matches."""
    return fnmatch.fnmatchcase(record.row.name or record.row.uid, pattern) or fnmatch.fnmatchcase(record.row.uid, pattern)


def parse_states(names: Iterable[str]) -> set[str]:
    """Return the states that words or names mean.

    Raises:
        InvalidRequest: there is no such state; names the nearest one.
    """
    known = (*TASK_STATES, *FINAL)
    wanted: set[str] = set()
    for name in names:
        upper = name.upper()
        if upper in _WORDS:
            wanted.update(_WORDS[upper])
        elif upper in known:
            wanted.add(upper)
        else:
            raise InvalidRequest(
                f"there is no state {name!r}{nearest(upper, (*known, *_WORDS))}; known are {', '.join(known)}, "
                "and running, unfinished, final"
            )
    return wanted


def _condition(text: str) -> tuple[str, str]:
    key, given, pattern = text.partition("=")
    if not key or not given:
        raise InvalidRequest(f"--metadata {text!r} is not KEY=GLOB; write, for example, --metadata system=lysozyme")
    return key, pattern


def _metadata(record: TaskRecord, state: ClientState) -> Mapping[Any, Any]:
    from pilotage.client.serialization import open_metadata

    pickled = state.metadata.get(record.row.uid)
    if pickled is None:
        return {}
    try:
        noted = open_metadata(pickled)
    except SerializationError:
        # What cannot be opened here says nothing that could match.
        return {}
    return noted if isinstance(noted, Mapping) else {"metadata": noted}
