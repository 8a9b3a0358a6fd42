"""IBM's launchers: ``jsrun`` (Spectrum LSF's Job Step Manager), ``poe`` (Parallel Environment), ``runjob`` (Blue Gene/Q).

*jsrun* is handed a file of resources (ERF) that names host, hardware threads and GPUs of every rank: it binds exactly as we
placed, on any spread. It counts hosts from 1 in the order of the allocation without the launch node, and hardware threads
``logically``, those of cores that are kept from users left out, as our cores are; the option ``threads_per_core`` tells how
many a core has. Ranks without cores of their own are placed by jsrun itself, in resource sets.

*poe* takes all it needs from variables; it would take options from among the program's arguments otherwise.

*runjob* starts programs on compute nodes that have no shell. So there is no rank script: ranks know their number from MPI
alone, nothing binds them, and all have the same environment.
"""

from __future__ import annotations

from pilotage.launchers.method import Installed, LaunchLine, LaunchRequest, MethodFacts, Step, file_path, refuse
from pilotage.launchers.rank_script import rank_part
from pilotage.launchers.spread import cores_per_rank, gpus_per_rank, require_order, spread_of

_RUNJOB_RANKS = (1, 2, 4, 8, 16, 32, 64)


class JsrunSteps:
    """Steps by ``jslist`` and ``jskill``, which know them by number alone: no name tells whose they are."""

    job_variable = ""
    named = False

    def list_arguments(self, job: str) -> list[str]:
        """Return the command that lists the running steps of the job that it is called in."""
        return ["jslist", "--running"]

    def parse_steps(self, output: str) -> list[Step]:
        """Return the steps in a table whose rows begin with their number; names are empty."""
        words = (line.split() for line in output.splitlines())
        return [Step(row[0], "") for row in words if row and row[0].isdigit()]

    def cancel_arguments(self, job: str, step: str) -> list[str]:
        """Return the command that ends a step."""
        return ["jskill", step]

    def signal_arguments(self, job: str, step: str, name: str) -> list[str]:
        """Return nothing: ``jsrun`` hands signals on."""
        return []


class Jsrun:
    """``jsrun``."""

    facts = MethodFacts(
        name="jsrun",
        commands=("jsrun",),
        summary="IBM Spectrum LSF on Power (Summit, Lassen)",
        rank_variables={"": "PMIX_RANK"},
        ceiling=800,
        ceiling_why="seen on Summit: each needs processes and descriptors of the launch node",
        binds="launcher",
        steps=JsrunSteps(),
        options={
            "threads_per_core": "hardware threads of a core that the job has (its SMT level); 1",
            "smpi": "arguments for Spectrum MPI (--smpiargs), as in -gpu; off for ranks without MPI",
        },
        limits="nodes by their place in the allocation",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        line = [installed.path, *installed.arguments]
        files: dict[str, str] = {}
        if all(slot.cores for slot in request.slots):
            name, path = file_path("jsrun", request, ".erf")
            files[name] = explicit_resources(request, installed.number("threads_per_core") or 1)
            line += ["--erf_input", path]
        else:
            line += self._resource_sets(request)
        if smpi := installed.option("smpi"):
            line += ["--smpiargs", smpi]
        # Ranks would else wait for one that failed.
        line += ["--exit_on_error", "1"]
        ranks = rank_part("jsrun", request, "PMIX_RANK", binds=False)
        return LaunchLine([*line, *ranks.arguments], ranks.environment, {**files, **ranks.files})

    @staticmethod
    def _resource_sets(request: LaunchRequest) -> list[str]:
        spread = spread_of(request)
        require_order("jsrun", spread)
        line = ["--nrs", str(len(request.slots)), "--tasks_per_rs", "1", "--cpu_per_rs", str(cores_per_rank(request))]
        line += ["--gpu_per_rs", str(gpus_per_rank(request)), "--rs_per_host", str(spread.most)]
        if request.memory_mib:
            line += ["--memory_per_rs", str(request.memory_mib)]
        return [*line, "--launch_distribution", "packed", "--bind", "none"]


def explicit_resources(request: LaunchRequest, threads_per_core: int) -> str:
    """Return the explicit resource file of a request, a line for each rank.

    Hardware threads are counted logically: core 3 of a node with four threads a core is 12 to 15. Ranks
    may share a GPU, so resource sets may overlap.
    """
    lines = ["cpu_index_using: logical", "overlapping_rs: allow", "oversubscribe_gpu: allow"]
    for rank, slot in enumerate(request.slots):
        cpus = ",".join([str(core * threads_per_core + thread) for core in slot.cores for thread in range(threads_per_core)])
        gpus = f" ; gpu: {{{','.join(map(str, slot.gpus))}}}" if slot.gpus else ""
        lines.append(f"rank: {rank}: {{ host: {slot.node + 1}; cpu: {{{cpus}}}{gpus} }}")
    return "\n".join(lines) + "\n"


class Poe:
    """``poe``."""

    facts = MethodFacts(
        name="poe",
        commands=("poe",),
        summary="IBM Parallel Environment",
        rank_variables={"": "MP_CHILD"},
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        spread = spread_of(request)
        name, path = file_path("poe", request, ".hosts")
        counted = " ".join([f"{block.name} {block.ranks}" for block in spread.blocks])
        environment = {
            b"MP_PROCS": b"%d" % len(request.slots),
            b"MP_HOSTFILE": path.encode("utf-8", "surrogateescape"),
            # Below LSF it reads this one, which tells of the whole job else.
            b"LSB_MCPU_HOSTS": counted.encode(),
            b"MP_RESD": b"no",
            b"MP_NOARGLIST": b"yes",
            b"MP_TASK_AFFINITY": b"-1",
            b"MP_LABELIO": b"no",
        }
        ranks = rank_part("poe", request, "MP_CHILD")
        line = [installed.path, *installed.arguments, *ranks.arguments]
        unset = (b"MP_NODES", b"MP_TASKS_PER_NODE", b"MP_CMDFILE", b"MP_PGMMODEL", b"MP_RMPOOL", b"MP_NEWJOB")
        return LaunchLine(line, {**environment, **ranks.environment}, {name: spread.line_per_rank(), **ranks.files}, unset)


class Runjob:
    """``runjob``."""

    facts = MethodFacts(
        name="runjob",
        commands=("runjob",),
        summary="IBM Blue Gene/Q",
        uneven=False,
        any_order=False,
        whole_nodes=True,
        binds="nobody",
        options={
            "block": "the booted block of the job (--block), as in COBALT_PARTNAME",
            "corner": "first node of a part of the block (--corner)",
            "shape": "extent of a part of the block (--shape), as in 1x1x2x2x2",
        },
        limits="1, 2, 4, ... 64 ranks on each node; no GPUs; ranks have one environment, no hooks, no binding",
    )

    def render(self, installed: Installed, request: LaunchRequest) -> LaunchLine:
        """Return the line that starts the ranks of the request; see ``LaunchMethod``."""
        spread = spread_of(request)
        require_order("runjob", spread)
        if spread.most not in _RUNJOB_RANKS:
            refuse("runjob", f"starts 1, 2, 4, ... or 64 ranks on a node, and not {spread.most}", "ask for such a number")
        if gpus_per_rank(request):
            refuse("runjob", "starts ranks on nodes without GPUs", "ask for gpus_per_rank=0")
        if request.words:
            refuse("runjob", "has no shell on its nodes that could put in variables", "pass arguments without variables")
        block = installed.option("block")
        if not block:
            refuse("runjob", "needs to know the block of the job", "set its option, block='...'")
        line = [installed.path, *installed.arguments, "--block", block]
        for option in ("corner", "shape"):
            if value := installed.option(option):
                line += [f"--{option}", value]
        common = {
            name: value
            for name, value in request.rank_variables[0].items()
            if all(variables.get(name) == value for variables in request.rank_variables)
        }
        line += ["--np", str(len(request.slots)), "--ranks-per-node", str(spread.most), "--env-all"]
        return LaunchLine([*line, ":", *request.command], common)


JSRUN = Jsrun()
POE = Poe()
RUNJOB = Runjob()
