"""``prun`` and ``prterun`` of PRRTE, and its predecessor ORTE: programs started in a virtual machine (DVM) that stays.

A DVM is started once over the nodes (``dvm_line``), and each task is a short command that hands it to the DVM; what runs in it
has the environment of the DVM, so the rank script holds the task's. Without a DVM, ``prterun`` starts one for the task alone.

*orte_lib* speaks with ORTE's DVM by calls of its library instead of a process for each task: there is no line to render, but
the DVM's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from os.path import basename

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, file_path, refuse
from pilotage.launchers.mpi_methods import AS_ROOT, by_sequence, hosts_part
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.spread import require_order, spread_of

_DVM = "where the DVM is: file:PATH of what it wrote for --report-uri, or the address itself"
_CEILING_WHY = "tasks at once in a DVM, beyond which sockets of ORTE failed; each has a process on the launch node besides"


class Prrte:
    """``prun`` with a DVM, or ``prterun`` without."""

    facts = MethodFacts(
        name="prrte",
        commands=("prun", "prterun"),
        summary="PRRTE: `prun` into a DVM that stays, `prterun` without one",
        rank_variables={"": "PMIX_RANK"},
        ceiling=16_000,
        ceiling_why="tasks at once up to which PRRTE's cost stayed low, on 400 nodes of Summit",
        carries_environment=False,
        options={"dvm_uri": _DVM, "daemons": "prterun: what starts its daemons on other hosts: ssh, slurm, lsf, ..."},
        tried="prterun of PRRTE 3, hosts made up on one machine",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        spread = spread_of(request)
        ranks = rank_part("prrte", request, "PMIX_RANK", carried=False)
        count = ["--np", str(len(request.slots)), *ranks.arguments]
        if not installed.option("dvm_uri"):
            if basename(installed.path) == "prun":
                refuse("prrte", "needs a DVM for prun", "set its option, dvm_uri='file:...', or name prterun, which needs none")
            own, environment, files = hosts_part(
                "prrte", Installed(installed.path, "openmpi", "5", (), installed.options), request, spread
            )
            line = [installed.path, *installed.arguments, *own, *count]
            return LaunchLine(line, {**environment, **ranks.environment}, {**files, **ranks.files})
        line = [installed.path, *installed.arguments, "--dvm-uri", installed.option("dvm_uri"), "--bind-to", "none"]
        files = {}
        if spread.together and spread.ascending:
            line += ["--map-by", "slot:OVERSUBSCRIBE", "--host", spread.counted()]
        else:
            # A DVM takes hosts in the order in which it has them.
            name, path = file_path("prrte", request, ".hosts")
            files[name] = spread.line_per_rank()
            line += [*by_sequence("prrte", path), "--host", _counted(request)]
        return LaunchLine([*line, *count], {**AS_ROOT, **ranks.environment}, {**files, **ranks.files})


def _counted(request: LaunchRequest) -> str:
    """Return each node once, with all its ranks."""
    on: dict[int, int] = {}
    for slot in request.slots:
        on[slot.node] = on.get(slot.node, 0) + 1
    return ",".join([f"{request.node_names[node]}:{ranks}" for node, ranks in sorted(on.items())])


class Orte:
    """``orte-submit``."""

    facts = MethodFacts(
        name="orte",
        commands=("orte-submit", "orterun"),
        summary="ORTE of OpenMPI 2 and 3: `orte-submit` into a DVM",
        rank_variables={"": "OMPI_COMM_WORLD_RANK"},
        ceiling=16_000,
        ceiling_why=_CEILING_WHY,
        any_order=False,
        carries_environment=False,
        options={"dvm_uri": _DVM},
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        spread = spread_of(request)
        require_order("orte", spread, uneven=True)
        uri = installed.option("dvm_uri")
        if not uri:
            refuse("orte", "needs to know its DVM", "set its option, dvm_uri='file:...'")
        ranks = rank_part("orte", request, "OMPI_COMM_WORLD_RANK", carried=False)
        hosts = ",".join(spread.line_per_rank().split())
        line = [installed.path, *installed.arguments, "--hnp", uri, "--bind-to", "none", "-host", hosts]
        line += ["-np", str(len(request.slots)), *ranks.arguments]
        return LaunchLine(line, {**AS_ROOT, **ranks.environment}, ranks.files)


class OrteLib:
    """ORTE's DVM by library calls: has no line for a task."""

    facts = MethodFacts(
        name="orte_lib",
        commands=("orte-dvm",),
        summary="ORTE's DVM by calls of its library, without a process for each task",
        rank_variables={"": "OMPI_COMM_WORLD_RANK"},
        ceiling=16_000,
        ceiling_why=_CEILING_WHY,
        any_order=False,
        carries_environment=False,
        options={"dvm_uri": _DVM},
        limits="no command line: an executor of its own",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Refuse: see ``LaunchMethod``, and the head of this module."""
        refuse(
            "orte_lib",
            "starts tasks by calls of ORTE's library, so there is no command line for one",
            "use launch_method='orte' where command lines are wanted: it speaks with the same DVM",
        )


def dvm_line(
    installed: Installed, node_names: Mapping[int, str], slots_per_node: int, request_name: str, folder: str
) -> LaunchLine:
    """Return the line that starts a DVM over nodes, of PRRTE (``prte``) or ORTE (``orte-dvm``), by the name of the program.

    It stays in the foreground, and writes its address to ``<folder>/<request_name>.uri``. ``slots_per_node``: cores.
    """
    hosts = "".join([f"{name} slots={slots_per_node}\n" for _, name in sorted(node_names.items())])
    path = f"{folder}/{request_name}"
    old = basename(installed.path).startswith("orte")
    own = [] if old else ["--no-ready-msg"]
    line = [installed.path, *installed.arguments, *own, "--report-uri", f"{path}.uri", "--hostfile", f"{path}.hosts"]
    return LaunchLine(line, dict(AS_ROOT), {f"{request_name}.hosts": hosts})


PRRTE = Prrte()
ORTE = Orte()
ORTE_LIB = OrteLib()
