"""Launches that were refused for the time being, and are tried again.

A launcher whose batch system was away, or has only just come back, may be refused what is there: Slurm's ``srun`` is told that
``Memory required by task is not available`` while the controller does not know its nodes yet. It has started no rank then, so
this is not the task's failure. Before the next try its step is ended, should there be one that nobody was told of; that waits
for the batch system to answer, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from pilotage.spawner.forest import Forest
from pilotage.spawner.lanes import TaskTree
from pilotage.spawner.outputs import Outputs
from pilotage.spawner.steps import Steps
from pilotage.spawner.timers import Timers
from pilotage.spawner.verdicts import Verdict

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each further try. After the last the refusal is told: it may be for good."""


class Relaunches:
    """Tries again; ``clear`` removes what there is of notes and files, ``grow`` begins the present stage of a task anew."""

    def __init__(
        self,
        forest: Forest,
        timers: Timers,
        steps: Steps,
        outputs: Outputs,
        clear: Callable[[TaskTree], None],
        grow: Callable[[TaskTree], None],
    ) -> None:
        self._forest = forest
        self._timers = timers
        self._steps = steps
        self._outputs = outputs
        self._clear = clear
        self._grow = grow

    def note(self, tree: TaskTree, verdict: Verdict) -> bool:
        """A launcher has ended so. Return whether the task is to be launched again when nothing of it is left."""
        if not verdict.transient or not tree.wanted or tree.terminated or tree.launches >= len(PAUSES_S):
            return False
        tree.refused = verdict
        return True

    def begin(self, tree: TaskTree) -> bool:
        """Nothing of a task is left. Return whether it is launched again; else what was noted of it is its end."""
        refused, tree.refused = tree.refused, None
        if refused is None:
            return False
        if not tree.wanted or tree.terminated:
            tree.note_exit(refused)
            return False
        tree.growing = True
        if tree.step is None:
            self._pause(tree, refused, True)
        else:
            self._steps.end(tree.step, partial(self._pause, tree, refused))
        return True

    def _pause(self, tree: TaskTree, refused: Verdict, known: bool) -> None:
        if not tree.growing:
            # Somebody has ended it meanwhile.
            return
        if not known:
            tree.note_exit(refused)
            self._forest.settle(tree)
            return
        pause_s = PAUSES_S[tree.launches]
        tree.launches += 1
        self._timers.at(time.monotonic() + pause_s, partial(self._begin_again, tree))

    def _begin_again(self, tree: TaskTree) -> None:
        if tree.growing:
            self._clear(tree)
            if tree.output is not None:
                self._outputs.empty(tree.output)
            tree.ranks.clear()
            self._grow(tree)
