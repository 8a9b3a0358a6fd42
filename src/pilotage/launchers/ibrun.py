"""TACC's ``ibrun``, which starts a number of ranks at an offset in the list of the job's places.

The list has each node of the job, in its order, as often as ``IBRUN_TASKS_PER_NODE`` says; a task is told by how many ranks it
has, and at which place it begins. A node has a place for every so many cores as a rank has: so ranks run where we placed them
if each has the same number of cores, begins at a multiple of that, and they follow each other without a gap. How many cores a
node has, is the option ``cores_per_node``; without it, nodes are taken to be filled by the task alone.
"""

from __future__ import annotations

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, refuse
from pilotage.launchers.mpi_methods import AS_ROOT, UNPINNED, unknown_kind
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.spread import cores_per_rank, spread_of

_RANK_VARIABLES = {"intelmpi": "PMI_RANK", "mvapich": "MV2_COMM_WORLD_RANK", "openmpi": "OMPI_COMM_WORLD_RANK"}


class Ibrun:
    """``ibrun``."""

    facts = MethodFacts(
        name="ibrun",
        commands=("ibrun",),
        summary="TACC (Frontera, Stampede3, Lonestar)",
        rank_variables=_RANK_VARIABLES,
        uneven=False,
        any_order=False,
        options={"cores_per_node": "cores of a node that tasks may have"},
        limits="ranks follow each other without a gap, on cores that begin at a multiple of a rank's; slow beyond 128 nodes",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        kind = installed.kind or "intelmpi"
        if kind not in _RANK_VARIABLES:
            raise unknown_kind("ibrun", kind, _RANK_VARIABLES)
        cores = cores_per_rank(request)
        node_cores = installed.number("cores_per_node")
        places = node_cores // cores if node_cores else spread_of(request).most
        if not places:
            refuse("ibrun", f"has {node_cores} cores on a node, and a rank is to have {cores}", "ask for fewer cores_per_rank")
        first = self._place(request, 0, cores, places, bool(node_cores))
        for rank in range(1, len(request.slots)):
            if self._place(request, rank, cores, places, bool(node_cores)) != first + rank:
                slot = request.slots[rank]
                refuse(
                    "ibrun",
                    f"starts ranks at places that follow each other, and rank {rank} is elsewhere: node {slot.node}, cores "
                    f"{', '.join(map(str, slot.cores)) or 'any'}",
                    "ask for ranks that fill their nodes, or exclusive=True",
                )
        environment = {**UNPINNED, b"IBRUN_TASKS_PER_NODE": b"%d" % places}
        if kind == "openmpi":
            environment |= AS_ROOT
        ranks = rank_part("ibrun", request, _RANK_VARIABLES[kind])
        line = [installed.path, *installed.arguments, "-n", str(len(request.slots)), "-o", str(first), *ranks.arguments]
        return LaunchLine(line, {**environment, **ranks.environment}, ranks.files, (b"MY_MPIRUN_OPTIONS",))

    @staticmethod
    def _place(request: LaunchRequest, rank: int, cores: int, places: int, by_cores: bool) -> int:
        """Return which place in the list of the job a slot is."""
        slot = request.slots[rank]
        if not by_cores or not slot.cores:
            return slot.node * places + slot.local_rank
        at, misplaced = divmod(min(slot.cores), cores)
        if misplaced or at >= places or max(slot.cores) - min(slot.cores) >= cores:
            refuse(
                "ibrun",
                f"has places of {cores} cores, and rank {rank} is on cores {', '.join(map(str, slot.cores))}",
                "ask for ranks that fill their nodes, or exclusive=True",
            )
        return slot.node * places + at


IBRUN = Ibrun()
