"""What sessions, pilots and tasks there are, from their folders and logs alone: no daemon, no connection, no locks.

A log that is missing, torn or still growing gives what it gives; ``remarks`` tells of the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import msgspec

from pilotage.core.agent import facts as agent
from pilotage.core.agent.state import AgentState
from pilotage.core.client import facts as client
from pilotage.core.client.state import ClientState
from pilotage.model.ids import Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.workload import Row, Template
from pilotage.trace.catalogue import TraceEvent
from pilotage.trace.events import read_events
from pilotage.trace.reader import agent_folders, read_session
from pilotage.trace.records import (
    CLIENT_LOG,
    PILOT_LOG,
    agent_facts,
    agent_logs,
    client_facts,
    decode_batch,
    decode_outcomes,
    pilot_folders,
    read_log,
)
from pilotage.trace.run import Run, TaskTrace


class SessionEntry(msgspec.Struct, frozen=True):
    """A session's folder, without reading its logs. ``changed``: when a log was last written, in seconds since the epoch."""

    uid: str
    folder: str
    pilots: list[str]
    changed: float


class PilotSummary(msgspec.Struct, frozen=True):
    """A pilot in a few words. ``state`` is empty if neither client nor agent tells it."""

    uid: str
    state: str
    reason: str
    nodes: int
    cores: int
    gpus: int
    submitted: float
    active: float
    ended: float


class SessionSummary(msgspec.Struct, frozen=True):
    """A session in a few words. ``tasks``: how many are in each state. ``closed`` is 0.0 unless it was closed for good."""

    uid: str
    folder: str
    opened: float
    closed: float
    pilots: list[PilotSummary]
    tasks: dict[str, int]
    remarks: list[str]


class TaskDetails(msgspec.Struct, frozen=True):
    """All that is known of one task. ``template`` and ``row`` as submitted, None if their records were not kept."""

    task: TaskTrace
    template: Template | None
    row: Row | None
    outcome: Outcome | None
    events: list[TraceEvent]


def list_sessions(base: Path | str) -> list[SessionEntry]:
    """Return the sessions in the folder ``base``, the one last written to first; none when there is no such folder."""
    try:
        folders = [entry for entry in Path(base).iterdir() if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for folder in folders:
        try:
            pilots = pilot_folders(folder)
            logs = [folder / CLIENT_LOG, *(pilot / PILOT_LOG for pilot in pilots)]
            times = [entry.stat().st_mtime for log in logs if log.is_dir() for entry in (log, *log.glob("segment-*.log"))]
        except OSError:
            continue  # not ours to read, or gone meanwhile
        if times or pilots:
            uids = [pilot.name for pilot in pilots]
            found.append(SessionEntry(folder.name, str(folder), uids, max(times, default=folder.stat().st_mtime)))
    return sorted(found, key=lambda session: (-session.changed, session.uid))


def session_summary(folder: Path | str) -> SessionSummary:
    """Return a session in a few words."""
    return summarise(read_session(folder))


def summarise(run: Run) -> SessionSummary:
    """Return a session that was read in a few words."""
    pilots = [
        PilotSummary(
            pilot.uid,
            pilot.state,
            pilot.reason,
            len(pilot.nodes),
            pilot.cores,
            pilot.gpus,
            pilot.submitted,
            pilot.active,
            pilot.final or pilot.ended,
        )
        for pilot in run.pilots.values()
    ]
    states = Counter(run.tasks.state(index) for index in range(len(run.tasks)))
    return SessionSummary(run.folder.name, str(run.folder), run.opened, run.closed, pilots, dict(states), run.remarks)


def list_tasks(
    folder: Path | str, *, states: Collection[str] = (), name: str = "", limit: int | None = None
) -> list[TaskTrace]:
    """Return the tasks of a session in the order of submission.

    ``states``: only those in one of these (any, if empty). ``name``: a shell pattern that the name or the uid matches.
    ``limit``: no more than so many, the first.
    """
    tasks = read_session(folder).tasks
    chosen = (
        index
        for index in range(len(tasks))
        if (not states or tasks.state(index) in states)
        and (not name or fnmatchcase(tasks.name[index], name) or fnmatchcase(tasks.uid[index], name))
    )
    return [tasks.row(index) for index in islice(chosen, limit)]


def show_task(folder: Path | str, uid: str) -> TaskDetails | None:
    """Return all that the logs know of one task; None if they do not know it."""
    folder = Path(folder)
    tasks = read_session(folder).tasks
    index = tasks.index.get(TaskUid(uid))
    if index is None:
        return None
    finder = _Finder(TaskUid(uid), tasks.binding[index], tasks.ending[index])
    finder.read_client(folder / CLIENT_LOG)
    for pilot in agent_folders(folder):
        for log in agent_logs(pilot):
            finder.read_agent(log)
    template = finder.templates.get(finder.row.template) if finder.row is not None else None
    events = [event for event in read_events(folder) if event.entity == uid]
    return TaskDetails(tasks.row(index), template, finder.row, finder.outcome, events)


class _Finder:
    """Looks for one task's description, and the outcome that counts: the one of its last binding, with this ending."""

    def __init__(self, uid: TaskUid, binding: Binding, ending: Ending | None) -> None:
        self.row: Row | None = None
        self.outcome: Outcome | None = None
        self.templates: dict[TemplateId, Template] = {}
        self._uid = uid
        self._counts = (uid, binding, ending)

    def read_client(self, folder: Path) -> None:
        state, records = read_log(folder, ClientState, client_facts, [])
        if state is not None and self._uid in state.tasks:
            self.templates.update(state.templates)
            self.row, self.outcome = state.tasks[self._uid].row, state.tasks[self._uid].outcome
        for record in records:
            for fact in record:
                if isinstance(fact, client.TasksAccepted):
                    batch = decode_batch(fact.batch)
                    self._look_at(batch.templates, batch.rows)
                elif isinstance(fact, client.OutcomesReceived):
                    self._look_for(decode_outcomes(fact.outcomes))

    def read_agent(self, folder: Path) -> None:
        state, records = read_log(folder, AgentState, agent_facts, [])
        if state is not None:
            self._look_at(state.templates, [task.row for task in state.tasks.values()])
            self._look_for([*state.unsent, *(outcome for sent in state.undelivered.values() for outcome in sent)])
        for record in records:
            for fact in record:
                if isinstance(fact, agent.TasksAccepted):
                    self._look_at(fact.batch.templates, fact.batch.rows)
                elif isinstance(fact, agent.Ended):
                    self._look_for(fact.outcomes)

    def _look_at(self, templates: dict[TemplateId, Template], rows: list[Row]) -> None:
        self.templates.update(templates)
        if self.row is None:
            self.row = next((row for row in rows if row.uid == self._uid), None)

    def _look_for(self, outcomes: list[Outcome]) -> None:
        if self.outcome is None:
            self.outcome = next((each for each in outcomes if (each.task, each.binding, each.ending) == self._counts), None)
