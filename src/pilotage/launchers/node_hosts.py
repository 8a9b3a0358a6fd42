"""The command line that starts one of our own processes on each node of a pilot, which stays there for as long as the pilot:
beside all that tasks are launched with, and without taking cores, memory or GPUs from it.

``srun``: one step that overlaps all others, has all that the job has, and goes on when a node or a process of it fails. The
mpiexecs, ``ssh``, ``rsh`` and ``fork`` launch ordinary ranks, one on each node, that are told the names of their nodes; where
an mpiexec ends all of them when one fails, they are started again. ``pbsdsh`` starts a process on *all* nodes of a job of PBS,
and more than one where a node has several slots: a few lines of shell let one of each node go on that is wanted. ``aprun``,
``jsrun`` and ``flux run`` would keep cores or whole nodes for such a process, so there one logs in by ``ssh``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilotage.errors import BackendError
from pilotage.launchers.method import LaunchLine, LaunchRequest
from pilotage.launchers.registry import launch_method
from pilotage.launchers.slurm import _shares_by_default as shares_by_default
from pilotage.model.installed import Installed
from pilotage.model.ranks import RankSlot

PBSDSH = "pbsdsh"
"""No launch method of tasks, as it keeps neither order nor number of ranks."""

HOST_METHODS = ("srun", "mpiexec", "mpirun", PBSDSH, "ssh", "rsh", "fork")
"""What can start hosts."""

USUAL = {
    "local": ("fork",),
    "slurm": ("srun", "ssh"),
    "pbspro": (PBSDSH, "ssh"),
    "torque": (PBSDSH, "ssh"),
    "cobalt": ("ssh",),
}
"""What is tried where a platform's methods can not, by batch system; in all others ``ssh``."""

# Told are short and full names, as a host may go by either. Of several processes on a node that which makes the folder goes on.
_ONE_OF_EACH_NODE = """\
_here=$(uname -n)
case " $2 " in *" $_here "*|*" ${_here%%.*} "*);; *)exit 0;; esac
mkdir "$1.$_here" 2>/dev/null||exit 0
shift 2
exec "$@"
"""


def host_line(
    method: str,
    installed: Installed,
    nodes: Sequence[str],
    command: Sequence[str],
    *,
    name: str,
    folder: str,
    node_variable: str,
    node_list: str = "",
    environment: Mapping[bytes, bytes],
    gpus_per_node: int | None = None,
) -> LaunchLine:
    """Return the line that starts ``command`` once on each of ``nodes``, given by name in the order of the allocation.

    ``name``: of the step, and of files in ``folder``, which all nodes see. ``node_variable``: where a process is told the name
    of its node, if the batch system does not tell it. ``node_list``: the nodes as Slurm writes them; empty: one by one.
    ``environment``: for methods that carry none to other nodes.
    ``gpus_per_node``: how many GPUs the job has on each node; None: not the same number on each, or not known.

    Raises:
        BackendError: the method cannot start hosts.
    """
    if method not in HOST_METHODS:
        raise BackendError(f"{method} cannot start hosts on nodes; name one of {', '.join(HOST_METHODS)} in launch_methods")
    if method == PBSDSH:
        return _pbsdsh(installed, nodes, command, f"{folder}/{name}")
    request = LaunchRequest(
        [RankSlot(index, 0, (), ()) for index in range(len(nodes))],
        command,
        [{} if method == "srun" else {node_variable.encode(): node.encode()} for node in nodes],
        dict(enumerate(nodes)),
        name=name,
        folder=folder,
        here=method == "fork",
        environment=environment,
        working_folder=folder,
    )
    line = launch_method(method).render(installed, request)
    if method != "srun":
        return _lasting(installed, line)
    # Only what it tells of variables is that of a task's step.
    return LaunchLine(
        _srun(installed, node_list or ",".join(nodes), len(nodes), command, name, gpus_per_node), {}, {}, line.unset
    )


def _srun(installed: Installed, node_list: str, count: int, command: Sequence[str], name: str, gpus: int | None) -> list[str]:
    line = [installed.path, *installed.arguments]
    if job := installed.option("job"):
        line.append(f"--jobid={job}")
    line += [f"--job-name={name}", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"]
    line += [f"--nodelist={node_list}", "--distribution=block", "--mem=0", "--cpu-bind=none"]
    if not shares_by_default(installed.version):
        line.append("--overlap")
    if gpus is not None:
        # What a step does not hold, its processes may not see.
        line.append(f"--gres=gpu:{gpus}" if gpus else "--gres=none")
    # Who dies is started again; the others go on, also when a node is lost.
    line += ["--kill-on-bad-exit=0", "--no-kill", "--wait=0", "--mpi=none", "--input=none", "--export=ALL", "--quiet"]
    return [*line, *command]


def _lasting(installed: Installed, line: LaunchLine) -> LaunchLine:
    """Return a line by which the others go on when one fails, where the launcher can be told so."""
    if installed.kind != "mpich":
        return line
    first, *rest = line.arguments
    return line._replace(arguments=[first, "-disable-auto-cleanup", *rest])


def _pbsdsh(installed: Installed, nodes: Sequence[str], command: Sequence[str], mark: str) -> LaunchLine:
    known = dict.fromkeys(name for node in nodes for name in (node, node.partition(".")[0]))
    script = ["/bin/sh", "-c", _ONE_OF_EACH_NODE, "sh", mark, " ".join(known), *command]
    return LaunchLine([installed.path, *installed.arguments, "--", *script], {})
