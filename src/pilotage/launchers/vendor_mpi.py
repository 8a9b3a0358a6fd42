"""Launchers of single MPI libraries: ``mpirun`` of HPE's MPT, ``mpirun_rsh`` of MVAPICH; and ``dplace``, alone or below one.

``dplace`` binds the processes and threads that come from it to the cores it names, one after the other. We put it in the place
of ``taskset`` in each rank's script, so each rank's threads are bound one to a core, on any spread of ranks.
"""

from __future__ import annotations

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, file_path, refuse
from pilotage.launchers.mpi_methods import OPTIONS, RANK_VARIABLES, UNPINNED, hosts_part, local_part, unknown_kind
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.spread import spread_of

_DPLACE = "dplace"
_MPT = {"mpt": "MPT_MPI_RANK"}


class MpirunMpt:
    """``mpirun`` of HPE's (once SGI's) Message Passing Toolkit. Hosts are its first argument."""

    facts = MethodFacts(
        name="mpirun_mpt",
        commands=("mpirun_mpt", "mpirun"),
        summary="HPE and SGI MPT's `mpirun`",
        rank_variables={"": "MPT_MPI_RANK"},
        carries_environment=False,
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        arguments, environment = _mpt_part(request)
        ranks = rank_part("mpirun_mpt", request, "MPT_MPI_RANK", carried=request.here)
        line = [installed.path, *installed.arguments, *arguments, *ranks.arguments]
        return LaunchLine(line, {**environment, **ranks.environment}, ranks.files)


def _mpt_part(request: LaunchRequest) -> tuple[list[str], dict[bytes, bytes]]:
    """Return hosts and number of ranks for each mention of one: a host is named as often as it has ranks, if they differ."""
    # Its own placement is off: our script binds.
    environment = {b"MPI_DSM_OFF": b"1"}
    if request.here:
        return ["-np", str(len(request.slots))], environment
    spread = spread_of(request)
    if spread.even:
        return [spread.names(), "-np", str(spread.most)], environment
    return [",".join(spread.line_per_rank().split()), "-np", "1"], environment


class MpirunRsh:
    """``mpirun_rsh`` of MVAPICH2: by ssh to each host, straight. Variables for its library stand on the line."""

    facts = MethodFacts(
        name="mpirun_rsh",
        commands=("mpirun_rsh",),
        summary="MVAPICH2's launcher by ssh",
        rank_variables={"": "MV2_COMM_WORLD_RANK"},
        carries_environment=False,
        options={"daemons": "ssh (the default) or rsh"},
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        spread = spread_of(request)
        daemons = installed.option("daemons") or "ssh"
        if daemons not in ("ssh", "rsh"):
            refuse("mpirun_rsh", f"goes to other hosts by ssh or rsh, not by {daemons!r}", "set daemons='ssh'")
        name, path = file_path("mpirun_rsh", request, ".hosts")
        hosts = "".join([f"{block.name}:{block.ranks}\n" for block in spread.blocks])
        ranks = rank_part("mpirun_rsh", request, "MV2_COMM_WORLD_RANK", carried=False)
        own = [f"-{daemons}", "-np", str(len(request.slots)), "-hostfile", path, "MV2_ENABLE_AFFINITY=0"]
        line = [installed.path, *installed.arguments, *own, *ranks.arguments]
        return LaunchLine(line, ranks.environment, {name: hosts, **ranks.files})


class Dplace:
    """``dplace``: one process and its threads on the cores of its slot, on the host where it is started."""

    facts = MethodFacts(
        name=_DPLACE,
        commands=(_DPLACE,),
        summary="SGI's and HPE's binding of one process and its threads",
        several_nodes=False,
        starts_mpi=False,
        binds="launcher",
        limits="one rank, where it is started: several ranks by mpirun_dplace",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        if len(request.slots) != 1:
            refuse(_DPLACE, f"starts one rank, and asked for are {len(request.slots)}", "use launch_method='mpirun_dplace'")
        if request.bind is None:
            refuse(_DPLACE, "binds to cores, and there are none to bind to", "use launch_method='fork'")
        ranks = rank_part(_DPLACE, request, "PILOTAGE_RANK", binder=installed.path)
        return LaunchLine([*ranks.arguments], ranks.environment, ranks.files)


class MpirunDplace:
    """An ``mpirun`` whose ranks are bound by ``dplace``."""

    facts = MethodFacts(
        name="mpirun_dplace",
        commands=("mpirun", "mpirun_mpt"),
        summary="an `mpirun` (MPT's, or that of another MPI) whose ranks `dplace` binds",
        rank_variables={**_MPT, **RANK_VARIABLES},
        carries_environment=False,
        binds="launcher",
        options={**OPTIONS, "dplace": "path of dplace, if it is not in PATH"},
        limits="those of its mpirun",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        name, kind = self.facts.name, installed.kind or "mpt"
        rank_variable = self.facts.rank_variables.get(kind)
        if rank_variable is None:
            raise unknown_kind(name, kind, self.facts.rank_variables)
        files: dict[str, str] = {}
        if kind == "mpt":
            arguments, environment = _mpt_part(request)
        elif request.here:
            arguments, environment = local_part(installed, len(request.slots))
        else:
            arguments, environment, files = hosts_part(name, installed, request, spread_of(request))
        count = [] if kind == "mpt" else ["-n", str(len(request.slots))]
        carried = request.here or kind not in ("mpt", "openmpi")
        binder = installed.option("dplace") or _DPLACE
        ranks = rank_part(name, request, rank_variable, binder=binder, carried=carried)
        line = [installed.path, *installed.arguments, *arguments, *count, *ranks.arguments]
        return LaunchLine(line, {**UNPINNED, **environment, **ranks.environment}, {**files, **ranks.files})


MPIRUN_MPT = MpirunMpt()
MPIRUN_RSH = MpirunRsh()
DPLACE = Dplace()
MPIRUN_DPLACE = MpirunDplace()
