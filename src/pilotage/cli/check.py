"""``pilotage check``: the truth about what tasks get on this machine, beside what they asked for."""

from __future__ import annotations

import sys
import tempfile
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, note, plural, print_json, print_rows
from pilotage.errors import InvalidRequest, TaskFailed

if TYPE_CHECKING:
    from pilotage.client.node_list import Slot
    from pilotage.client.task import Task

app = typer.Typer(help="Check what tasks get on this machine, with real ones.", no_args_is_help=True)

PATIENCE_S = 120.0

LaunchMethodOption = Annotated[
    str,
    typer.Option(
        "--launch-method",
        metavar="METHOD",
        help="fork, mpiexec (any), mpich, openmpi, intelmpi, pals, or the path of an mpiexec. Default: as tasks have it.",
    ),
]

_BINDING = (
    Column("rank", "RANK", right=True),
    Column("node", "NODE"),
    Column("cores_asked", "CORES GIVEN"),
    Column("cores", "CORES FOUND"),
    Column("gpus_asked", "GPUS GIVEN"),
    Column("gpus", "GPUS FOUND"),
    Column("verdict", "VERDICT"),
)
_MPI = (
    Column("mpiexec", "MPIEXEC"),
    Column("kind", "KIND"),
    Column("version", "VERSION"),
    Column("used", "USED"),
    Column("library", "WITH ITS OWN LIBRARY"),
    Column("mpi4py", "WITH MPI4PY"),
)

# Of the standard library alone, and printed by one call, so that the lines of several ranks stay whole.
_LOOK = r"""
import json, os
names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
gpus = next((os.environ[name] for name in names if name in os.environ), "")
rank = {"rank": int(os.environ["PILOTAGE_RANK"]), "node": os.environ["PILOTAGE_NODE"],
        "cores": sorted(os.sched_getaffinity(0)), "gpus": [int(number) for number in gpus.split(",") if number.isdigit()]}
os.write(1, (json.dumps(rank) + "\n").encode())
"""


class Seen(msgspec.Struct, frozen=True):
    """What one rank saw of itself: its node, the machine's numbers of the cores it may use, the GPUs visible to it."""

    rank: int
    node: str
    cores: list[int]
    gpus: list[int]


@app.command("binding")
def binding(
    ranks: Annotated[int, typer.Option("--ranks", "-n", min=1, help="Ranks of the task.")] = 2,
    cores: Annotated[int, typer.Option("--cores", "-c", min=1, help="Cores of each rank.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", "-g", min=0, help="GPUs of each rank.")] = 0,
    launch_method: LaunchMethodOption = "",
    resource: Annotated[
        str, typer.Option("--resource", metavar="PLATFORM", help="Where: local.localhost, or local.emulated.")
    ] = "local.localhost",
    format: FormatOption = Format.TABLE,
) -> int:
    """Start a task on a real pilot, and print which cores and GPUs each of its ranks really has.

    Exit code: 1 if a rank has others than it was given.
    """
    if not resource.startswith("local."):
        raise InvalidRequest(f"--resource {resource!r} is not on this machine; give local.localhost or local.emulated")
    if resource == "local.localhost":
        _require_cores(ranks, cores)
    rows = _binding_rows(ranks, cores, gpus, launch_method, resource)
    wrong = [row for row in rows if row["verdict"] != "as given"]
    if format is Format.JSON:
        print_json({"ranks": rows, "as_given": not wrong})
    else:
        print_rows("ranks", rows, _BINDING, format, uid="rank")
    if format is Format.TABLE:
        print()
        differ = f"{len(wrong)} of {plural(ranks, 'rank')} not as given"
        print(differ if wrong else "each rank has what it was given, and no more")
    return 1 if wrong else 0


@app.command("mpi")
def mpi(
    launch_method: LaunchMethodOption = "",
    python: Annotated[
        str, typer.Option("--python", metavar="PATH", help="The Python whose mpi4py is tried. Default: this one.")
    ] = "",
    format: FormatOption = Format.TABLE,
) -> int:
    """Start two MPI ranks by each mpiexec that is there, or by the one named, and see whether they find each other.

    Exit code: 1 if there is no mpiexec, or if those of the one that tasks would use do not.
    """
    from pilotage.cli.mpi_checks import launchers, try_launcher

    python = python or sys.executable
    trials = [try_launcher(launcher, used=place == 0, python=python) for place, launcher in enumerate(launchers(launch_method))]
    print_rows("mpiexecs", [msgspec.structs.asdict(trial) for trial in trials], _MPI, format, uid="mpiexec")
    return 0 if trials[0].works else 1


def _require_cores(ranks: int, cores: int) -> None:
    """Refuse ranks that this machine has no cores for: nothing could be told of what they are bound to."""
    from pilotage.platforms.machine import usable_cores

    here = len(usable_cores())
    if ranks * cores <= here:
        return
    wanted = plural(ranks, "rank") + (f" of {cores} cores each" if cores > 1 else "")
    fits = f"--ranks {here // cores}" if cores <= here else f"--ranks 1 --cores {here}"
    raise InvalidRequest(
        f"{wanted} take {plural(ranks * cores, 'core')}, and this process may use {plural(here, 'core')} of this machine: "
        f"what fits is {fits}; or give --resource local.emulated, where ranks share the cores"
    )


def _binding_rows(ranks: int, cores: int, gpus: int, launch_method: str, resource: str) -> list[dict[str, Any]]:
    from pilotage.client.pilot_manager import PilotManager
    from pilotage.client.session import Session
    from pilotage.client.task_manager import TaskManager
    from pilotage.model.states import PMGR_ACTIVE

    with tempfile.TemporaryDirectory(prefix="pilotage-check-") as folder, Session(base=folder) as session:
        described = {"resource": resource, "cores": ranks * cores, "gpus": ranks * gpus, "runtime": 5}
        pilot = PilotManager(session).submit_pilots({name: value for name, value in described.items() if value})
        manager = TaskManager(session)
        manager.add_pilots(pilot)
        pilot.wait(PMGR_ACTIVE, PATIENCE_S)
        task = manager.submit_tasks(
            {
                "executable": sys.executable,
                "arguments": ["-I", "-S", "-c", _LOOK],
                "ranks": ranks,
                "cores_per_rank": cores,
                "gpus_per_rank": gpus,
                **({"launch_method": launch_method} if launch_method else {}),
            }
        )
        assert not isinstance(task, list)
        task.wait(timeout=PATIENCE_S)
        seen = _seen(task)
        slots = task.slots or []
        if resource == "local.emulated":
            note("the nodes are emulated: their tasks share this machine's cores, and are bound to none")
    return [_row(seen.get(rank), rank, slot) for rank, slot in enumerate(slots)]


def _seen(task: Task) -> dict[int, Seen]:
    """Return what the ranks saw. Raises ``TaskFailed`` if the task failed."""
    if task.exception is not None:
        raise TaskFailed(f"the task that looks is {task.state}: {task.exception}\n{(task.stderr or '').strip()}".strip())
    lines = [line for line in (task.stdout or "").splitlines() if line.startswith("{")]
    return {rank.rank: rank for rank in (msgspec.json.decode(line, type=Seen) for line in lines)}


def _row(seen: Seen | None, rank: int, slot: Slot) -> dict[str, Any]:
    from pilotage.platforms.machine import usable_cores

    usable = sorted(usable_cores())
    indices = [core.index for core in slot.cores]
    cores = [usable[index] if index < len(usable) else index for index in indices]
    gpus = [gpu.index for gpu in slot.gpus]
    row = {"rank": rank, "node": slot.node_name, "cores_asked": cores, "gpus_asked": gpus}
    if seen is None:
        return {**row, "cores": None, "gpus": None, "verdict": "said nothing"}
    wrong = [
        what
        for what, differs in (
            ("node", seen.node != slot.node_name),
            ("cores", seen.cores != sorted(cores)),
            ("GPUs", sorted(seen.gpus) != sorted(gpus)),
        )
        if differs
    ]
    return {**row, "cores": seen.cores, "gpus": seen.gpus, "verdict": f"other {', '.join(wrong)}" if wrong else "as given"}
