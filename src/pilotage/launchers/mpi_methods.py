"""``mpiexec`` and ``mpirun``, of MPICH and MVAPICH, Intel MPI, OpenMPI and PALS, on one host or several.

Each is told to run every rank where we say, to bind none, and to mind neither slots nor the batch system. MPICH and OpenMPI
take hosts with numbers of ranks on the command line, so that small tasks need no file on a shared file system; beyond
``INLINE_NODES`` nodes, and for Intel MPI and OpenMPI 4, a file says it. PALS goes by the nodes in their order.

What starts their daemons on other hosts (``ssh``, ``slurm``, ``pbs``, ...) is the option ``daemons``; without it each does as
it would by itself. With ``slurm`` they call ``srun``, which reads from variables that its step has to share nodes.
"""

from __future__ import annotations

from pilotage.errors import BackendError, nearest
from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, file_path, refuse
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.slurm import SHARED_STEP, STEP_OPTIONS
from pilotage.launchers.spread import Spread, require_order, spread_of

INLINE_NODES = 32
"""Hosts of more nodes are named in a file."""

RANK_VARIABLES = {
    "mpich": "PMI_RANK",
    "intelmpi": "PMI_RANK",
    "openmpi": "OMPI_COMM_WORLD_RANK",
    "pals": "PALS_RANKID",
}
"""What each kind of mpiexec calls the number of a rank."""

AS_ROOT = {
    b"OMPI_ALLOW_RUN_AS_ROOT": b"1",
    b"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": b"1",
    b"PRTE_ALLOW_RUN_AS_ROOT": b"1",
    b"PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": b"1",
}
"""OpenMPI refuses to work for root, who is the only user of many a container, unless told twice."""

UNPINNED = {b"I_MPI_PIN": b"0", b"MV2_ENABLE_AFFINITY": b"0", b"MVP_ENABLE_AFFINITY": b"0"}
"""Intel's and MVAPICH's libraries would bind their ranks themselves."""

_NO_MVAPICH_AFFINITY = {b"MV2_ENABLE_AFFINITY": b"0", b"MVP_ENABLE_AFFINITY": b"0"}
_BATCH_SYSTEMS = b"^slurm,tm,pbs,lsf,gridengine,loadleveler,alps,cobalt"

OPTIONS = {"daemons": "what starts the launcher's daemons on other hosts: ssh, rsh, slurm, pbs, lsf, ..."}


class Mpi:
    """``mpirun`` or ``mpiexec``: alike, by either name."""

    def __init__(self, name: str, commands: tuple[str, ...]) -> None:
        self.facts = MethodFacts(
            name=name,
            commands=commands,
            summary=f"the `{name}` of MPICH, MVAPICH, Intel MPI, OpenMPI or PALS",
            rank_variables=RANK_VARIABLES,
            carries_environment=False,
            options=OPTIONS,
            tried="MPICH 5, Intel MPI 2021, OpenMPI 4 and 5: on one host, and on several made up on one machine",
            limits="PALS: as many ranks on each node, in the order of nodes. MPICH: each node's ranks in one go",
        )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        name = self.facts.name
        rank_variable = RANK_VARIABLES.get(installed.kind)
        if rank_variable is None:
            raise unknown_kind(name, installed.kind, RANK_VARIABLES)
        unset: tuple[bytes, ...] = ()
        if request.here:
            arguments, environment = local_part(installed, len(request.slots))
            files: dict[str, str] = {}
        else:
            arguments, environment, files = hosts_part(name, installed, request, spread_of(request))
            if installed.option("daemons") == "slurm":
                environment, unset = {**environment, **SHARED_STEP}, STEP_OPTIONS
        # Only OpenMPI keeps back from other hosts what it was not told to pass on.
        carried = request.here or installed.kind != "openmpi"
        ranks = rank_part(installed.path, request, rank_variable, carried=carried)
        line = [installed.path, *installed.arguments, *arguments, "-n", str(len(request.slots)), *ranks.arguments]
        return LaunchLine(line, {**environment, **ranks.environment}, {**files, **ranks.files}, unset)


def unknown_kind(method: str, kind: str, known: dict[str, str]) -> BackendError:
    """Return the error that a launcher is of no kind that a method knows."""
    return BackendError(
        f"launch_method={method!r}: kind {kind!r} of MPI is not known{nearest(kind, known)}; known are {', '.join(known)}"
    )


def local_part(installed: Installed, ranks: int) -> tuple[list[str], dict[bytes, bytes]]:
    """Return the options and variables that have an mpiexec start ranks on this host, and bind none."""
    match installed.kind:
        case "mpich":
            return ["-launcher", "fork", "-hosts", "localhost", "-bind-to", "none"], _NO_MVAPICH_AFFINITY
        case "intelmpi":
            return ["-launcher", "fork", "-hosts", "localhost"], {b"I_MPI_PIN": b"0"}
        case "openmpi":
            return ["--bind-to", "none", "--map-by", "slot:OVERSUBSCRIBE"], _openmpi_here(installed)
        case _:
            return ["--ppn", str(ranks), "--cpu-bind", "none"], {}


def hosts_part(
    method: str, installed: Installed, request: LaunchRequest, spread: Spread
) -> tuple[list[str], dict[bytes, bytes], dict[str, str]]:
    """Return the options, variables and files that have an mpiexec start ranks on the hosts of a spread, and bind none.

    Raises:
        BackendError: this kind of mpiexec cannot say the spread.
    """
    match installed.kind:
        case "mpich":
            return _mpich(method, installed, request, spread)
        case "intelmpi":
            return _intelmpi(method, installed, request, spread)
        case "openmpi":
            return _openmpi(method, installed, request, spread)
        case _:
            require_order(method, spread)
            named = ["--ppn", str(spread.blocks[0].ranks), "--hosts", spread.names(), "--cpu-bind", "none"]
            return named, {}, {}


def _mpich(
    method: str, installed: Installed, request: LaunchRequest, spread: Spread
) -> tuple[list[str], dict[bytes, bytes], dict[str, str]]:
    _require_together(method, spread)
    daemons = ["-launcher", installed.option("daemons")] if installed.option("daemons") else []
    arguments = [*daemons, "-bind-to", "none"]
    if spread.nodes <= INLINE_NODES:
        return [*arguments, "-hosts", spread.counted()], _NO_MVAPICH_AFFINITY, {}
    file, path = file_path(method, request, ".hosts")
    hosts = "".join([f"{block.name}:{block.ranks}\n" for block in spread.blocks])
    return [*arguments, "-f", path], _NO_MVAPICH_AFFINITY, {file: hosts}


def _intelmpi(
    method: str, installed: Installed, request: LaunchRequest, spread: Spread
) -> tuple[list[str], dict[bytes, bytes], dict[str, str]]:
    _require_together(method, spread)
    daemons = ["-bootstrap", installed.option("daemons")] if installed.option("daemons") else []
    # Else it goes by what the batch system says of the job.
    environment = {b"I_MPI_PIN": b"0", b"I_MPI_JOB_RESPECT_PROCESS_PLACEMENT": b"off"}
    file, path = file_path(method, request, ".hosts")
    hosts = "".join([f"{block.name}:{block.ranks}\n" for block in spread.blocks])
    return [*daemons, "-genvall", "-machinefile", path], environment, {file: hosts}


def _openmpi(
    method: str, installed: Installed, request: LaunchRequest, spread: Spread
) -> tuple[list[str], dict[bytes, bytes], dict[str, str]]:
    old = openmpi_is_old(installed)
    prefix = b"OMPI_MCA_" if old else b"PRTE_MCA_"
    environment = {**AS_ROOT, prefix + b"ras": _BATCH_SYSTEMS}
    daemons = installed.option("daemons")
    if daemons in ("ssh", "rsh"):
        environment |= {
            prefix + b"plm": b"rsh" if old else b"ssh",
            prefix + (b"plm_rsh_agent" if old else b"plm_ssh_agent"): daemons.encode(),
        }
    elif daemons:
        environment[prefix + b"plm"] = daemons.encode()
    if not old and spread.together and spread.nodes <= INLINE_NODES:
        return ["--bind-to", "none", "--map-by", "slot:OVERSUBSCRIBE", "--host", spread.counted()], environment, {}
    file, path = file_path(method, request, ".hosts")
    if old:
        # Its mapper by sequence fails on --hostfile.
        by = ["--map-by", "seq:OVERSUBSCRIBE", "--default-hostfile", path]
        return ["--bind-to", "none", *by], environment, {file: spread.line_per_rank()}
    if spread.together:
        hosts = "".join([f"{block.name} slots={block.ranks}\n" for block in spread.blocks])
        return ["--bind-to", "none", "--map-by", "slot:OVERSUBSCRIBE", "--hostfile", path], environment, {file: hosts}
    return ["--bind-to", "none", *by_sequence(method, path), "--hostfile", path], environment, {file: spread.line_per_rank()}


def by_sequence(method: str, path: str) -> list[str]:
    """Return how PRRTE is told to put each rank on the host of its line in a file.

    Raises:
        BackendError: the path has a colon, which PRRTE takes for the end of it.
    """
    if ":" in path:
        refuse(method, f"cannot read hosts from {path!r}, for its colon", "let the session's folder have no colon in its name")
    return ["--map-by", f"seq:FILE={path}:OVERSUBSCRIBE"]


def _require_together(method: str, spread: Spread) -> None:
    if not spread.together:
        refuse(
            method,
            "starts the ranks of a node one after the other, and these come back to a node",
            "take the ranks' slots node by node, or use srun, jsrun or OpenMPI",
        )


def openmpi_is_old(installed: Installed) -> bool:
    """Return whether an OpenMPI is of before version 5, which works by PRRTE."""
    major = installed.version.partition(".")[0]
    return major.isdigit() and int(major) < 5


def _openmpi_here(installed: Installed) -> dict[bytes, bytes]:
    if openmpi_is_old(installed):
        local = {b"OMPI_MCA_ras": _BATCH_SYSTEMS, b"OMPI_MCA_plm": b"isolated"}
    else:
        # It wants an agent for other hosts, though there are none, and fails where no ssh is installed.
        local = {b"PRTE_MCA_ras": _BATCH_SYSTEMS, b"PRTE_MCA_plm": b"ssh", b"PRTE_MCA_plm_ssh_agent": b"/bin/sh"}
    return {**AS_ROOT, **local}


MPIRUN = Mpi("mpirun", ("mpirun", "mpirun.mpich", "mpirun.openmpi"))
MPIEXEC = Mpi("mpiexec", ("mpiexec", "mpiexec.hydra", "mpiexec.mpich", "mpiexec.openmpi"))
