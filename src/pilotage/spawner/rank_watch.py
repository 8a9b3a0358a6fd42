"""Looking at the ranks that a launcher has started: whether they can see each other, and whether they should still be there.

Ranks of one MPI under the launcher of another do not see each other (see ``launchers.mismatch``). And a launcher that ends all
ranks when one has failed may do so before the last of them have begun on their nodes, as ``srun`` does: these then run on, and
wait for the others. Both happens at the beginning, so that is when they are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from pilotage.spawner.examination import Examiner
from pilotage.spawner.forest import Forest
from pilotage.spawner.lanes import TaskTree
from pilotage.spawner.timers import Timers
from pilotage.spawner.verdicts import Verdict

_LOOKS_S = (0.3, 1.0, 4.0, 16.0)
"""Pauses before each look: a program in Python loads its MPI library late, on a busy machine very late."""
_STEP_LOOKS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""The same for ranks that a launcher may have missed: thousands of them begin within a minute."""
_PATIENCE_S = 2.0
"""A launcher that has told of a rank that failed may take so long to end the others."""


class RankWatch:
    """Watches tasks for a while after their start.

    ``refuse`` is called with why the ranks of one cannot see each other, ``fail`` with how a rank of one has ended, whose
    launcher goes on.
    """

    def __init__(
        self,
        forest: Forest,
        timers: Timers,
        examiner: Examiner,
        refuse: Callable[[TaskTree, str], None],
        fail: Callable[[TaskTree, Verdict], None],
    ) -> None:
        self._forest = forest
        self._timers = timers
        self._examiner = examiner
        self._refuse = refuse
        self._fail = fail

    def begin(self, tree: TaskTree, now: float) -> None:
        """Watch the ranks of a task that has just been begun; one alone has nobody to see."""
        chosen = tree.recipe.chosen
        if tree.recipe.template.request.ranks == 1 or chosen is None:
            return
        if tree.step is not None:
            self._timers.at(now + _STEP_LOOKS_S[0], partial(self._look_at_step, tree, 1, False))
        elif chosen.mpi is not None:
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

    def _look_at_step(self, tree: TaskTree, looks: int, failed: bool) -> None:
        """Look whether a launcher has told of a rank that failed; ``failed``: it had at the last look, and goes on."""
        if not tree.roots or tree.terminated:
            return
        # Where ranks are on other nodes, nobody there can tell us at once.
        stuck = self._examiner.stuck(tree) if tree.note and tree.recipe.far else None
        verdict = stuck or self._examiner.failed(tree)
        if verdict is not None and (stuck or failed):
            self._fail(tree, verdict)
        elif looks < len(_STEP_LOOKS_S) or verdict is not None:
            pause_s = _PATIENCE_S if verdict is not None else _STEP_LOOKS_S[looks]
            self._timers.at(time.monotonic() + pause_s, partial(self._look_at_step, tree, looks + 1, verdict is not None))
