"""Staging as users write it, and what the client stages itself.

A directive is a text, ``'source > target'`` (also ``>>``, and ``<`` and ``<<`` the other way round) or the source alone; or a
dict of ``source``, ``target``, ``action``, ``flags``, ``priority``. What is relative, or said to be ``client://`` or
``pwd://``, is resolved here, against the folder that the program is in when it submits: for input a relative source lies there
and a relative target in the task's folder (``pilot.stage_in``: in the pilot's), for output it is the other way round.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pilotage.agent.settings import CONNECTION_FILE, LOG_FOLDER, SETTINGS_FILE
from pilotage.client.constants import COPY, DOWNLOAD, LINK, MOVE, TARBALL, TRANSFER
from pilotage.client.fields import shown
from pilotage.errors import InvalidRequest, InvalidTask, nearest
from pilotage.model.staging import Directive, StagingAction, StagingFlag
from pilotage.model.workload import Row, Template
from pilotage.staging.urls import HTTP, OF_CLIENT, Places, Url, literal, locate, parse_url
from pilotage.system.callers import warn_caller

Phase = Literal["input", "output", "stage_in", "stage_out"]

_KEYS = ("source", "target", "action", "flags", "priority", "uid")
_ACTIONS = {
    COPY: StagingAction.COPY,
    LINK: StagingAction.LINK,
    MOVE: StagingAction.MOVE,
    DOWNLOAD: StagingAction.DOWNLOAD,
    TRANSFER: StagingAction.TRANSFER,
    TARBALL: StagingAction.TARBALL,
}
_ARROWS = (">>", ">", "<<", "<")

_SIDES: dict[Phase, tuple[str, str]] = {
    "input": ("client", "task"),
    "output": ("task", "client"),
    "stage_in": ("client", "pilot"),
    "stage_out": ("pilot", "client"),
}
"""Where relative sources and targets lie."""

PRIORITY_LIMIT = 1_000_000_000

_OURS = {"pilot": {LOG_FOLDER, SETTINGS_FILE, CONNECTION_FILE}, "session": {"client", "blobs"}}
"""What a pilot or session keeps in its folder and cannot do without."""


def parse_directives(
    entries: object, owner: str, phase: Phase, error: type[InvalidRequest] = InvalidTask
) -> tuple[Directive, ...]:
    """Return the directives that ``entries`` amount to: one text or dict, or a list of them. ``owner`` is for messages.

    Raises:
        InvalidTask: (or another ``error``) names the entry, the value, what is possible, and the nearest right name.
    """
    if entries is None:
        return ()
    many = isinstance(entries, (list, tuple))
    listed: Iterable[object] = entries if isinstance(entries, (list, tuple)) else [entries]
    found = []
    for index, entry in enumerate(listed):
        try:
            found.append(_directive(entry, phase))
        except ValueError as problem:
            attribute = phase if phase.startswith("stage") else f"{phase}_staging"
            raise error(f"{owner}: {attribute}{f'[{index}]' if many else ''}: {problem}") from None
    return tuple(found)


def directive_dict(directive: Directive) -> dict[str, Any]:
    """Return a directive as users write it."""
    return {
        "source": directive.source,
        "target": directive.target,
        "action": directive.action.name.capitalize(),
        "flags": int(directive.flags),
        "priority": directive.priority,
    }


def _directive(entry: object, phase: Phase) -> Directive:
    said = _said(entry)
    for key in said:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}; known are {', '.join(_KEYS[:-1])}{nearest(str(key), _KEYS)}")
    here, there = _SIDES[phase]
    source = _place(_text("source", said.get("source")), here, phase, pattern=True)
    wanted = said.get("target")
    target = _place(_default_target(source) if wanted in (None, "") else _text("target", wanted), there, phase, pattern=False)
    action = _action(said.get("action"), source)
    if target.schema in HTTP:
        raise ValueError(f"target {str(target)!r} is a web address; nothing can be sent there: name a file or folder")
    if target.path.partition("/")[0] in _OURS.get(target.schema, ()):
        raise ValueError(
            f"target {str(target)!r} would overwrite what the {target.schema} itself keeps there; choose another name"
        )
    return Directive(str(source), str(target), action, _flags(said.get("flags")), _priority(said.get("priority")))


def _said(entry: object) -> Mapping[str, Any]:
    if isinstance(entry, Mapping):
        return entry
    if isinstance(entry, os.PathLike):
        return {"source": entry}
    if not isinstance(entry, str):
        raise ValueError(f"a directive is a text ('source > target') or a dict, not {shown(entry)}")
    for arrow in _ARROWS:
        if arrow in entry:
            parts = [part.strip() for part in entry.split(arrow)]
            if len(parts) != 2 or any(other in part for part in parts for other in _ARROWS):
                raise ValueError(f"{entry!r} has more than one arrow; write 'source > target', or a dict if a name holds one")
            source, target = parts if arrow[0] == ">" else reversed(parts)
            return {"source": source, "target": target}
    return {"source": entry.strip()}


def _text(what: str, value: object) -> str:
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if isinstance(text, str) and text.strip():
            if "\0" in text:
                raise ValueError(f"{what} {shown(text)} holds a NUL character, which no file name can: leave it out")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{what} {shown(text)} is not valid Unicode and cannot be sent: rename the file") from None
            return text
    raise ValueError(f"{what} is {shown(value)}; give a path or URL (str or pathlib.Path), not empty")


def _place(text: str, side: str, phase: Phase, *, pattern: bool) -> Url:
    """Return the place that ``text`` names; ``side`` is where relative paths lie. A ``pattern`` may hold wildcards."""
    schema, mark, rest = text.partition("://")
    schema = schema.lower()
    if mark and schema == "staging":
        warn_caller(f"{text!r}: staging:// is an older name: use 'pilot://{rest}'", DeprecationWarning)
        text, schema = f"pilot://{rest}", "pilot"
    if mark and schema == "task" and phase.startswith("stage"):
        raise ValueError(f"{text!r}: there is no task here; name a file of the pilot (pilot:///...)")
    url = parse_url(text)
    if url is not None and url.schema not in OF_CLIENT:
        return url
    if url is None and os.path.isabs(text):
        return _parsed(f"file://{text}")
    path = text if url is None else url.path
    if url is not None and url.schema == "client":
        side = "client"
    if side != "client":
        return _parsed(f"{side}:///{path}")
    if path == "~" or path.startswith("~/"):
        return _parsed(f"file://{os.path.expanduser(path)}")
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise ValueError(f"{text!r} is relative to the current folder, which was removed; give the full path") from None
    # The wildcards of a folder's own name are none of the user's.
    return _parsed(f"file://{glob.escape(folder) if pattern else folder}/{path}")


def _parsed(text: str) -> Url:
    url = parse_url(text)
    assert url is not None
    return url


def _default_target(source: Url) -> str:
    """Return the target of a source without one: a file of its name; a folder's root for what a pattern matches."""
    name = source.name if source.schema in HTTP else literal(source.name)
    return f"./{name}" if name else "."


def _action(value: object, source: Url) -> StagingAction:
    if value is None:
        action = StagingAction.TRANSFER
    elif isinstance(value, StagingAction):
        action = value
    else:
        found = _ACTIONS.get(value.capitalize()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"unknown action {shown(value)}; known are {', '.join(_ACTIONS)}{nearest(str(value), _ACTIONS)}")
        action = found
    web = source.schema in HTTP
    if web and action not in (StagingAction.DOWNLOAD, StagingAction.TRANSFER):
        raise ValueError(f"action {action.name} cannot fetch {str(source)!r}; use {DOWNLOAD!r}")
    if not web and action is StagingAction.DOWNLOAD:
        raise ValueError(f"action {action.name} takes a source on http:// or https://, not {str(source)!r}; use {COPY!r}")
    return action


def _flags(value: object) -> StagingFlag:
    if value is None:
        return StagingFlag.CREATE_PARENTS
    known = StagingFlag.RECURSIVE | StagingFlag.CREATE_PARENTS | StagingFlag.NON_FATAL
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= known:
        raise ValueError(
            f"flags={shown(value)}; known are RECURSIVE ({StagingFlag.RECURSIVE:d}), CREATE_PARENTS "
            f"({StagingFlag.CREATE_PARENTS:d}) and NON_FATAL ({StagingFlag.NON_FATAL:d}), joined by |"
        )
    return StagingFlag(value)


def _priority(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > PRIORITY_LIMIT:
        raise ValueError(f"priority={shown(value)}; it is a whole number (int) of {PRIORITY_LIMIT} at most: higher comes first")
    return value


# ------------------------------------------------------------------------------------------------------ what the client stages


def stage(directives: Iterable[Directive], phase: Phase, pilot: str, folder: str) -> list[str]:
    """Stage into, or out of, the ``folder`` of a pilot on this machine, and return the URLs of the targets, in order.

    Raises:
        StagingFailed: names the directive, the value and the remedy; those after it were not done.
    """
    # What carries directives out is imported by those who need it.
    from pilotage.staging.actions import Work
    from pilotage.staging.stager import Stager

    listed = list(directives)
    places = Places.of_pilot(folder)
    stager = Stager(f"client-{secrets.token_hex(4)}")
    stager.stage(Work((pilot, phase, 0), listed, places))
    return [_file_url(_parsed(directive.target), places) for directive in listed]


def _file_url(url: Url, places: Places) -> str:
    folder, path = locate(url, places)
    return f"file://{os.path.join(folder, path)}"


def output_files(folder: str, template: Template, row: Row) -> list[str]:
    """Return the names of what a task left in its ``folder``, sorted: not what was staged there, and not what it printed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    printed = {template.stdout or f"{row.uid}.out", template.stderr or f"{row.uid}.err"}
    staged = [_name_in_task(directive) for directive in (row.extra.input_staging if row.extra is not None else ())]
    return [
        name
        for name in names
        if name not in printed
        and not name.startswith((".", f"{row.uid}."))
        and not any(fnmatch.fnmatchcase(name, each) for each in staged)
    ]


def _name_in_task(directive: Directive) -> str:
    """Return, as a pattern, what a directive puts into the task's folder; empty: nothing."""
    source, target = _parsed(directive.source), _parsed(directive.target)
    if target.schema != "task":
        return ""
    first = target.path.partition("/")[0]
    return glob.escape(first) if first else source.name if source.schema not in HTTP else glob.escape(source.name)
