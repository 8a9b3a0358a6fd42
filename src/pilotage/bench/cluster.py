"""Pilots as jobs of a batch system, against what one would do there without them: ``pilotage bench --platform NAME``.

All is in one place that the nodes see, the folder of sessions. Between a submission and the first task lie stages that several
processes on several machines go through; when each was over is told by the files that they write, so by the clock of the file
system. ``scripts/slurm-cluster`` starts a small Slurm to measure on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

import pilotage as rp
from pilotage.agent.bootstrap import CLAIM_FILE
from pilotage.agent.settings import CONNECTION_FILE
from pilotage.batch.commands import BatchCommands, LocalRunner, write_script
from pilotage.batch.registry import batch_system
from pilotage.bench.functions import null
from pilotage.bench.measure import Row, medians, row
from pilotage.bench.runs import Bench, bench_pilot
from pilotage.client.job_specs import job_spec
from pilotage.client.session_folder import sessions_folder
from pilotage.errors import BackendError, InvalidRequest
from pilotage.platforms import Platform, platform
from pilotage.wire.runner_settings import HOSTS_FILE

NODES = 4
IN_FLIGHT = 32
RANKS = 2
DRAIN_S = 10.0

_RUNTIME_MIN = 20
_LOOK_S = 0.002
_TRUE = "/bin/true"

SHELL_LOOP = 'count=$1 most=$2; shift 2; seq "$count" | xargs -P "$most" -I number "$@"'
"""Runs a command so often, given the number, how many at a time, and the command; fails if one of them does."""
_SAVES = "echo $PILOTAGE_END_TIME >end; trap 'date +%s.%N >told; exit 0' USR1; sleep 1000 & wait"
_STAYS = "trap '' USR1 TERM; sleep 1000 & wait"


@contextmanager
def job_pilot(name: str, **attributes: Any) -> Iterator[Bench]:
    """Give an active pilot on ``NODES`` nodes of the platform ``name``; nothing of it is left.

    Raises:
        InvalidRequest: the platform has no batch system.
    """
    _cluster(name)
    with bench_pilot(
        folder=shared_folder(), **{"resource": name, "cores": None, "nodes": NODES, "runtime": _RUNTIME_MIN, **attributes}
    ) as bench:
        sandbox = Path(bench.pilot.sandbox)
        yield bench
    shutil.rmtree(sandbox, ignore_errors=True)


def _cluster(name: str) -> Platform:
    on = platform(name)
    if on.batch == "local":
        raise InvalidRequest(f"platform {name} has no batch system; name one that has, or leave --platform out")
    return on


def shared_folder() -> Path:
    """Return a folder that all nodes see."""
    folder = sessions_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ----- from submission to the first task ------------------------------------------------------------------------------

STAGES = (
    "the job's id is known",
    "the job's script has started Python",
    "the agent waits for its nodes",
    "hosts run on all nodes",
    "the agent listens",
    "the first task is launched",
    "the first task runs",
)
"""What has happened, in this order, since ``submit_pilots`` was called."""


def start(quick: bool, name: str) -> list[Row]:
    """``submit_pilots`` to the first task running, and what lies between, beside a bare job of as many nodes."""
    rounds = 3 if quick else 9
    starts, bare = [], []
    for _ in range(rounds):
        bare.append(_bare_job_s(name))
        starts.append(stages(name))
    rows = [
        row(
            f"submission of a pilot on {NODES} nodes to its first task running",
            median(each[-1] for each in starts),
            "s",
            baseline=median(bare),
            against="submission of a bare job to its first line",
            target="< 2.5 s",
        )
    ]
    previous = [0.0] * rounds
    for number, stage in enumerate(STAGES):
        passed = [each[number] for each in starts]
        rows.append(row(f"  until {stage}", median(b - a for a, b in zip(previous, passed, strict=True)), "s"))
        previous = passed
    return rows


def stages(name: str) -> list[float]:
    """Return when each stage was over, in seconds since the submission of a pilot."""
    base = Path(tempfile.mkdtemp(prefix="pilotage-bench-", dir=shared_folder()))
    sandbox = base
    try:
        with rp.Session(base=base) as session:
            pilots, tasks = rp.PilotManager(session=session), rp.TaskManager(session=session)
            described = rp.PilotDescription(resource=name, nodes=NODES, runtime=_RUNTIME_MIN)
            began = time.time()
            pilot = pilots.submit_pilots(described)
            sandbox = Path(pilot.sandbox)
            tasks.add_pilots(pilot)
            task = tasks.submit_tasks(rp.TaskDescription(executable=_TRUE))
            while not pilot.job and pilot.state not in rp.FINAL:
                time.sleep(_LOOK_S)
            known = time.time()
            if task.wait() != rp.DONE or task.outcome is None:
                raise BackendError(f"the first task on {name} ended as {task.state}: {task.exception or pilot.reason}")
            files = [CLAIM_FILE, HOSTS_FILE, "host.*.err", CONNECTION_FILE]
            passed = [known, *(_written(sandbox, file) for file in files), task.outcome.times.launched]
            return [at - began for at in (*passed, task.outcome.times.started)]
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(sandbox, ignore_errors=True)


def _written(folder: Path, pattern: str) -> float:
    """Return when the last of these files was there, in seconds since the epoch."""
    return max(path.stat().st_mtime for path in folder.glob(pattern))


def _bare_job_s(name: str) -> float:
    """Return how long a job takes from its submission to its first line, one that asks for what a pilot asks for."""
    on = _cluster(name)
    commands = BatchCommands(batch_system(on.batch), LocalRunner())
    with tempfile.TemporaryDirectory(prefix="pilotage-bench-", dir=shared_folder()) as base:
        folder = Path(base)
        described = rp.PilotDescription(resource=name, nodes=NODES, runtime=_RUNTIME_MIN)
        mark, script = folder / "mark", folder / "job.sh"
        spec = job_spec("pilotage-bench", on, described, folder)
        command = ("/bin/sh", "-c", ': >"$1"', "sh", str(mark))
        write_script(commands.system, msgspec.structs.replace(spec, command=command), script)
        began = time.time()
        job = commands.submit(str(script))
        while not (status := commands.statuses([job])[job]).state.is_final:
            time.sleep(0.1)
        if not mark.exists():
            raise BackendError(f"a bare job on {name} has not run: {status.state.value} {status.reason}".strip())
        return mark.stat().st_mtime - began


# ----- rates ----------------------------------------------------------------------------------------------------------


def rates(quick: bool, name: str) -> list[Row]:
    """Null executables and functions of one core each, against a pilot of this machine that has as many cores on paper."""
    count, rounds = (1000, 2) if quick else (10_000, 3)
    rows = []
    with job_pilot(name) as ours:
        cores = [node.shape.cores for node in ours.pilot.nodes]
        emulated = {"resource": "local.emulated", "cores": None, "nodes": len(cores), "cores_per_node": cores[0]}
        with bench_pilot(folder=shared_folder(), **emulated) as local:
            for kind, described in (
                ("executables", {"executable": _TRUE}),
                ("functions", {"mode": rp.TASK_FUNCTION, "function": null}),
            ):
                _rate(ours, described, 2 * sum(cores))
                _rate(local, described, 2 * sum(cores))
                ours_rate = partial(_rate, ours, described, count)
                reached, baseline = medians(rounds, ours_rate, partial(_rate, local, described, count))
                rows.append(
                    row(
                        f"{count:,} null {kind} on {len(cores)} nodes with {cores[0]} cores each",
                        reached,
                        "tasks/s",
                        baseline=baseline,
                        against="a pilot on this machine with as many",
                        target="ratio >= 0.7",
                    )
                )
        steps = len(list(Path(ours.pilot.sandbox).glob("hosts/step.*")))
    return [*rows, row("  steps of the launcher for all of them", steps, "", target="1")]


def launches(quick: bool, name: str) -> list[Row]:
    """Null tasks of two ranks on two nodes by ``srun``, against a shell loop that keeps ``IN_FLIGHT`` such sruns going."""
    on = _cluster(name)
    if "srun" not in on.launch_methods:
        raise InvalidRequest(f"platform {name} does not launch by srun, with which this is compared")
    count, rounds = (64, 2) if quick else (320, 3)
    # As a step of ours: where we do not bind ranks, as on virtual nodes, it gets cores of its own from Slurm.
    apart = "--exact --cpus-per-task=1 --cpu-bind=cores" if on.emulated else "--overlap --cpu-bind=none"
    with job_pilot(name) as bench:
        described = {"executable": _TRUE, "ranks": RANKS, "ranks_per_node": 1, "launch_method": "srun"}
        options = f"--nodes={RANKS} --ntasks={RANKS} --ntasks-per-node=1 --mem=0 --gres=none --quiet {apart}"
        bare = ["srun", f"--jobid={bench.pilot.job}", *options.split(), _TRUE]

        def loop() -> float:
            began = time.perf_counter()
            command = ["sh", "-c", SHELL_LOOP, "sh", str(count), str(IN_FLIGHT), *bare]
            if subprocess.run(command, env=_outside_of_jobs()).returncode:
                raise BackendError(f"{' '.join(bare)} failed outside of Pilotage")
            return count / (time.perf_counter() - began)

        _rate(bench, described, 1)
        reached, baseline = medians(rounds, partial(_rate, bench, described, count), loop)
    what = f"null tasks of {RANKS} ranks on {RANKS} nodes by srun, {IN_FLIGHT} at a time"
    against = "a shell loop that keeps as many sruns going in the same job"
    return [row(what, reached, "tasks/s", baseline=baseline, against=against, target="ratio >= 1")]


def _rate(bench: Bench, described: dict[str, Any], count: int) -> float:
    """Return tasks per second, from the submission of so many to the last outcome."""
    descriptions = [rp.TaskDescription(described) for _ in range(count)]
    began = time.perf_counter()
    bench.run(descriptions)
    return count / (time.perf_counter() - began)


def _outside_of_jobs() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name.startswith("SLURM_CONF")}


# ----- the end of the runtime -----------------------------------------------------------------------------------------


def drain(quick: bool, name: str) -> list[Row]:
    """A pilot at the end of its time: half of what runs saves and ends when it is told, half has to be killed, others wait."""
    runtime_min = 0.4 if quick else 0.75
    with job_pilot(name, runtime=runtime_min, drain_s=DRAIN_S, checkpoint_signal="USR1") as bench:
        cores = sum(node.shape.cores for node in bench.pilot.nodes)
        lines = [_SAVES, _STAYS] * (cores // 2) + [_SAVES] * cores
        described = [rp.TaskDescription(executable="/bin/sh", arguments=["-c", line], grace=1.0) for line in lines]
        tasks = bench.tasks.submit_tasks(described)
        bench.tasks.wait_tasks()
        tasks_over = time.time()
        bench.pilot.wait()
        pilot_over = time.time()
        told, ends = _notes(tasks, "told"), _notes(tasks, "end")
        if not told or len(told) != len(ends):
            raise BackendError(f"of {len(ends)} tasks that save {len(told)} were told of the pilot's end")
        saved = max(task.outcome.times.ended for task in tasks if task.state == rp.DONE and task.outcome is not None)
    begin = ends[0] - DRAIN_S
    within = partial(row, unit="s", baseline=DRAIN_S, against="drain_s", target="ratio <= 1")
    return [
        row(f"beginning of the drain until {len(told)} tasks have been told to save", max(told) - begin, "s"),
        row("  until these have ended", saved - begin, "s"),
        within("  until all tasks have ended, others by force", tasks_over - begin),
        within("  until the pilot has ended", pilot_over - begin),
    ]


def _notes(tasks: list[rp.Task], file: str) -> list[float]:
    """Return what the tasks have written into their files of this name."""
    paths = (Path(task.sandbox) / file for task in tasks if task.sandbox)
    return [float(path.read_text()) for path in paths if path.exists()]
