"""A session that ran, as a workload: its tasks' shapes, when they were submitted, how long they ran.

Tasks come at the times at which the session's program submitted them, the first at 0; those that waited for others come when
these are final in the simulation. What only means something where the session ran is left out: named nodes and slots, files,
environments, hooks. So are services, and tasks that did not run to an end; ``left_out`` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from pilotage.core.client import facts as client
from pilotage.core.client.state import ClientState
from pilotage.errors import InvalidRequest
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import NodeShape
from pilotage.model.workload import Row, Template
from pilotage.sim.model import Arrival, Machine
from pilotage.sim.workloads.demand import Demand, demand_of
from pilotage.trace.reader import read_session
from pilotage.trace.records import CLIENT_LOG, client_facts, decode_batch, read_log
from pilotage.trace.run import Run


class RecordedWorkload:
    """The tasks of a session that ran to an end; a ``Workload``. It serves one simulation.

    Raises:
        InvalidRequest: no task of the session ran to an end.
    """

    def __init__(self, folder: Path) -> None:
        run = read_session(folder)
        read = _Read(folder)
        tasks = run.tasks
        self.name = folder.name
        self.templates: Mapping[TemplateId, Template] = {
            uid: _as_anywhere(template) for uid, template in read.templates.items() if template.service is None
        }
        self._template_of: dict[TaskUid, TemplateId] = {}
        self._duration_s: dict[TaskUid, float] = {}
        self._submitted: list[tuple[float, TaskUid]] = []
        for place, uid in enumerate(tasks.uid):
            template = read.template_of.get(uid)
            if template in self.templates and 0.0 < tasks.started[place] <= tasks.ended[place]:
                self._template_of[uid] = template
                self._duration_s[uid] = tasks.ended[place] - tasks.started[place]
                self._submitted.append((tasks.submitted[place], uid))
        self.left_out = len(tasks) - len(self._template_of)
        if not self._template_of:
            raise InvalidRequest(f"session {folder}: none of its {len(tasks)} tasks ran to an end; give another session")
        self._submitted.sort(key=lambda entry: entry[0])
        self._waits_for: dict[TaskUid, set[TaskUid]] = {}
        self._needs_success: set[TaskUid] = set()
        self._dependents: dict[TaskUid, list[TaskUid]] = {}
        self._coming: set[TaskUid] = set()
        for uid, held in read.held.items():
            self._hold(uid, held)
        self.machine = _machine_of(run)
        """The nodes that the session's pilots had."""

    @property
    def count(self) -> int:
        """How many tasks there are in all."""
        return len(self._template_of)

    def demand(self) -> Demand:
        """Return what all tasks ask for together."""
        parts = (
            (self.templates[template].request, 1, self._duration_s[uid], self._duration_s[uid])
            for uid, template in self._template_of.items()
        )
        return demand_of(parts, self.machine.shape)

    def arrivals(self) -> Iterator[Arrival]:
        """Yield what was submitted at the times when it was."""
        first, rows, now = self._submitted[0][0], list[Row](), 0.0
        for submitted, uid in self._submitted:
            if rows and submitted - first > now:
                yield Arrival(now, rows)
                rows = []
            now = submitted - first
            if self._waits_for.get(uid):
                self._coming.add(uid)
            elif uid in self._template_of:
                rows.append(self._row(uid))
        if rows:
            yield Arrival(now, rows)

    def duration_s(self, task: TaskUid) -> float:
        """Return how long the task ran."""
        return self._duration_s[task]

    def follow(self, outcome: Outcome, time_s: float) -> Arrival | None:
        """Return the tasks that waited for this one, and for no other any more."""
        rows = []
        for uid in self._dependents.pop(outcome.task, ()):
            waits_for = self._waits_for[uid]
            if outcome.ending is not Ending.DONE and uid in self._needs_success:
                continue  # it can never run
            waits_for.discard(outcome.task)
            if not waits_for and uid in self._coming:
                rows.append(self._row(uid))
        return Arrival(time_s, rows) if rows else None

    def _hold(self, uid: TaskUid, held: client.Held) -> None:
        others = {other for other in held.after if other in self._template_of}
        if uid not in self._template_of or not others:
            return
        self._waits_for[uid] = others
        if held.policy == "ok":
            self._needs_success.add(uid)
        for other in held.after:
            if other in others:
                self._dependents.setdefault(other, []).append(uid)

    def _row(self, uid: TaskUid) -> Row:
        return Row(uid, self._template_of[uid])


class _Read:
    """What the client's log tells beyond the columns of a run: templates, who follows which, who waited for whom."""

    def __init__(self, folder: Path) -> None:
        self.templates: dict[TemplateId, Template] = {}
        self.template_of: dict[TaskUid, TemplateId] = {}
        self.held: dict[TaskUid, client.Held] = {}
        state, records = read_log(folder / CLIENT_LOG, ClientState, client_facts, [])
        if state is not None:
            self.templates.update(state.templates)
            self.template_of.update((uid, task.row.template) for uid, task in state.tasks.items())
            self.held.update(state.asked)
        for record in records:
            for fact in record:
                if isinstance(fact, client.TasksAccepted):
                    batch = decode_batch(fact.batch)
                    self.templates.update(batch.templates)
                    self.template_of.update((row.uid, row.template) for row in batch.rows)
                elif isinstance(fact, client.TasksHeld):
                    self.held.update(fact.tasks)


def _as_anywhere(template: Template) -> Template:
    request = msgspec.structs.replace(template.request, slots=(), pinned=(), beside="")
    return Template(
        mode=template.mode,
        form=template.form,
        executable=template.executable,
        request=request,
        priority=template.priority,
        timeout_s=template.timeout_s,
        duration_s=template.duration_s,
        partition=template.partition,
        grace_s=template.grace_s,
        retries=template.retries,
        retry_on=template.retry_on,
        restartable=template.restartable,
        restart=template.restart,
    )


def _machine_of(run: Run) -> Machine:
    nodes = [node for pilot in run.pilots.values() for node in pilot.nodes]
    # Nodes of several shapes are rare; those of the first stand for all.
    shape = nodes[0].shape if nodes else NodeShape(1)
    return Machine(
        name=run.folder.name,
        description="the nodes of a session",
        nodes=max(1, len(nodes)),
        shape=shape,
        source=f"recorded in {run.folder}",
    )
