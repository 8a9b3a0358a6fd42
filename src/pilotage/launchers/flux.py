"""``flux run``: a job of the Flux instance that the pilot's nodes are part of.

Flux has a scheduler of its own, which picks cores and GPUs of the nodes it is told. It is told to bind neither: our script
does, by our placement, with which Flux's own accounts agree in number. Its jobs carry the environment of the command.
"""

from __future__ import annotations

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, Step, file_path
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.spread import cores_per_rank, gpus_per_rank, spread_of


class FluxJobs:
    """Steps by ``flux jobs`` and ``flux cancel``: jobs of the instance. See ``StepControl``."""

    job_variable = ""
    named = True

    def list_arguments(self, job: str) -> list[str]:
        """Return the command that lists the active jobs of the instance."""
        return ["flux", "jobs", "--no-header", "--format={id.f58} {name}"]

    def parse_steps(self, output: str) -> list[Step]:
        """Return the jobs, one on a line."""
        parts = (line.strip().partition(" ") for line in output.splitlines() if line.strip())
        return [Step(step, name.strip()) for step, _, name in parts]

    def cancel_arguments(self, job: str, step: str) -> list[str]:
        """Return the command that ends a job."""
        return ["flux", "cancel", step]

    def signal_arguments(self, job: str, step: str, name: str) -> list[str]:
        """Return nothing: ``flux run`` hands signals on."""
        return []


class Flux:
    """See ``LaunchMethod`` and the head of this module."""

    facts = MethodFacts(
        name="flux",
        commands=("flux",),
        summary="Flux: a job of the instance",
        rank_variables={"": "FLUX_TASK_RANK"},
        steps=FluxJobs(),
        options={"mpi": "which MPI its shell is to prepare (-o mpi=...)"},
        limits="Flux's scheduler has its own say: a job waits while Flux counts its cores as taken",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        spread = spread_of(request)
        files: dict[str, str] = {}
        line = [installed.path, *installed.arguments, "run", f"--job-name={request.name}"]
        line += [f"--nodes={spread.nodes}", f"--ntasks={len(request.slots)}", f"--cores-per-task={cores_per_rank(request)}"]
        if gpus := gpus_per_rank(request):
            line.append(f"--gpus-per-task={gpus}")
        named = dict.fromkeys(block.name for block in spread.blocks)
        line.append(f"--requires=host:{','.join(named)}")
        if request.exclusive:
            line.append("--exclusive")
        if not (spread.even and spread.ascending):
            name, path = file_path("flux", request, ".hosts")
            files[name] = spread.line_per_rank()
            line.append(f"--taskmap=hostfile:{path}")
        line += ["-o", "cpu-affinity=off", "-o", "gpu-affinity=off"]
        if mpi := installed.option("mpi"):
            line += ["-o", f"mpi={mpi}"]
        ranks = rank_part("flux", request, "FLUX_TASK_RANK")
        return LaunchLine([*line, *ranks.arguments], ranks.environment, {**files, **ranks.files})


FLUX = Flux()
