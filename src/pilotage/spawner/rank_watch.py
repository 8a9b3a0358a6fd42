"""Looking at the ranks that an mpiexec has started, whether they can see each other (see ``launchers.mismatch``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from pilotage.spawner.forest import Forest
from pilotage.spawner.lanes import TaskTree
from pilotage.spawner.timers import Timers

_LOOKS_S = (0.3, 1.0, 4.0, 16.0)
"""Pauses before each look: a program in Python loads its MPI library late, on a busy machine very late."""


class RankWatch:
    """Watches tasks for a while after their start; ``refuse`` is called with why the ranks of one cannot see each other."""

    def __init__(self, forest: Forest, timers: Timers, refuse: Callable[[TaskTree, str], None]) -> None:
        self._forest = forest
        self._timers = timers
        self._refuse = refuse

    def begin(self, tree: TaskTree, now: float) -> None:
        """Watch the ranks of a task that has just been begun; one alone has nobody to see."""
        chosen = tree.recipe.chosen
        if tree.recipe.template.request.ranks > 1 and chosen is not None and chosen.mpi is not None:
            self._timers.at(now + _LOOKS_S[0], partial(self._look, tree, 1))

    def _look(self, tree: TaskTree, looks: int) -> None:
        if not tree.roots or tree.terminated:
            return
        from pilotage.launchers.mismatch import check_running  # only here: most spawners start no mpiexec

        chosen = tree.recipe.chosen
        launcher = chosen.mpi if chosen is not None else None
        assert launcher is not None
        if message := check_running(self._forest.below(tree), launcher):
            self._refuse(tree, message)
        elif looks < len(_LOOKS_S):
            self._timers.at(time.monotonic() + _LOOKS_S[looks], partial(self._look, tree, looks + 1))
