"""Cray's older launchers: ``aprun`` of ALPS, and ``ccmrun`` and an ``mpirun`` below it in a CCM cluster.

*aprun* gives whole nodes to an application: no two run on a node at a time. It names nodes by their numbers (``nid00012`` is
12) and fills them in the order of the allocation.

*ccmrun* starts its command on the first node of the job's CCM cluster, within which nodes are reached by ssh. So ranks without
MPI go ``ccmrun ssh NODE``, and those with MPI ``ccmrun mpirun``. An agent that runs inside the CCM cluster uses ``ssh`` or
``mpirun`` straight.
"""

from __future__ import annotations

import re

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, refuse
from pilotage.launchers.mpi_methods import OPTIONS, RANK_VARIABLES, Mpi
from pilotage.launchers.rank_script import core_list, rank_part
from pilotage.launchers.remote_shells import LOGINS_PER_NODE, SSH_ARGUMENTS, remote_line
from pilotage.launchers.spread import cores_per_rank, require_order, spread_of

_NODE_NUMBER = re.compile(r"^(?:nid0*)?(\d+)$")
_NODE_OPTION = {"ccmrun": "path of ccmrun, if it is not in PATH"}


class Aprun:
    """``aprun``."""

    facts = MethodFacts(
        name="aprun",
        commands=("aprun",),
        summary="Cray ALPS",
        rank_variables={"": "ALPS_APP_PE"},
        ceiling=1000,
        ceiling_why="ALPS's default for a batch job; about 100 are usable in practice",
        uneven=False,
        any_order=False,
        whole_nodes=True,
        limits="one task on a node at a time; as many ranks on each node, fewer only on the last; nodes by number (nid00012)",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        if not request.exclusive:
            refuse("aprun", "runs one task on a node at a time, and this one would share its nodes", "ask for exclusive=True")
        spread = spread_of(request)
        require_order("aprun", spread)
        numbers = core_list(frozenset([_number(block.name) for block in spread.blocks]))
        line = [installed.path, *installed.arguments, "-n", str(len(request.slots)), "-N", str(spread.most)]
        line += ["-d", str(cores_per_rank(request)), "-L", numbers, "-cc", "none"]
        if request.memory_mib:
            line += ["-m", f"{request.memory_mib}M"]
        # Its program is the shell of the nodes, not a copy of ours; and its own summary stays out of stdout.
        line += ["-b", "-q"]
        ranks = rank_part("aprun", request, "ALPS_APP_PE")
        return LaunchLine([*line, *ranks.arguments], ranks.environment, ranks.files)


def _number(name: str) -> int:
    found = _NODE_NUMBER.match(name)
    if found is None:
        refuse("aprun", f"names nodes by number, and {name!r} has none", "name nodes as ALPS does, as in nid00012")
    return int(found[1])


class Ccmrun:
    """``ccmrun`` with ssh to the nodes of the CCM cluster: ranks without MPI."""

    facts = MethodFacts(
        name="ccmrun",
        commands=("ccmrun",),
        summary="Cray CCM from outside its cluster, by ssh inside: ranks without MPI",
        ceiling=LOGINS_PER_NODE,
        ceiling_per="node",
        ceiling_why="logins that a node of a CCM cluster takes at once",
        starts_mpi=False,
        carries_environment=False,
        limits="no MPI: use mpirun_ccmrun",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        return remote_line("ccmrun", [installed.path, *installed.arguments, "ssh", *SSH_ARGUMENTS], request)


class MpirunCcmrun:
    """An ``mpirun`` below ``ccmrun``."""

    facts = MethodFacts(
        name="mpirun_ccmrun",
        commands=("mpirun",),
        summary="an `mpirun` inside a Cray CCM cluster, from outside",
        rank_variables=RANK_VARIABLES,
        carries_environment=False,
        options={**OPTIONS, **_NODE_OPTION},
        limits="those of its mpirun, and of ALPS, which starts the cluster",
    )

    def __init__(self) -> None:
        self._mpirun = Mpi("mpirun_ccmrun", self.facts.commands)

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        if request.here:
            refuse("mpirun_ccmrun", "starts ranks in the CCM cluster, and not here", "use launch_method='mpirun'")
        line = self._mpirun.render(installed, request)
        return line._replace(arguments=[installed.option("ccmrun") or "ccmrun", *line.arguments])


APRUN = Aprun()
CCMRUN = Ccmrun()
MPIRUN_CCMRUN = MpirunCcmrun()
