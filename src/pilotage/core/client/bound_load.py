"""What the unfinished tasks take of the pilot that they are bound to: how many there are, and which are wider than a core."""

from __future__ import annotations

from collections import Counter

from pilotage.core.client.state import ClientState, PilotRecord, TaskRecord
from pilotage.model.ids import TemplateId
from pilotage.model.resources import Request
from pilotage.model.workload import Row


def is_wide(request: Request) -> bool:
    """Tell whether a task that asks for this takes more of a pilot than one core."""
    sizes = (request.ranks * request.cores - 1, request.gpu_shares, request.memory, request.disk, request.exclusive)
    return any(sizes)


def put_on(state: ClientState, pilot: PilotRecord, rows: list[Row], used: set[TemplateId]) -> None:
    """These rows are bound to the pilot; ``used``: their templates."""
    pilot.load += len(rows)
    if any(is_wide(state.templates[template].request) for template in used):
        for template, count in Counter([row.template for row in rows]).items():
            if is_wide(state.templates[template].request):
                pilot.wide[template] = pilot.wide.get(template, 0) + count


def take_off(pilot: PilotRecord, record: TaskRecord) -> None:
    """An unfinished task is bound to the pilot no longer."""
    pilot.load -= 1
    if record.row.template in pilot.wide:
        take_off_wide(pilot.wide, record.row.template)


def take_off_wide(wide: dict[TemplateId, int], template: TemplateId, count: int = 1) -> None:
    """So many tasks of a template in ``wide`` are not unfinished any more."""
    wide[template] -= count
    if not wide[template]:
        del wide[template]
