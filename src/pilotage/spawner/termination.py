"""Ending process trees in time: TERM, a grace, KILL."""

from __future__ import annotations

import signal
import time
from functools import partial

from pilotage.spawner.forest import Forest, Tree
from pilotage.spawner.steps import StepName, Steps
from pilotage.spawner.timers import Timers

_REMIND_FIRST_S = 0.02


class Termination:
    """Ends trees of ``forest``. Times are of ``time.monotonic``."""

    def __init__(self, forest: Forest, timers: Timers, steps: Steps) -> None:
        self._forest = forest
        self._timers = timers
        self._steps = steps

    def end(self, tree: Tree, grace_s: float, now: float, step: StepName | None = None) -> None:
        """Send TERM to all of a tree now, and KILL to what is left of it after the grace.

        ``step``: of a tree that is a launcher whose ranks get their TERM as a step.
        """
        if step is None or not self._steps.reaches(step):
            self._forest.send(tree, signal.SIGTERM)
        else:
            tree.terminated = True
            self._steps.signal(step, signal.SIGTERM, partial(self._send_term, tree))
        self._timers.at(now + grace_s, partial(self._forest.send, tree, signal.SIGKILL))
        self._timers.at(now + _REMIND_FIRST_S, partial(self._remind, tree, _REMIND_FIRST_S))

    def kill(self, tree: Tree) -> None:
        """Send KILL to all of a tree now."""
        self._forest.send(tree, signal.SIGKILL)

    def _send_term(self, tree: Tree) -> None:
        if not tree.killed:
            self._forest.send(tree, signal.SIGTERM)

    def _remind(self, tree: Tree, pause_s: float) -> None:
        """Repeat TERM for what a tree left behind: one that comes between fork and exec is lost. A root gets it only once."""
        if tree.killed or not (tree.roots or tree.strays):
            return
        if not tree.roots:
            self._forest.send(tree, signal.SIGTERM)
        self._timers.at(time.monotonic() + 2 * pause_s, partial(self._remind, tree, 2 * pause_s))
