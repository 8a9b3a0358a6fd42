"""What the folds of both logs share: the rows of new tasks by their templates, and how an outcome is written down."""

from __future__ import annotations

from pilotage.model.ids import TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES
from pilotage.model.workload import Row, Template
from pilotage.trace.run import Shape, Tasks

_UNKNOWN = Shape("", 0)
_LINE_CHARACTERS = 240


class Templates:
    """The shapes of tasks by template, and the rows of new tasks."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._shapes: dict[TemplateId, Shape] = {}

    def learn(self, templates: dict[TemplateId, Template]) -> None:
        for uid, template in templates.items():
            request = template.request
            ranks = request.ranks
            self._shapes[uid] = Shape(
                template.form.removeprefix("task.") or template.mode,
                ranks * request.cores,
                ranks * request.gpu_shares / GPU_SHARES,
                ranks,
                ranks * request.memory * BLOCK_MIB,
            )

    def indices(self, rows: list[Row]) -> list[int]:
        """Return the indices of the tasks of these rows; new ones are appended."""
        index, shapes = self._tasks.index, self._shapes
        new = [(row.uid, row.name, shapes.get(row.template, _UNKNOWN)) for row in rows if row.uid not in index]
        if new:
            self._tasks.extend(new)
        return [index[row.uid] for row in rows]


def take_outcome(tasks: Tasks, i: int, outcome: Outcome) -> None:
    """Write an outcome into the columns of the task at ``i``."""
    times = outcome.times
    tasks.ending[i], tasks.exit_code[i], tasks.attempt[i] = outcome.ending, outcome.exit_code, outcome.attempt
    tasks.accepted[i], tasks.launched[i] = times.accepted, times.launched
    tasks.started[i], tasks.ended[i] = times.started, times.ended
    take_cause(tasks, i, outcome)


def take_cause(tasks: Tasks, i: int, outcome: Outcome) -> None:
    """Write why the task at ``i`` did not end well into its columns."""
    if outcome.ending is not Ending.DONE:
        tasks.message[i] = outcome.message
        # The last line says what happened, of a traceback as of most programs' complaints.
        tasks.error_line[i] = outcome.detail.rstrip().rpartition("\n")[2].strip()[:_LINE_CHARACTERS]
