"""What no pilot of a session can ever run is refused at submission: one look per template, not per task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pilotage.client.pilot_description import decoded, partitions_of, scheduler_of
from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import located
from pilotage.core.client.binding import infeasible, usable_pilots
from pilotage.core.client.state import PilotRecord
from pilotage.core.metascheduler.fitting import refusal_by_plan
from pilotage.core.scheduling import slots, tags
from pilotage.core.scheduling.pool import OPEN
from pilotage.errors import InvalidTask, nearest
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Row, Template

if TYPE_CHECKING:
    from pilotage.client.session import Session


class Feasibility:
    """Looks at the nodes of a session's pilots."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._plans: dict[PilotUid, list[PartitionSpec]] = {}
        self._refusals: dict[tuple[PilotUid, TemplateId, tuple[str, ...]], str] = {}
        self._counted: dict[PilotUid, tuple[list[Node], Mapping[NodeShape, int]]] = {}

    def require(
        self,
        manager: str,
        descriptions: Sequence[TaskDescription],
        rows: Sequence[Row],
        pins: Sequence[str],
        passed_over: Collection[int],
        template: Callable[[TemplateId], Template],
    ) -> None:
        """Refuse what could only be bound to pilots none of which can ever run it. Known tasks are ``passed_over``.

        Raises:
            InvalidTask: says of which resource there is too little.
        """
        if not any(pins):
            asked: set[tuple[TemplateId, str]] = {(number, "") for number in {row.template for row in rows}}
        else:
            asked = {(row.template, pin) for row, pin in zip(rows, pins, strict=True)}
        state = self._session.state
        # Under the engine's lock a pilot's nodes and its state belong together.
        with self._session.engine.lock:
            usable = usable_pilots(state, state.managers[manager])
            shapes = self._shapes_of(usable)
            for number, pin in sorted(asked):
                pilots = [state.pilots[PilotUid(pin)]] if pin else usable
                request = template(number).request
                if request.slots:
                    reason = _no_such_slots(request, pilots)
                else:
                    reason = _no_such_nodes(request, pilots) if request.pinned else ""
                    reason = reason or infeasible(request, self._shapes_of(pilots) if pin else shapes)
                reason = reason or self._no_such_partition(number, template, pilots)
                reason = reason or self._no_such_task(request.beside, rows)
                if not reason:
                    continue
                for position, row in enumerate(rows):
                    if row.template == number and pins[position] == pin and position not in passed_over:
                        raise located(InvalidTask(reason), descriptions[position], position, len(rows))

    def _no_such_partition(
        self, number: TemplateId, template: Callable[[TemplateId], Template], pilots: Iterable[PilotRecord]
    ) -> str:
        """Return why no partition of any of these pilots can run such tasks; empty if one may, or if that is not known."""
        reason = ""
        for pilot in pilots:
            plan = self._plan_of(pilot)
            if not plan or not pilot.known_nodes:
                return ""
            key = pilot.uid, number, tuple(pilot.added)
            refused = self._refusals.get(key)
            if refused is None:
                refused = refusal_by_plan(template(number), plan, list(pilot.added.values()), pilot.nodes)
                self._refusals[key] = refused
            if not refused:
                return ""
            reason = reason or refused
        return reason

    def _plan_of(self, pilot: PilotRecord) -> list[PartitionSpec]:
        plan = self._plans.get(pilot.uid)
        if plan is None:
            description = decoded(pilot.description)
            plan = self._plans[pilot.uid] = partitions_of("pilot", description) if description.get("partitions") else []
        return plan

    def _no_such_task(self, beside: str, rows: Sequence[Row]) -> str:
        """Return why there is no task beside which others are to run; empty if there is."""
        tasks = self._session.state.tasks
        if not beside or TaskUid(beside) in tasks or any(row.uid == beside for row in rows):
            return ""
        hint = nearest(beside, tasks)
        return f"tag 'task' names {beside!r}, and there is no such task in this session{hint}; name an earlier one"

    def _shapes_of(self, pilots: Iterable[PilotRecord]) -> dict[PilotUid, Mapping[NodeShape, int]]:
        shapes: dict[PilotUid, Mapping[NodeShape, int]] = {}
        for pilot in pilots:
            nodes, counted = self._counted.get(pilot.uid, (None, {}))
            # A pilot of ten thousand nodes is counted once, not for each of the tasks that are submitted one by one.
            if nodes is not pilot.nodes:
                counted = Counter(node.shape for node in pilot.nodes)
                self._counted[pilot.uid] = (pilot.nodes, counted)
            if pilot.estimated:
                # Nobody is refused for what may turn out otherwise.
                counted = {}
            shapes[pilot.uid] = counted
        return shapes


def _no_such_nodes(request: Request, pilots: Iterable[PilotRecord]) -> str:
    """Return why no pilot has nodes that the tags name; empty if one has, or if that is not known."""
    reason = ""
    for pilot in pilots:
        refused = tags.refusal(request, pilot.nodes, _groups_of(pilot)) if pilot.known_nodes else None
        if refused is None:
            return ""
        reason = reason or refused
    return reason


def _groups_of(pilot: PilotRecord) -> dict[str, tuple[str, ...]]:
    description = decoded(pilot.description)
    specs = [scheduler_of("pilot", description)]
    specs += [partition.scheduler for partition in partitions_of("pilot", description)] if description.get("partitions") else []
    return {name: nodes for spec in specs for name, nodes in spec.groups.items()}


def _no_such_slots(request: Request, pilots: Iterable[PilotRecord]) -> str:
    """Return why the slots that the user has chosen are on no pilot; empty if they are on one, or if that is not known."""
    reason = ""
    for pilot in pilots:
        refused = slots.refusal(request, pilot.nodes, [OPEN] * len(pilot.nodes)) if pilot.known_nodes else None
        if refused is None:
            return ""
        reason = reason or refused
    return reason
