"""``srun``: a step of the job for each task that needs one.

*Cores.* With ``task/cgroup`` a step gets the CPUs of the step and no others. With ``--exact`` (which ``--cpus-per-task``
implies) Slurm picks them, and knows nothing of our placement: binding ranks to our cores would fail, or bind two steps to the
same ones. Without it, a step has all CPUs that the job has on its nodes, and ``--overlap`` lets it share them with the steps
that are there: the one that keeps our processes on each node, and other tasks. So where our script binds, a line has
``--overlap`` and neither ``--exact`` nor ``--cpus-per-task``: our placement holds, and each rank is on exactly its cores. Where
it does not (``bind`` is None), Slurm places: ``--exact``, ``--cpus-per-task``, and Slurm keeps such steps apart.

*GPUs.* It is the same with GPUs: of ``--gres=gpu:2`` Slurm picks two. Where our script sets the variable of each rank, the step
holds all GPUs of the job (``--gres=gpu:N`` where the platform tells how many a node has; a step that says nothing inherits the
job's). Tasks without GPUs say ``--gres=none``.

Before Slurm 20.11 steps shared by default, and ``--exclusive`` was the word for ``--exact``: such a version is told so.

*Order.* Slurm sorts the nodes of a list. Ranks that do not go up the nodes evenly need ``--distribution=arbitrary`` and a file
that names the node of each rank.
"""

from __future__ import annotations

from functools import lru_cache

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, Step, file_path
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.spread import cores_per_rank, gpus_per_rank, spread_of

FRONTIER_CEILING = 112

_UNSET = tuple(
    b"""
    SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_NODE SLURM_NTASKS_PER_CORE SLURM_NTASKS_PER_SOCKET SLURM_NTASKS_PER_GPU
    SLURM_TASKS_PER_NODE SLURM_NNODES SLURM_NODELIST SLURM_ARBITRARY_NODELIST SLURM_DISTRIBUTION
    SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_CPUS_PER_GPU SLURM_CORE_SPEC SLURM_THREAD_SPEC
    SLURM_THREADS_PER_CORE SLURM_HINT SLURM_EXACT SLURM_WHOLE SLURM_OVERLAP SLURM_EXCLUSIVE SLURM_OVERCOMMIT
    SLURM_MEM_PER_NODE SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_CPU_BIND SLURM_MEM_BIND
    SLURM_GRES SLURM_STEP_GRES SLURM_GRES_FLAGS SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_GPUS_PER_TASK SLURM_GPUS_PER_SOCKET
    SLURM_GPU_BIND SLURM_JOB_NAME SLURM_EXPORT_ENV SLURM_STDOUTMODE SLURM_STDERRMODE SLURM_STDINMODE SLURM_LABELIO
    SLURM_MULTI_PROG SLURM_RELATIVE SLURM_KILL_BAD_EXIT SLURM_NO_KILL SLURM_TIMELIMIT SLURM_IMMEDIATE SLURM_WORKING_DIR
    """.split()
)
"""What ``srun`` would take for options, from the batch script or an outer step; the job (``SLURM_JOB_ID``) stays."""

_GPUS = (b"CUDA_VISIBLE_DEVICES", b"ROCR_VISIBLE_DEVICES", b"ZE_AFFINITY_MASK", b"GPU_DEVICE_ORDINAL")
"""Set by Slurm in the ranks of steps that hold GPUs: to all that the step has on the node."""

_HOSTFILE = b"SLURM_HOSTFILE"
STEP_OPTIONS = (*_UNSET, _HOSTFILE)
"""The same where no file names the nodes of ranks."""

SHARED_STEP = {b"SLURM_OVERLAP": b"1", b"SLURM_MEM_PER_NODE": b"0", b"SLURM_CPU_BIND": b"none"}
"""For an ``srun`` that another launcher calls: its step shares nodes with others, and has all cores there."""


class SlurmSteps:
    """Steps by ``squeue --steps`` and ``scancel``. See ``StepControl``."""

    job_variable = "SLURM_JOB_ID"
    named = True

    def list_arguments(self, job: str) -> list[str]:
        """Return the command that lists the steps of a job."""
        return ["squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%i %j"]

    def parse_steps(self, output: str) -> list[Step]:
        """Return the steps: ``1234.7 pilotage:task.000001:1`` on a line."""
        parts = (line.strip().partition(" ") for line in output.splitlines())
        return [Step(step, name.strip()) for step, _, name in parts if "." in step]

    def cancel_arguments(self, job: str, step: str) -> list[str]:
        """Return the command that ends a step, whose id has the job's number in front."""
        return ["scancel", step if "." in step else f"{job}.{step}"]

    def signal_arguments(self, job: str, step: str, name: str) -> list[str]:
        """Return the command that sends a signal to the ranks of a step: TERM to ``srun`` itself leaves them no time to end."""
        return ["scancel", f"--signal={name}", step if "." in step else f"{job}.{step}"]


@lru_cache(maxsize=16)
def _shares_by_default(version: str) -> bool:
    """Return whether steps of this Slurm share their nodes unless told otherwise, as they did before 20.11."""
    parts = version.split(".")
    return len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit() and (int(parts[0]), int(parts[1])) < (20, 11)


class Srun:
    """See ``LaunchMethod`` and the head of this module."""

    facts = MethodFacts(
        name="srun",
        commands=("srun",),
        summary="Slurm: a step of the job",
        rank_variables={"": "SLURM_PROCID"},
        ceiling=FRONTIER_CEILING,
        ceiling_why="seen on Frontier; elsewhere MaxStepCount, and what slurmctld bears",
        places_unbound=True,
        steps=SlurmSteps(),
        options={
            "mpi": "the MPI plugin: pmix, pmi2, cray_shasta, none (--mpi)",
            "gpus_per_node": "how many GPUs the job has on each node",
            "job": "id of the job, where the environment does not tell (--jobid)",
        },
        tried="Slurm 22.05, four nodes on one machine",
        limits="where our script does not bind, Slurm places by itself",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        spread = spread_of(request)
        ranks = len(request.slots)
        most, environment, files = spread.most, {}, {}
        line = [installed.path, *installed.arguments]
        if job := installed.option("job"):
            line.append(f"--jobid={job}")
        line += [f"--job-name={request.name}", f"--nodes={spread.nodes}", f"--ntasks={ranks}"]
        if spread.nodes == 1:
            line.append(f"--nodelist={spread.blocks[0].name}")
        elif spread.even and spread.ascending:
            line += [f"--nodelist={spread.names()}", f"--ntasks-per-node={most}", "--distribution=block"]
        else:
            name, path = file_path("srun", request, ".hosts")
            files[name] = spread.line_per_rank()
            environment[_HOSTFILE] = path.encode("utf-8", "surrogateescape")
            line.append("--distribution=arbitrary")
        # 0: as much as the job has, and none of it is taken from other steps.
        line.append(f"--mem={request.memory_mib * most}M" if request.memory_mib else "--mem=0")
        gpus = gpus_per_rank(request)
        old = _shares_by_default(installed.version)
        if request.bind is not None:
            line += ["--cpu-bind=none"] if old else ["--overlap", "--cpu-bind=none"]
            if not gpus:
                line.append("--gres=none")
            else:
                if held := installed.number("gpus_per_node"):
                    line.append(f"--gres=gpu:{held}")
                if not old:
                    line.append("--gpu-bind=none")
        else:
            line += ["--exclusive" if old else "--exact", f"--cpus-per-task={cores_per_rank(request)}", "--cpu-bind=cores"]
            line.append(f"--gres=gpu:{gpus * most}" if gpus else "--gres=none")
        if mpi := installed.option("mpi"):
            line.append(f"--mpi={mpi}")
        # Only errors into the stderr of tasks. A rank that failed would else leave the others waiting for it.
        line += ["--quiet", "--export=ALL", "--kill-on-bad-exit=1"]
        unset = _UNSET if files else STEP_OPTIONS
        part = rank_part("srun", request, "SLURM_PROCID", overridden=_GPUS)
        return LaunchLine([*line, *part.arguments], {**part.environment, **environment}, {**files, **part.files}, unset)


SRUN = Srun()
