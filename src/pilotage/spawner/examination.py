"""Finding out how a task's process ended: what its hooks have noted, what its mpiexec says, and whether its ranks met."""

from __future__ import annotations

from pilotage.model.outcome import Ending
from pilotage.outputs.files import tail
from pilotage.spawner.hooks import LAUNCH
from pilotage.spawner.lanes import Stage, TaskTree
from pilotage.spawner.notes import Notes
from pilotage.spawner.rank_endings import rank_ending
from pilotage.spawner.verdicts import Verdict, verdict_on_script

_SAID_BYTES = 1 << 14
_UNKNOWN_CODE = 1
_OUT_OF_MEMORY = "killed for memory on its node, where its step may use no more than it was given; ask for more memory"


class Examiner:
    """Examines what was begun of tasks, at its end."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def verdict(self, tree: TaskTree, pid: int, exit_code: int) -> Verdict:
        """Return how this process of a task ended, which is reaped."""
        launched = tree.recipe.chosen is not None
        rank = tree.rank_of(pid)
        verdict = Verdict(exit_code, rank=rank)
        if tree.note and not (tree.recipe.quiet and exit_code == 0):
            verdict = self._noted(tree, LAUNCH if launched or tree.stage is not Stage.RANKS else rank or 0, exit_code)
            verdict = verdict._replace(rank=rank)
        if launched and verdict.ending is None:
            return self._of_launcher(tree, verdict)
        return verdict

    def stuck(self, tree: TaskTree) -> Verdict | None:
        """Return why a rank of an mpiexec has not begun its program and never will, while the others may wait for it."""
        for rank in range(tree.recipe.template.request.ranks):
            note = self._notes.look(tree.note, rank)
            if note is not None and note.code is not None and note.place in ("pre_exec", "exec"):
                return self._noted(tree, rank, 0)._replace(rank=rank)
        return None

    def failed(self, tree: TaskTree) -> Verdict | None:
        """Return how a rank has ended, by what its launcher has said so far; None if it has said nothing of that."""
        assert tree.recipe.chosen is not None
        ended = rank_ending(tree.recipe.chosen.kind, _UNKNOWN_CODE, _said(tree))
        if ended.rank is None:
            return None
        if ended.out_of_memory:
            return Verdict(ended.exit_code, Ending.OUT_OF_MEMORY, _OUT_OF_MEMORY, ended.rank)
        return Verdict(ended.exit_code, rank=ended.rank)

    def _of_launcher(self, tree: TaskTree, verdict: Verdict) -> Verdict:
        chosen, ranks = tree.recipe.chosen, tree.recipe.template.request.ranks
        assert chosen is not None
        for rank in range(ranks) if tree.note and tree.recipe.rank_script is not None else ():
            noted = self._noted(tree, rank, 0)
            if noted.exit_code or noted.ending is not None:
                return noted._replace(rank=rank)
        said = _said(tree)
        launcher = chosen.mpi
        if ranks > 1 and launcher is not None:
            # Only here: it is of no use to those who have no MPI.
            from pilotage.launchers.mismatch import check_output

            if mismatch := check_output(said, launcher):
                return Verdict(verdict.exit_code, Ending.LAUNCH_FAILED, mismatch)
        ended = rank_ending(chosen.kind, verdict.exit_code, said)
        if ended.refused:
            message = f"{chosen.method.facts.name} did not start the ranks: {ended.failure}"
            return Verdict(ended.exit_code, Ending.LAUNCH_FAILED, message, transient=ended.transient)
        if ended.out_of_memory:
            return Verdict(ended.exit_code, Ending.OUT_OF_MEMORY, _OUT_OF_MEMORY, ended.rank if ranks > 1 else None)
        if ended.failure:
            message = f"mpiexec itself failed, as it may when a rank is ended by a signal: {ended.failure}"
            return Verdict(ended.exit_code, Ending.EXITED, message)
        return Verdict(ended.exit_code, rank=ended.rank if ranks > 1 else None)

    def _noted(self, tree: TaskTree, who: int | str, exit_code: int) -> Verdict:
        hooks, executable = tree.recipe.template.hooks, tree.recipe.executable
        assert hooks is not None
        note = self._notes.take(tree.note, who)
        if note is not None and not exit_code and note.code is not None:
            # Of a rank whose process was another's to wait for.
            exit_code = note.code
        return verdict_on_script(hooks, executable, note, exit_code)


def _said(tree: TaskTree) -> str:
    """Return the beginnings and ends of a task's stdout and stderr: which of them a launcher writes to differs."""
    paths = dict.fromkeys(tree.output.paths()) if tree.output is not None else ()
    return "".join(_both_ends(path) for path in paths)


def _both_ends(path: str) -> str:
    end = tail(path, 2 * _SAID_BYTES)
    if len(end) < 2 * _SAID_BYTES:
        return end.decode(errors="replace")
    try:
        with open(path, "rb") as file:
            return (file.read(_SAID_BYTES) + end[_SAID_BYTES:]).decode(errors="replace")
    except OSError:
        return end.decode(errors="replace")
