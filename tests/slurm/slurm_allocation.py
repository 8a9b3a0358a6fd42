"""A job of a test's cluster that holds nodes, and launch lines run in it as an agent there would run them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from slurm_cluster import SlurmCluster

from pilotage.launchers.method import Installed, LaunchRequest, step_name
from pilotage.launchers.outer import without_outer_launch
from pilotage.launchers.registry import launch_method
from pilotage.model.ranks import RankSlot


class Allocation:
    """A running job; ``environment`` is that of its script. It ends with the tests of its cluster."""

    def __init__(self, slurm: SlurmCluster, *arguments: str) -> None:
        self.slurm = slurm
        told = slurm.folder / "jobs" / "environment"
        told.unlink(missing_ok=True)
        script = f"env -0 >{told}.part && mv {told}.part {told} && exec sleep infinity"
        self.job = slurm.submit(*arguments, f"--wrap={script}")
        slurm.wait_until(told.exists, "the script of the allocation runs")
        lines = told.read_bytes().rstrip(b"\0").split(b"\0")
        self.environment = dict(line.split(b"=", 1) for line in lines)
        nodes = slurm.output("scontrol", "show", "hostnames", self.environment[b"SLURM_JOB_NODELIST"].decode())
        self.node_names = dict(enumerate(nodes.split()))

    def start(
        self,
        folder: Path,
        slots: Sequence[RankSlot],
        script: str,
        *,
        bind: Sequence[frozenset[int]] | None = None,
        memory_mib: int = 0,
        task: str = "task.000001",
        names: dict[int, str] | None = None,
        **options: str,
    ) -> subprocess.Popen[str]:
        """Start the ranks of a task by ``srun``, each a shell that runs the script."""
        names = names or self.node_names
        request = LaunchRequest(
            slots,
            ["/bin/sh", "-c", script, "sh", "it's  a"],
            [
                {
                    b"PILOTAGE_RANK": b"%d" % rank,
                    **({b"CUDA_VISIBLE_DEVICES": ",".join(map(str, slot.gpus)).encode()} if slot.gpus else {}),
                }
                for rank, slot in enumerate(slots)
            ],
            names,
            bind,
            name=step_name(task, 1),
            folder=str(folder),
            memory_mib=memory_mib,
        )
        line = launch_method("srun").render(Installed("srun", "", "22.05.8", (), options), request)
        folder.mkdir(exist_ok=True)
        for name, text in line.files.items():
            (folder / name).write_text(text)
        given = {name: value for name, value in without_outer_launch(self.environment).items() if name not in line.unset}
        return self.slurm.popen(*line.arguments, bare={**given, **line.environment})
