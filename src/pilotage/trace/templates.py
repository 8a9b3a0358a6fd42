"""What the folds of both logs share: the rows of new tasks by their templates, and how an outcome is written down."""

from __future__ import annotations

from pilotage.model.ids import TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.resources import GPU_SHARES
from pilotage.model.workload import Row, Template
from pilotage.trace.run import Tasks

_Shape = tuple[str, int, float]


class Templates:
    """The shapes of tasks by template, and the rows of new tasks."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._shapes: dict[TemplateId, _Shape] = {}

    def learn(self, templates: dict[TemplateId, Template]) -> None:
        for uid, template in templates.items():
            request = template.request
            self._shapes[uid] = (template.mode, request.ranks * request.cores, request.ranks * request.gpu_shares / GPU_SHARES)

    def indices(self, rows: list[Row]) -> list[int]:
        """Return the indices of the tasks of these rows; new ones are appended."""
        index, shapes = self._tasks.index, self._shapes
        unknown: _Shape = ("", 0, 0.0)
        new = [(row.uid, row.name, *shapes.get(row.template, unknown)) for row in rows if row.uid not in index]
        if new:
            self._tasks.extend(new)
        return [index[row.uid] for row in rows]


def take_outcome(tasks: Tasks, i: int, outcome: Outcome) -> None:
    """Write an outcome into the columns of the task at ``i``."""
    times = outcome.times
    tasks.ending[i], tasks.exit_code[i], tasks.attempt[i] = outcome.ending, outcome.exit_code, outcome.attempt
    tasks.accepted[i], tasks.launched[i] = times.accepted, times.launched
    tasks.started[i], tasks.ended[i] = times.started, times.ended
