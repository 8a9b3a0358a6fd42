"""Rounds on a cluster: ``python -m tests.faults.cluster_rounds --rounds N [--seed S]``, where there is Slurm.

As ``rounds``, with a pilot of several nodes that is a job: hosts, the step that started them and the controller are struck,
too, and the job is queued again by its operator.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from pilotage.system.processes import started_ticks

from .jobs import Plan, mix
from .rounds import RoundResult
from .stage import LOOK_S, MODULES, REPOSITORY, Failed, Stage
from .witness import Harm

sys.path.insert(0, str(REPOSITORY / "tests" / "slurm"))

from cluster_books import NODE_CORES
from slurm_cluster import SlurmCluster
from slurm_platform import platform_variables

NODES = 3
ROUND_S = 180.0
ROLES = {**MODULES, "host": b"pilotage.nodehost.main", "step": b"--job-name=pilotage-hosts"}
STROKES = ("client", "agent", "host", "spawner", "worker", "step", "bootstrap", "controller", "requeue", "scancel step")


class ClusterStage(Stage):
    """A campaign on a pilot of a cluster: jobs begin without the client's variables, but with its folder."""

    def processes(self) -> dict[int, bytes]:
        """Return all living processes of the campaign, those of its jobs, too, with their command lines."""
        mark, found = os.fsencode(self.folder), {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                environment = Path(f"/proc/{entry}/environ").read_bytes()
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if mark in environment + command and started_ticks(int(entry)) is not None:
                found[int(entry)] = command
        return found

    def pids(self, role: str) -> list[int]:
        """Return the processes of a role; see ``ROLES``."""
        if role == "client":
            return super().pids(role)
        return sorted(pid for pid, command in self.processes().items() if ROLES[role] in command)


def cluster_in(folder: Path) -> SlurmCluster:
    """Return a cluster for rounds, to be started."""
    return SlurmCluster(folder, nodes=NODES + 1, gpus=0)


def strike(stage: ClusterStage, cluster: SlurmCluster, what: str, random_: random.Random, killed: Counter[str]) -> None:
    """Let a stroke fall."""
    jobs = [job for job, state in cluster.jobs().items() if state == "RUNNING"]
    if what == "controller":
        cluster.restart_controller()
    elif what == "requeue":
        if not jobs or cluster.run("scontrol", "requeue", jobs[0]).returncode:
            return
    elif what == "scancel step":
        steps = [step for step, name in cluster.steps(jobs[0]).items() if "pilotage-hosts" in name] if jobs else []
        if not steps:
            return
        cluster.run("scancel", steps[0])
    elif not stage.kill(what, random_.choice):
        return
    stage.tell(what)
    killed[what] += 1


def harm_of(killed: Counter[str]) -> Harm:
    """Return what these strokes may cost."""
    return Harm(
        runner=any(killed[what] for what in ("spawner", "worker", "host", "step", "scancel step", "requeue", "bootstrap")),
        pilot=bool(killed["bootstrap"] or killed["requeue"]),
    )


def play(seed: int, cluster: SlurmCluster, count: int | None = None) -> RoundResult:
    """Play one round. Raises ``Failed`` with the story if anything is not as promised."""
    random_ = random.Random(seed)
    pilot = {"resource": "test.cluster", "nodes": NODES, "runtime": 10}
    # Steps of several ranks are bound to cores by Slurm, and its nodes here have more than the machine.
    jobs = [msgspec.structs.replace(job, ranks=1) for job in mix(random_, count or random_.randint(100, 300))]
    plan = Plan(f"round.{seed}", jobs, pilot, batch=50, patience_s=ROUND_S)
    began = time.monotonic()
    killed: Counter[str] = Counter()
    with ClusterStage(plan, environment=cluster.variables) as stage:
        stage.environment.update(platform_variables(cluster, stage.folder, cores=NODE_CORES, gpus=0))
        stage.start_client()
        stage.until(lambda: stage.witnessed() or not stage.pids("client"), "the first task has begun")
        for _ in range(random_.choice((1, 1, 2, 3))):
            due, what = time.monotonic() + random_.uniform(0.0, 1.5) ** 2, random_.choice(STROKES)
            while time.monotonic() < due and stage.pids("client"):
                time.sleep(LOOK_S)
            if not stage.pids("client"):
                break
            strike(stage, cluster, what, random_, killed)
            if not stage.pids("client") and stage.client is not None and stage.client.returncode == -signal.SIGKILL:
                stage.start_client()
        stage.finish(ROUND_S)
        reports = stage.check(harm_of(killed))
        stage.until(lambda: not cluster.jobs(), "no job was left")
    return RoundResult(killed, Counter(report.ending for report in reports), time.monotonic() - began)


def main() -> None:
    """Play rounds on one cluster, one line each; the status is that of the worst one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the others follow")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"{options.rounds} rounds from seed {first}", flush=True)
    failed = []
    with (
        tempfile.TemporaryDirectory(prefix="pc-") as folder,
        SlurmCluster(Path(folder) / "c", nodes=NODES + 1, gpus=0) as cluster,
    ):
        for seed in range(first, first + options.rounds):
            try:
                result = play(seed, cluster)
            except Failed as error:
                failed.append(seed)
                print(f"seed {seed}: FAILED\n{error}\n", flush=True)
                cluster.cancel_all()
                continue
            struck = ", ".join(f"{what} {times}" for what, times in sorted(result.killed.items())) or "nobody in time"
            endings = ", ".join(f"{ending} {times}" for ending, times in result.endings.most_common())
            print(f"seed {seed}: {result.seconds:5.1f} s; struck: {struck}; {endings}", flush=True)
    print(f"{options.rounds - len(failed)} of {options.rounds} rounds right")
    if failed:
        sys.exit(f"failed seeds: {failed}")


if __name__ == "__main__":
    main()
