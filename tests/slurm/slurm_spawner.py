"""A spawner in a job of a test's cluster, driven as an agent on the job's first node would drive it."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
from slurm_allocation import Allocation

from pilotage.launchers.method import parse_step_name
from pilotage.launchers.registry import launch_method
from pilotage.model.execution import AttemptEnd, LaneTasks
from pilotage.model.ids import Attempt, LaneId, TaskUid, TemplateId
from pilotage.model.installed import Installed
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES, Node, NodeShape, NodeShare, Placement, Request, core_mask
from pilotage.model.workload import ANY_MPI, Row, Template
from pilotage.testing.runner_driver import RunnerDriver, default_settings
from pilotage.wire.runner_messages import DefineTemplates, Launch
from pilotage.wire.runner_settings import RunnerSettings

CORES, GPUS = 8, 4
PATIENCE_S = 60.0
HERE = sorted(os.sched_getaffinity(0))


def job_settings(allocation: Allocation, folder: Path, **changes: object) -> RunnerSettings:
    """Return settings of runners on the first node of a job, whose cores are this machine's in turn."""
    srun = shutil.which("srun", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert srun
    job = {name.decode(): value.decode() for name, value in allocation.environment.items() if name.startswith(b"SLURM")}
    given: dict[str, object] = {
        "nodes": [Node(index, name, NodeShape(CORES, GPUS)) for index, name in allocation.node_names.items()],
        "bind": True,
        "core_ids": [HERE[index % len(HERE)] for index in range(CORES)],
        "host_nodes": [0],
        "launchers": {"srun": Installed(srun, version="22.05.8")},
        "allocation_environment": job,
    }
    return default_settings(folder, **{**given, **changes})


def spread_over(nodes: Sequence[int], gpus: int = 0) -> tuple[Placement, Request]:
    """Return a placement of ranks of one core on these nodes, in this order of ranks, and what asks for it."""
    shares: list[NodeShare] = []
    for node, group in itertools.groupby(nodes):
        ranks, before = len(list(group)), sum(share.ranks for share in shares if share.node == node)
        taken = range(before * gpus, (before + ranks) * gpus)
        mask = ((1 << ranks) - 1) << before
        shares.append(NodeShare(node, ranks, core_mask(mask), tuple((gpu, GPU_SHARES) for gpu in taken)))
    return tuple(shares), Request(ranks=len(nodes), gpu_shares=gpus * GPU_SHARES)


class JobSpawner(RunnerDriver):
    """A fake agent on the first node of a job."""

    def __init__(self, allocation: Allocation, folder: Path, **changes: object) -> None:
        super().__init__(folder, job_settings(allocation, folder, **changes))
        self.allocation = allocation
        self._numbers = itertools.count(1)

    def launch(
        self,
        uid: str,
        nodes: Sequence[int],
        executable: str,
        *arguments: str,
        gpus: int = 0,
        memory_mib: int = 0,
        payload: bytes | None = None,
        **fields: object,
    ) -> None:
        """Hand over a task with a rank on each of these nodes."""
        placement, request = spread_over(nodes, gpus)
        request = msgspec.structs.replace(request, memory=memory_mib // BLOCK_MIB)
        number = TemplateId(next(self._numbers))
        template = Template(**{"executable": executable, "request": request, **fields})  # type: ignore[arg-type]
        self.send(DefineTemplates({number: template}))
        tasks = [(Attempt(1), Row(TaskUid(uid), number, arguments, payload))]
        self.send(Launch([LaneTasks(LaneId(number), placement, tasks)]))

    def shell(self, uid: str, nodes: Sequence[int], script: str, **fields: object) -> None:
        """Hand over a task whose ranks, on these nodes, run this script by a launcher."""
        self.launch(uid, nodes, "/bin/sh", "-c", script, **{"launch_method": ANY_MPI, **fields})  # type: ignore[arg-type]

    def end_of(self, uid: str) -> AttemptEnd:
        """Wait until a task has ended, and return how."""
        return self.wait_for_end(uid, PATIENCE_S)

    def sandbox(self, uid: str) -> Path:
        """Return the sandbox of a task."""
        return Path(self.settings.pilot_folder) / "tasks" / uid

    def output(self, uid: str) -> list[str]:
        """Return the lines that an ended task has printed, sorted."""
        path = self.sandbox(uid) / f"{uid}.out"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    def lines_of(self, uid: str, name: str, count: int) -> list[str]:
        """Wait until a file of a task's sandbox has so many lines, and return them, sorted."""
        path = self.sandbox(uid) / name
        self.wait_for(lambda: path.exists() and path.read_text().count("\n") >= count, PATIENCE_S, f"{count} lines in {path}")
        return sorted(path.read_text().splitlines())

    def steps(self) -> set[str]:
        """Return the tasks that have a step in the job."""
        return task_steps(self.allocation)

    def shared_files(self) -> list[Path]:
        """Return what there is of files for launchers, and of notes of steps."""
        return sorted(path for path in Path(self.settings.pilot_folder).glob("launches/*/*/*"))


def task_steps(allocation: Allocation) -> set[str]:
    """Return the tasks that have a step in a job."""
    control = launch_method("srun").facts.steps
    assert control is not None
    listed = control.parse_steps(allocation.slurm.output(*control.list_arguments(allocation.job)))
    return {name[0] for step in listed if (name := parse_step_name(step.name))}
