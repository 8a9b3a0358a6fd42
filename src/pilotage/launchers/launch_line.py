"""The command line that starts the ranks of one task by an mpiexec, all on this host: one case of ``mpi_methods``."""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, Variables, Words
from pilotage.launchers.mpi_methods import MPIEXEC
from pilotage.model.ranks import RankSlot
from pilotage.model.workload import MpiLauncher


def render(
    launcher: MpiLauncher,
    slots: Sequence[RankSlot],
    command: Sequence[str],
    rank_variables: Sequence[Variables],
    bind: Sequence[frozenset[int]] | None = None,
    words: Words = (),
) -> LaunchLine:
    """Return the line that starts ``command`` in one rank for each of the slots, all on this host.

    ``rank_variables``: of each rank. ``bind``: the machine's numbers of the cores that each rank is bound to; None: ranks stay
    on the cores of the process that starts them (and share them, where nodes are emulated). ``words``: how the shell of a rank
    is to read the command, where that differs.

    Raises:
        BackendError: so many ranks differ, or the words are so long, that the line cannot say it.
    """
    request = LaunchRequest(slots, command, rank_variables, bind=bind, words=words, here=True)
    return MPIEXEC.render(Installed(launcher.path, launcher.kind, launcher.version), request)
