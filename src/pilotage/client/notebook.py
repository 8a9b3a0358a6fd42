"""A live table for notebooks: how far tasks are, brought up to date below the cell while other cells run.

In a notebook ``pilotage.show(tasks)`` displays the table and returns at once; a thread of its own updates what is displayed
until all tasks are final, or ``stop``. Elsewhere the table is text: ``print(pilotage.show(tasks))``.
"""

from __future__ import annotations

import html
import importlib
import re
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pilotage.errors import InvalidRequest
from pilotage.model.states import AGENT_EXECUTING, CANCELED, DONE, FAILED

if TYPE_CHECKING:
    from pilotage.client.session import Session
    from pilotage.client.task import Task
    from pilotage.client.task_manager import TaskManager

INTERVAL_S = 0.5
LOOKING_SHARE = 0.03
"""The share of the time that may be spent looking at tasks."""
GROUPS_SHOWN = 20
FAILURES_SHOWN = 5

_COLUMNS = ("waiting", "running", "done", "failed", "canceled")
_COLORS = {"waiting": "#c9ccd1", "running": "#3b7dd8", "done": "#2e9e5b", "failed": "#d64545", "canceled": "#b58a2a"}
_NUMBER_AT_END = re.compile(r"[\W_]*\d+\Z")


class DisplayHandle(Protocol):
    """What IPython gives for something that is displayed."""

    def update(self, content: Any) -> None:
        """Show this in its place."""


def show(what: Session | TaskManager | Task | Iterable[Task], *, interval_s: float = INTERVAL_S) -> ProgressTable:
    """Return a table of tasks; in a notebook it is displayed, and updated every ``interval_s`` seconds until all are final.

    ``what``: tasks, or all tasks (also those submitted later) of a manager or a session.

    Raises:
        InvalidRequest: it is none of these.

    >>> show([])
    0 tasks
    """
    table = ProgressTable(what)
    if _in_notebook():
        table.display(interval_s)
    return table


class ProgressTable:
    """Tasks by name and state, as text and as HTML; ``display`` keeps it up to date in a notebook."""

    def __init__(self, what: Session | TaskManager | Task | Iterable[Task]) -> None:
        self._tasks = _source(what)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._handle: DisplayHandle | None = None

    def display(self, interval_s: float = INTERVAL_S) -> None:
        """Display it in the notebook, and update it on a thread of its own until all tasks are final."""
        ipython = _ipython_display()
        self._handle = ipython.display(ipython.HTML(self._repr_html_()), display_id=True)
        if self._handle is None or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._update, args=(interval_s,), name="pilotage-table", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Update it no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the table has come to its end, at most ``timeout`` seconds; tell whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _update(self, interval_s: float) -> None:
        ipython = _ipython_display()
        assert self._handle is not None
        while True:
            began = time.monotonic()
            groups, failures = self._look()
            self._handle.update(ipython.HTML(_html(groups, failures)))
            if not any(counts["waiting"] + counts["running"] for counts in groups.values()):
                return
            if self._stop.wait(max(interval_s, (time.monotonic() - began) / LOOKING_SHARE)):
                return

    def _look(self) -> tuple[dict[str, dict[str, int]], list[tuple[str, str]]]:
        groups: dict[str, dict[str, int]] = {}
        failures: list[tuple[str, str]] = []
        for task in self._tasks():
            state = task.state
            word = _WORDS.get(state, "waiting")
            name = _NUMBER_AT_END.sub("", task.name) or task.name
            counts = groups.get(name)
            if counts is None:
                counts = groups[name] = dict.fromkeys(_COLUMNS, 0)
            counts[word] += 1
            if state == FAILED and len(failures) < FAILURES_SHOWN:
                failures.append((task.uid, task.exception or ""))
        return groups, failures

    def __str__(self) -> str:
        groups, failures = self._look()
        lines = [_line(name, counts) for name, counts in list(groups.items())[:GROUPS_SHOWN]]
        if len(groups) != 1:
            lines.append(_line("", _total(groups)))
        lines += [f"  {uid}: {message}" for uid, message in failures]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _html(*self._look())


_WORDS = {AGENT_EXECUTING: "running", DONE: "done", FAILED: "failed", CANCELED: "canceled"}


def _source(what: Any) -> Any:
    """Return a function that gives the tasks that ``what`` means at the time of its call."""
    from pilotage.client.session import Session
    from pilotage.client.task import Task
    from pilotage.client.task_manager import TaskManager

    if isinstance(what, TaskManager):
        return what.get_tasks
    if isinstance(what, Session):
        return lambda: [task for manager in what.get_task_managers() for task in manager.get_tasks()]
    tasks: Sequence[Any] = [what] if isinstance(what, Task) else list(what) if isinstance(what, Iterable) else [what]
    for one in tasks:
        if not isinstance(one, Task):
            raise InvalidRequest(f"show() takes tasks, a TaskManager or a Session, not {one!r:.60} ({type(one).__name__})")
    return lambda: tasks


def _total(groups: dict[str, dict[str, int]]) -> dict[str, int]:
    return {column: sum(counts[column] for counts in groups.values()) for column in _COLUMNS}


def _line(name: str, counts: dict[str, int]) -> str:
    total = sum(counts.values())
    parts = [f"{counts[column]:,} {column}" for column in _COLUMNS if counts[column]]
    said = f"{total:,} task{'' if total == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")
    return f"{name}: {said}" if name else said


def _html(groups: dict[str, dict[str, int]], failures: list[tuple[str, str]]) -> str:
    shown = list(groups.items())[:GROUPS_SHOWN]
    rows = [*shown, ("all", _total(groups))] if len(groups) != 1 else shown
    head = "".join(f'<th style="text-align:right">{column}</th>' for column in _COLUMNS)
    body = "".join(
        f'<tr><td style="text-align:left">{html.escape(name)}</td><td>{_bar(counts)}</td>'
        + "".join(f'<td style="text-align:right">{counts[column]:,}</td>' for column in _COLUMNS)
        + "</tr>"
        for name, counts in rows
    )
    said = "".join(f"<li><code>{html.escape(uid)}</code> {html.escape(message)}</li>" for uid, message in failures)
    return (
        f'<table class="pilotage-progress"><thead><tr><th style="text-align:left">tasks</th><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>" + (f"<ul>{said}</ul>" if said else "")
    )


def _bar(counts: dict[str, int]) -> str:
    total = sum(counts.values()) or 1
    parts = "".join(
        f'<span style="display:inline-block;height:0.8em;width:{160 * counts[column] / total:.1f}px;'
        f'background:{_COLORS[column]}"></span>'
        for column in ("done", "failed", "canceled", "running", "waiting")
        if counts[column]
    )
    return f'<span role="img" aria-label="{html.escape(_line("", counts))}" style="white-space:nowrap">{parts}</span>'


def _ipython_display() -> Any:
    # By name: it is there in notebooks, and need not be anywhere else.
    return importlib.import_module("IPython.display")


def _in_notebook() -> bool:
    """Tell whether this runs in a kernel that can display things; IPython is not imported for the question."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
