"""What became of an execution whose runner is lost, or a node of it."""

from __future__ import annotations

from pilotage.core.agent.events import RunnerLost
from pilotage.core.agent.state import TaskRecord
from pilotage.model.execution import AttemptEnd
from pilotage.model.outcome import Ending

NODE_LOST = "one of its nodes was lost"

_REMEDY = "Tasks with restartable=True, or with retries left, run again"


def lost_end(task: TaskRecord, event: RunnerLost, came_up: bool, node_lost: bool) -> AttemptEnd:
    """Return how the present attempt of ``task`` ended with its runner.

    ``came_up``: the runner had said hello. ``node_lost``: the attempt was being ended, as one of its nodes was lost.
    """
    uid = task.row.uid
    ending, message, exit_code = Ending.LOST, f"{event.reason}; it may have run. {_REMEDY}", None
    if task.ending is not None:
        ending, message = task.ending, task.ending_message
    elif not came_up:
        ending, message = Ending.LAUNCH_FAILED, event.reason
    elif node_lost and (task.started or event.running == (uid, task.attempt)):
        ending, message = Ending.NODE_FAILED, NODE_LOST
    elif event.running == (uid, task.attempt):
        exit_code = event.exit_code
        ending = Ending.SIGNALLED if exit_code is not None and exit_code < 0 else Ending.EXITED
        message = event.reason
    elif task.started:
        ending, message = Ending.NODE_FAILED, event.reason
    return AttemptEnd(
        uid, task.attempt, ending, exit_code, message=message, started=task.started or task.launched, ended=event.time
    )
